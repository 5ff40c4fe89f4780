"""The demo: the pipeline on synthetic data, in a copy of the project that owns all it touches.

`make demo` runs it: no patient data, no network, no server of yours is reached.
"""

import subprocess
import sys
from pathlib import Path

from idc.core.files import load_json
from idc.core.layout import METRICS, RAW, REPORT_PAGE
from idc.runs.workspace import WORKSPACES, copy_project, load_overrides, stage_environment
from tasks.notify import BLOCK_VARIABLE, URL_VARIABLE

_NUM_CASES = 36
_PATCHES_PER_CASE = 90
_INHERITED = (
    "PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "MLFLOW_REGISTRY_URI",
    BLOCK_VARIABLE, URL_VARIABLE,
)  # fmt: skip


def main() -> int:
    """Run the demo; return 1 when the network is not shown to beat guessing."""
    folder = copy_project(
        Path.cwd(), WORKSPACES / "demo", load_overrides(Path("configs/demo.yaml"))
    )
    environment = _own_environment(folder)
    archive = folder / RAW / "synthetic.zip"
    synth = ["--cases", str(_NUM_CASES), "--patches-per-case", str(_PATCHES_PER_CASE)]
    for command in (
        [sys.executable, "-m", "idc", "synth", str(archive), *synth],
        [sys.executable, "-m", "flows.pipeline"],
    ):
        done = subprocess.run(command, cwd=folder, env=environment)
        if done.returncode:
            return done.returncode
    return _summarise(folder)


def _own_environment(folder: Path) -> dict[str, str]:
    environment = stage_environment(folder)
    for name in _INHERITED:
        environment.pop(name, None)
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlruns/mlflow.db"
    environment["PREFECT_HOME"] = str(folder / ".prefect")
    return environment


def _summarise(folder: Path) -> int:
    metrics = load_json(folder / METRICS)
    value, low, high = (metrics[f"test/auroc{end}"] for end in ("", "_low", "_high"))
    store = f"sqlite:///{folder}/mlruns/mlflow.db"
    print(f"\nreport:  {folder / REPORT_PAGE}")
    print(f"MLflow:  {sys.executable} -m mlflow ui --backend-store-uri {store}")
    print(
        f"test AUROC {value:.3f} [{low:.3f}, {high:.3f}], "
        f"colour baseline {metrics['test_colour/auroc']:.3f}"
    )
    if low > 0.5:
        return 0
    print("the interval reaches down to guessing (.5): the demo failed", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
