"""`make shown`: on the synthetic archive, show that the whole thing holds together.

One line per claim, PASS or FAIL; exit 1 when one fails. Each claim runs the real commands.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

from idc.runs.workspace import copy_project, stage_environment
from idc.stages import STAGES

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable
SMALL = {
    "sample.num_patches": 240,
    "sample.allow_fewer": True,
    "split.fractions": {"val": 0.2, "gate": 0.15, "test": 0.25},
    "model.pretrained": "none",
    "model.size_px": 32,
    "train.epochs": 1,
    "explain.num_reference": 6,
    "explain.num_per_group": 2,
    "explain.scores.num_steps": 2,
    "explain.scores.num_mosaics": 2,
    "explain.scores.num_sanity_patches": 2,
    "evaluate.num_replicates": 200,
}
verdicts: list[bool] = []


def claim(what: str, show: Callable[[], object]) -> None:
    start = time.monotonic()
    try:
        show()
        reason = ""
    except Exception as error:  # a claim may fail in any way; the others are still shown
        reason = f": {type(error).__name__} {str(error)[-600:]}"
    verdicts.append(not reason)
    verdict = "FAIL" if reason else "PASS"
    print(f"{verdict} {what} ({time.monotonic() - start:.0f} s){reason}", flush=True)


def run(command: list[str], folder: Path, environment: dict[str, str], *, expect: int = 0) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    output = done.stdout + done.stderr
    assert done.returncode == expect, f"{command[1:]} exited {done.returncode}: {output[-1500:]}"
    return output


class Workspace:
    """A small copy of the project with its own cache, store and Prefect home."""

    def __init__(self, folder: Path, overrides: dict[str, object] = SMALL) -> None:
        self.folder = copy_project(ROOT, folder, overrides)
        self.environment = stage_environment(self.folder)
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            self.environment.pop(name, None)
        self.environment["PREFECT_HOME"] = str(folder / ".prefect")
        self.idc("synth", "data/raw/synthetic.zip", "--cases", "16", "--patches-per-case", "30")

    def dvc(self, *arguments: str) -> str:
        return run([PYTHON, "-m", "dvc", *arguments], self.folder, self.environment)

    def idc(self, *arguments: str) -> str:
        return run([PYTHON, "-m", "idc", *arguments], self.folder, self.environment)

    def python(self, code: str) -> str:
        return run([PYTHON, "-c", code], self.folder, self.environment)

    def published(self) -> dict[str, str]:
        return json.loads((self.folder / "reports/published.json").read_text())

    def num_runs(self) -> int:
        return int(
            self.python(
                "import mlflow; from pathlib import Path;"
                "from idc.tracking.connection import tracking_uri;"
                "mlflow.set_tracking_uri(tracking_uri(Path.cwd()));"
                "print(len(mlflow.search_runs(search_all_experiments=True)))"
            ).split()[-1]
        )


def set_param(folder: Path, section: str, key: str, value: object) -> None:
    path = folder / "params.yaml"
    content = yaml.safe_load(path.read_text())
    content[section][key] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def digest_outputs(folder: Path) -> dict[str, str]:
    places = ("data", "models", "reports")
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for place in places
        for path in sorted((folder / place).rglob("*"))
        if path.is_file() and "raw" not in path.parts and path.name != "published.json"
    }


def show_demo(scratch: Path) -> None:
    """In an exported tree without git, with this environment."""
    tree = scratch / "exported"
    tree.mkdir()
    tracked = run(["git", "ls-files"], ROOT, dict(os.environ)).splitlines()
    for name in tracked:
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    venv = str(Path(PYTHON).parents[1])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))}
    started = time.monotonic()
    output = run(["make", "demo", f"VENV={venv}"], tree, environment)
    print("\n".join(output.splitlines()[-3:]), f"({time.monotonic() - started:.0f} s)")
    assert (tree / ".workspaces/demo/reports/index.html").exists()


def show_repro_then_flow(space: Workspace) -> None:
    space.dvc("repro")
    assert "didn't change, skipping" in space.dvc("repro") or "up to date" in space.dvc("repro")
    before = space.published(), space.num_runs()
    output = run([PYTHON, "-m", "flows.pipeline"], space.folder, space.environment)
    for stage in STAGES:
        assert f"Stage '{stage}' didn't change, skipping" in output, f"{stage} ran again"
    assert (space.published(), space.num_runs()) == before, "publish changed something"
    assert "up to date" in space.dvc("status")


def show_changed_parameter(space: Workspace) -> None:
    first = space.published()
    set_param(space.folder, "evaluate", "threshold_rule", "f1")
    output = space.dvc("repro")
    assert "Running stage 'evaluate'" in output
    assert "Running stage 'train'" not in output
    second = space.published()
    assert second["run_id"] != first["run_id"]
    assert space.num_runs() == 2
    set_param(space.folder, "evaluate", "threshold_rule", "youden")
    space.dvc("repro")
    assert space.published()["run_id"] == first["run_id"]
    assert space.num_runs() == 2


def show_equal_bytes(space: Workspace, scratch: Path) -> None:
    other = Workspace(scratch / "again")
    for stage in STAGES[:-1]:
        other.idc(stage)
    ours, theirs = digest_outputs(space.folder), digest_outputs(other.folder)
    assert ours == theirs, sorted(k for k in ours if ours[k] != theirs.get(k))
    assert "models/fusion/model.safetensors" in ours
    shutil.rmtree(other.folder)


def show_plot_edit(space: Workspace) -> None:
    module = space.folder / "src/idc/figures/curves.py"
    module.write_text(module.read_text() + "\n# edited\n")
    stale = space.dvc("status")
    shutil.copy2(ROOT / "src/idc/figures/curves.py", module)
    assert "report:" in stale
    assert "train:" not in stale


def show_run_content(space: Workspace) -> None:
    found = json.loads(
        space.python(
            "import json, mlflow; from pathlib import Path;"
            "from idc.tracking.connection import tracking_uri; from idc.core.files import "
            "load_json;mlflow.set_tracking_uri(tracking_uri(Path.cwd()));"
            "run_id = load_json(Path('reports/published.json'))['run_id'];"
            "c = mlflow.MlflowClient(); r = c.get_run(run_id);"
            "print(json.dumps({'params': r.data.params, 'metrics': r.data.metrics,"
            "'tags': r.data.tags, 'artifacts': [a.path for a in c.list_artifacts(run_id)],"
            "'inputs': [i.dataset.digest for i in r.inputs.dataset_inputs],"
            "'epochs': len(c.get_metric_history(run_id, 'val/epoch_auroc'))}))"
        ).splitlines()[-1]
    )
    lock = yaml.safe_load((space.folder / "dvc.lock").read_text())["stages"]
    raw = next(dep["md5"] for dep in lock["ingest"]["deps"] if dep["path"] == "data/raw")
    manifest = lock["sample"]["outs"][0]["md5"]
    assert sorted(found["inputs"]) == sorted([raw, manifest])
    assert found["params"]["model.size_px"] == "32"
    wanted_metrics = {
        "class_weights/0", "class_weights/1", "test/auroc_low", "leakage/num_shared_cases",
    }  # fmt: skip
    assert wanted_metrics <= set(found["metrics"])
    assert found["tags"]["git_commit"] == "none"
    assert found["epochs"] == 1
    wanted = {"params.yaml", "dvc.lock", "plots", "explain", "index.html", "model_card.md"}
    assert wanted <= set(found["artifacts"]), found["artifacts"]


def show_served_model(space: Workspace) -> None:
    with zipfile.ZipFile(space.folder / "data/raw/synthetic.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith(".png"))
        (space.folder / "patch.png").write_bytes(archive.read(name))
    output = space.python(
        "import mlflow, pandas as pd; from pathlib import Path;"
        "from idc.tracking.connection import tracking_uri;"
        "mlflow.set_tracking_uri(tracking_uri(Path.cwd()));"
        "m = mlflow.pyfunc.load_model('models:/idc-fusion@challenger');"
        "png = Path('patch.png').read_bytes();"
        "t = m.predict(pd.DataFrame({'image': [png, png, png]}));"
        "assert list(t.columns) == ['probability', 'prediction'] and len(t) == 3;"
        "assert t['probability'].between(0, 1).all() and t['prediction'].isin([0, 1]).all();"
        "print('scored')"
    )
    assert "scored" in output


def show_wiped_store(space: Workspace) -> None:
    shutil.rmtree(space.folder / "mlruns")
    space.idc("publish")
    assert space.num_runs() == 1
    show_run_content(space)
    show_served_model(space)


def show_deployment(scratch: Path) -> None:
    """A local server, pool and worker; then a run cancelled while it trains."""
    space = Workspace(scratch / "served")
    environment = space.environment | {"PREFECT_API_URL": "http://127.0.0.1:4211/api"}

    def prefect(*arguments: str) -> list[str]:
        return [PYTHON, "-m", "prefect", "--no-prompt", *arguments]

    started = [
        subprocess.Popen(
            prefect("server", "start", "--host", "127.0.0.1", "--port", "4211"),
            cwd=space.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        )
    ]  # fmt: skip
    try:
        wait_until(lambda: answers("http://127.0.0.1:4211/api/health"), 90, "Prefect server")
        shutil.copy2(ROOT / "prefect.yaml", space.folder)
        run(prefect("work-pool", "create", "idc", "--type", "process"), space.folder, environment)
        run(prefect("deploy", "--all"), space.folder, environment)
        started.append(
            subprocess.Popen(
                prefect("worker", "start", "--pool", "idc"),
                cwd=space.folder, env=environment,
                stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
        claim(
            "`prefect deployment run pipeline/local --watch` exits 0",
            lambda: run(
                prefect("deployment", "run", "pipeline/local", "--watch"), space.folder, environment
            ),
        )
        claim(
            "a flow cancelled in mid-training leaves no process",
            lambda: show_cancellation(space, environment, prefect),
        )
    finally:
        for process in reversed(started):
            stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a service; a worker on a busy machine may take longer than anybody wants to wait."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def show_cancellation(
    space: Workspace, environment: dict[str, str], prefect: Callable[..., list[str]]
) -> None:
    set_param(space.folder, "train", "epochs", 50)
    set_param(space.folder, "train", "patience", 50)
    output = run(prefect("deployment", "run", "pipeline/local"), space.folder, environment)
    run_id = next(line.split("UUID:")[1].strip() for line in output.splitlines() if "UUID:" in line)
    wait_until(lambda: bool(trainings(space.folder)), 120, "the training")
    time.sleep(5)
    run(prefect("flow-run", "cancel", run_id), space.folder, environment)
    wait_until(lambda: not trainings(space.folder), 60, "the end of the training")


def trainings(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = " ".join(process.info["cmdline"] or [])
        here = str(process.info["cwd"] or "").startswith(str(folder))
        if here and ("idc train" in command or "dvc repro" in command):
            found.append(process.pid)
    return found


def answers(url: str) -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def wait_until(holds: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s:.0f} s"
        time.sleep(1)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="idc-shown-") as name:
        scratch = Path(name).resolve()
        space = Workspace(scratch / "small")
        claim(
            "`dvc repro` twice, then the flow: nothing to do, `dvc status` clean",
            lambda: show_repro_then_flow(space),
        )
        claim("the MLflow run holds everything", lambda: show_run_content(space))
        claim("the registered model scores raw PNG bytes", lambda: show_served_model(space))
        claim(
            "one `evaluate` parameter changed and back: no training, a second run, the first again",
            lambda: show_changed_parameter(space),
        )
        claim("a plot module edited: training not stale", lambda: show_plot_edit(space))
        claim(
            "every stage but publish twice: equal bytes", lambda: show_equal_bytes(space, scratch)
        )
        claim("a wiped store and `idc publish`: all is back", lambda: show_wiped_store(space))
        claim("server, pool and worker start", lambda: show_deployment(scratch))
        claim("`make demo` in an exported tree without git", lambda: show_demo(scratch))
    print(f"{sum(verdicts)} passed, {len(verdicts) - sum(verdicts)} failed")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
