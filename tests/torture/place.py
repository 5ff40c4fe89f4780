"""Where a trial happens: a finished project as it was before one of its stages.

The store holds absolute paths, so all trials happen in one folder, whose undisturbed state is kept
beside it. Restored is what the stages before left, and of the stages after what DVC's cache holds:
they come back from it if, and only if, what they read has the bytes of the undisturbed run.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from idc.runs.workspace import copy_project, stage_environment
from idc.stages import STAGES
from tests.small_run import SMALL

ROOT = Path(__file__).parents[2]
# with worker processes in ingest, so that there are some to kill
OVERRIDES = SMALL | {"runtime.num_processes": 2}
MARK = "IDC_TORTURE"
RUNNING = re.compile(r"Running stage '(\w+)':")
STORE = "mlruns/mlflow.db"

_NOT_INHERITED = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME")


@dataclass(frozen=True)
class Place:
    """The folders of a campaign."""

    folder: Path

    @property
    def disk(self) -> Path:
        """What a file system of its own may be mounted on."""
        return self.folder / "disk"

    @property
    def project(self) -> Path:
        return self.disk / "project"

    @property
    def temporary(self) -> Path:
        return self.disk / "tmp"

    @property
    def reference(self) -> Path:
        """The project after an undisturbed run."""
        return self.folder / "reference"

    @property
    def caches(self) -> Path:
        """The file of what an undisturbed run leaves among the temporary files."""
        return self.folder / "caches.txt"

    def environment(self, mark: str) -> dict[str, str]:
        """Return the environment of a trial's processes, which its mark tells from all others."""
        environment = stage_environment(self.project)
        for name in _NOT_INHERITED:
            environment.pop(name, None)
        own = {
            MARK: mark,
            "TMPDIR": str(self.temporary),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "OMP_NUM_THREADS": "1",
        }
        return environment | own

    def start(self, mark: str, log: Path, *command: str, **more: str) -> subprocess.Popen[bytes]:
        """Start `python -m COMMAND …` in the project."""
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.project, env=self.environment(mark) | more, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def run(self, mark: str, log: Path, *command: str, **more: str) -> int:
        return self.start(mark, log, *command, **more).wait()

    def make_reference(self) -> dict[str, float]:
        """Run the pipeline undisturbed and keep what it left; return the seconds of each stage."""
        empty(self.disk)
        self.temporary.mkdir()
        copy_project(ROOT, self.project, OVERRIDES)
        log = self.folder / "reference.log"
        log.write_bytes(b"")
        size = ("--cases", "16", "--patches-per-case", "16")
        assert self.run("reference", log, "idc", "synth", "data/raw/s.zip", *size) == 0
        self._make_tables()
        shutil.copytree(self.project / "mlruns", self.folder / "store_empty", dirs_exist_ok=True)
        seconds = self._run_timed(log)
        # torch's own cache, which every training makes and none removes
        self.caches.write_text("\n".join(path.name for path in self.temporary.iterdir()))
        empty(self.reference)
        copy(self.project, self.reference)
        return seconds

    def _make_tables(self) -> None:
        """Make a store with its experiment: its tables take longer than any stage, made once.

        A server that made the experiment would keep its files in another place.
        """
        make = (
            "from pathlib import Path; from idc.core.config import load_params; "
            "from idc.tracking.connection import connect, ensure_experiment; root = Path.cwd(); "
            "name = load_params(root / 'params.yaml').publish.experiment; "
            "ensure_experiment(connect(root), name, root)"
        )
        environment = self.environment("reference")
        subprocess.run([sys.executable, "-c", make], cwd=self.project, env=environment, check=True)

    def _run_timed(self, log: Path) -> dict[str, float]:
        begun: dict[str, float] = {}
        process = self.start("reference", log, "dvc", "repro")
        while process.poll() is None:
            for stage in stages_begun(log):
                if stage not in begun:
                    begun[stage] = time.monotonic()
                    if stage == "baselines":  # the training is told and DVC has recorded it
                        shutil.copytree(
                            self.project / "mlruns", self.folder / "store_trained",
                            dirs_exist_ok=True,
                        )  # fmt: skip
            time.sleep(0.05)
        assert process.returncode == 0, log.read_text()
        ends = [*list(begun.values())[1:], time.monotonic()]
        return {stage: end - start for (stage, start), end in zip(begun.items(), ends, strict=True)}

    def restore(self, stage: str) -> None:
        """Bring the project to the state before `stage`."""
        empty(self.disk)
        self.temporary.mkdir()
        copy(self.reference, self.project)
        later = STAGES[STAGES.index(stage) :]
        lock = self.project / "dvc.lock"
        content = yaml.safe_load(lock.read_text())
        outputs = {name: content["stages"][name]["outs"] for name in later}
        for name in later:
            for output in outputs[name]:
                _remove(self.project / output["path"])
            del content["stages"][name]
        lock.write_text(yaml.safe_dump(content, sort_keys=False))
        if not content["stages"]:
            lock.unlink()
        self._forget_in_cache(stage, outputs[stage])
        shutil.rmtree(self.project / "mlruns")
        trained = STAGES.index(stage) > STAGES.index("train")
        source = self.folder / ("store_trained" if trained else "store_empty")
        shutil.copytree(source, self.project / "mlruns")

    def _forget_in_cache(self, stage: str, outputs: list[dict[str, Any]]) -> None:
        cache = self.project / ".dvc/cache"
        for entry in cache.glob("runs/*/*/*"):
            if yaml.safe_load(entry.read_text())["cmd"] == f"python -m idc {stage}":
                shutil.rmtree(entry.parent)  # left empty, it would make DVC fail
        for output in outputs:
            object_ = cache / "files/md5" / output["md5"][:2] / output["md5"][2:]
            if output["md5"].endswith(".dir") and object_.exists():
                for item in yaml.safe_load(object_.read_text()):
                    _remove(object_.parents[1] / item["md5"][:2] / item["md5"][2:])
            _remove(object_)


def stages_begun(log: Path) -> list[str]:
    """Return the stages that a run has begun so far, as its log tells."""
    return RUNNING.findall(log.read_text(errors="replace"))


def list_processes(mark: str) -> Iterator[psutil.Process]:
    """Yield the living processes that carry the mark."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                yield process
        except (psutil.Error, OSError):  # another user's, a zombie, or gone
            continue


def copy(source: Path, target: Path) -> None:
    """Copy a folder; hard links between its files stay, as DVC made them."""
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


def empty(folder: Path) -> None:
    """Make the folder, or remove what is in it: it may be where something is mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in folder.iterdir():
        _remove(item)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
