"""From the first model to the next, with real stages, on a synthetic archive that grows."""

import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from idc.core.files import load_json
from idc.runs.workspace import WORKSPACES, override_params, stage_environment
from idc.synthetic import ArchivePlan, create_archive
from tests.small_run import SMALL

ROOT = Path(__file__).parents[2]
PARTS = (
    "src/idc", "flows", "tasks", "data/case_lists", "data/label_overrides.csv", ".dvc/config",
    ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml",
)  # fmt: skip
OVERRIDES = SMALL | {
    "split.fractions": {"val": 0.2, "gate": 0.3, "test": 0.2},
    "promotion.first_balanced_accuracy": 0.0,
    "drift.max_shift": 0.001,  # so that drift is there to be told of
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Project:
    """A copy of the project under git, with its own cache, store and Prefect home."""

    first: str
    told_first: list[str]

    def __init__(self, folder: Path, archives: dict[str, Path], notify_url: str) -> None:
        self.folder, self._archives = folder, archives
        self.subsets: dict[str, dict[str, str]] = {}
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / part, folder / part)
        override_params(folder / "params.yaml", OVERRIDES)
        self._environment = stage_environment(folder) | {
            "PREFECT_HOME": str(folder.parent / "prefect"),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
            "IDC_NOTIFY_URL": notify_url,
        }
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            self._environment.pop(name, None)
        for command in (
            ("init", "--quiet"),
            ("add", "."),
            ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "project"),
        ):
            self.git(*command)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def run(self, module: str, *arguments: str, expect: int = 0) -> str:
        return self.python("-m", module, *arguments, expect=expect)

    def python(self, *arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder, env=self._environment, capture_output=True, text=True,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == expect, f"{arguments} exited {done.returncode}: {output[-3000:]}"
        return output

    def retrain(self, run_name: str) -> str:
        """Retrain as a deployment does: in a workspace, in which `results` then lie."""
        before = set((self.folder / WORKSPACES).glob("*-????????"))
        output = self.run("idc", "retrain", "--set", f"publish.run_name={run_name}")
        (self.results,) = set((self.folder / WORKSPACES).glob("*-????????")) - before
        lines = (self.results / "data/case_subsets.csv").read_text().splitlines()[2:]
        self.subsets[run_name] = dict(line.split(",") for line in lines)
        return output

    def bring(self, name: str) -> None:
        (self.folder / "data/raw").mkdir(exist_ok=True)
        shutil.copy2(self._archives[name], self.folder / f"data/raw/{name}.zip")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Two zips of different cases."""
    folder = tmp_path_factory.mktemp("archives")
    create_archive(folder / "whole.zip", ArchivePlan(num_cases=32, patches_per_case=24, seed=1))
    made = {name: folder / f"{name}.zip" for name in ("first", "second")}
    with zipfile.ZipFile(folder / "whole.zip") as whole:
        cases = sorted({Path(name).name.split("_")[0] for name in whole.namelist()})
        for number, path in enumerate(made.values()):
            with zipfile.ZipFile(path, "w") as part:
                for name in whole.namelist():
                    if Path(name).name.split("_")[0] in cases[16 * number : 16 * (number + 1)]:
                        part.writestr(name, whole.read(name))
    return made


class Receiver(ThreadingHTTPServer):
    got: list[dict[str, str]]


@pytest.fixture(scope="module")
def told():
    """What a receiver on loopback was told, and its address."""

    class Handler(BaseHTTPRequestHandler):
        server: Receiver

        def do_POST(self):
            self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = Receiver(("127.0.0.1", 0), Handler)
    server.got = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def project(tmp_path_factory, archives, told):
    """A project whose first model is the champion."""
    folder = tmp_path_factory.mktemp("retraining") / "project"
    project = Project(folder, archives, f"http://127.0.0.1:{told.server_port}/")
    project.bring("first")
    project.first = project.retrain("first")
    project.told_first = [message["event"] for message in told.got]
    return project


def test_retraining_when_there_is_no_model_then_trains_one_and_promotes_it(project):
    assert "version 1 is the champion now" in project.first
    assert project.told_first == ["promotion"]
    assert load_json(project.results / "reports/decision.json")["champion"] is None


def test_retraining_when_nothing_is_new_then_completes_saying_why(project):
    output = project.run("idc", "retrain")
    assert "nothing new: data/raw is what idc-fusion version 1 was made from" in output
    assert "Running stage" not in output


def test_lineage_when_asked_then_prints_the_whole_chain(project):
    lines = project.run("idc", "lineage", "1").splitlines()
    chain = {line[:14].strip(): line[15:] for line in lines}
    lock = (project.results / "dvc.lock").read_text()
    md5 = chain["raw archive"].split()[1]
    assert f"md5: {md5}" in lock
    assert "data/raw holds it" in chain["raw archive"]
    assert chain["git commit"] == project.git("rev-parse", "HEAD")
    assert "champion" in chain["model version"]
    assert chain["decision"].startswith("promote 1")


def test_reproduce_when_all_is_there_then_every_bit_agrees(project):
    output = project.run("idc", "reproduce", "1")
    assert "every bit agrees" in output
    assert "version 1 is reproduced" in output


def test_retraining_when_an_archive_joins_then_tells_of_drift_compares_and_decides(project, told):
    told.got.clear()
    project.bring("second")
    output = project.retrain("second")
    decision = load_json(project.results / "reports/decision.json")
    assert decision["champion"]["version"] == "1"
    assert decision["challenger"]["version"] == "2"
    assert decision["champion"]["gate_digest"] == decision["challenger"]["gate_digest"]
    verdict = "is the champion now" if decision["promote"] else "is kept as challenger"
    assert f"version 2 {verdict}" in output
    assert told.got[0]["event"] == "drift"
    assert "16 new, 0 changed" in told.got[0]["text"]
    first, second = project.subsets["first"], project.subsets["second"]
    assert (len(first), len(second)) == (16, 32)
    assert first.items() <= second.items()  # what the first model has learnt stays on its subset


def test_reproduce_when_the_archive_is_another_by_now_then_refuses_naming_its_md5(project):
    output = project.run("idc", "reproduce", "1", expect=2)
    assert "the raw archive with md5" in output
    assert "is missing" in output


def test_retraining_when_the_archive_is_damaged_then_fails_and_tells_why(project, told):
    told.got.clear()
    (project.folder / "data/raw/third.zip").write_bytes(os.urandom(200))
    project.run("idc", "retrain", expect=1)
    (message,) = told.got
    assert message["event"] == "failure"
    assert "third.zip" in message["text"]
