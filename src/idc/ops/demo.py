"""The demo: the pipeline on synthetic data, in a self-contained copy of the project.

It uses no patient data and no network, and contacts none of the user's servers.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from idc.core.errors import StageFailedError
from idc.core.files import load_json
from idc.core.layout import METRICS, RAW, REPORT_PAGE
from idc.ops.descendants import end_descendants_at_death
from idc.runs.workspace import WORKSPACES, copy_project, load_overrides, stage_environment

CHANGES = Path("configs/demo.yaml")

_FOLDER = WORKSPACES / "demo"
_NUM_CASES = 36
_PATCHES_PER_CASE = 44
_INHERITED = (
    "PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "MLFLOW_REGISTRY_URI",
    "IDC_NOTIFY_BLOCK", "IDC_NOTIFY_URL",
)  # fmt: skip


@dataclass(frozen=True)
class Demo:
    """What the demo has produced, and how well its network performs on the test set."""

    report: Path
    store: str
    """Address of its MLflow store."""
    auroc: tuple[float, float, float]
    """Value and 95 % interval."""
    colour_auroc: float
    """Of the colour baseline, on the same patches."""
    difference: tuple[float, float, float]
    """Network minus colour baseline, paired by case: value and 95 % interval."""

    @property
    def beats_colour(self) -> bool:
        """Whether the whole interval of the difference lies above 0."""
        return self.difference[1] > 0


def run_demo(root: Path) -> Demo:
    """Write a synthetic archive and run the pipeline on it, in `.workspaces/demo` of `root`.

    Run again, it continues from what it produced before.

    Raises:
        StageFailedError: If the archive or the pipeline fails; their own output says why.
    """
    folder = copy_project(root, root / _FOLDER, load_overrides(root / CHANGES))
    environment = end_descendants_at_death(own_environment(folder))
    archive = str(folder / RAW / "synthetic.zip")
    size = ("--cases", str(_NUM_CASES), "--patches-per-case", str(_PATCHES_PER_CASE))
    for command in (("idc", "synth", archive, *size), ("idc", "pipeline")):
        done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment)
        if done.returncode:
            raise StageFailedError(f"{' '.join(command[:2])} failed in {folder}: see above")
    metrics = load_json(folder / METRICS)
    return Demo(
        folder / REPORT_PAGE,
        _store(folder),
        auroc=_interval(metrics, "test/auroc"),
        colour_auroc=metrics["test_colour/auroc"],
        difference=_interval(metrics, "fusion_minus_colour/auroc"),
    )


def own_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which nothing outside `folder` is written to or notified."""
    environment = stage_environment(folder, _store(folder))
    for name in _INHERITED:
        environment.pop(name, None)
    environment["PREFECT_HOME"] = str(folder / ".prefect")
    return environment


def _store(folder: Path) -> str:
    return f"sqlite:///{folder}/mlruns/mlflow.db"


def _interval(metrics: dict[str, float], name: str) -> tuple[float, float, float]:
    return metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"]
