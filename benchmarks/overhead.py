"""What Prefect, DVC and MLflow cost: the pipeline against its ten stages called one by one.

Each round runs the same small recipe three times, each time in a new copy of the project with a
cache, a store and a Prefect home of its own, on the same synthetic archive:

- `direct`: the ten stages by `python -m idc STAGE`, one process after another; before the last,
  uncounted, `dvc commit`, since `publish` tells MLflow of the lock;
- `dvc`: `dvc repro`;
- `flow`: `idc pipeline`, which starts a Prefect server and runs each stage by DVC.

So `dvc - direct` is what DVC costs and `flow - dvc` what Prefect does. MLflow works inside two
stages: `publish`, which does nothing else, and `train`, whose calls are timed alone. The recipe is
small because the overhead hardly depends on it: a stage that takes an hour is started, hashed and
recorded just once too.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --rounds 5 --set train.epochs=2
"""

import argparse
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import (
    describe_machine,
    describe_versions,
    print_result,
    summarise,
)
from idc.core.layout import RAW
from idc.experiments.plan_files import parse_setting
from idc.runs.workspace import copy_project, stage_environment
from idc.stages import STAGES

ROOT = Path(__file__).parents[1]
TARGET_S = 60.0
LONG_RUN_S = 20 * 60.0
LEAST_ROUNDS = 3
SMALL: dict[str, Any] = {
    "sample.num_patches": 240,
    "sample.allow_fewer": True,
    "split.fractions": {"val": 0.2, "gate": 0.15, "test": 0.25},
    "model.backbones": ["test_resnet"],
    "model.texture_member": False,
    "model.pretrained": "none",
    "model.size_px": 32,
    "train.epochs": 3,
    "train.batch_size": 32,
    "baselines.names": [],
    "evaluate.num_replicates": 200,
    "explain.num_reference": 4,
    "explain.num_per_group": 1,
    "explain.num_mosaics": 0,
}
_TELL_MLFLOW = """
import sys, time
from pathlib import Path
from idc.core.config import load_params
from idc.tracking.live import live_run

params = load_params(Path("params.yaml"))
start = time.perf_counter()
with live_run(Path.cwd(), params, "none", training="none", resumed=False) as live:
    live.log_class_weights([1.0, 1.0])
    for epoch in range(1, params.train.epochs + 1):
        live.log_epoch(epoch, {"train/loss": 1 / epoch, "val/epoch_auroc": 0.5})
print(time.perf_counter() - start)
"""


@dataclass
class Ways:
    """The ways to run one recipe; each is given a new copy of the project, returns its seconds."""

    publish_seconds: list[float] = field(default_factory=list)

    def direct(self, copy: Path) -> float:
        """Call the ten stages one after another."""
        seconds = sum(_time(copy, "-m", "idc", stage) for stage in STAGES[:-1])
        # publish wants the lock that DVC would have written; not counted
        _run(copy, "-m", "dvc", "commit", "--force", *STAGES[:-1])
        self.publish_seconds.append(_time(copy, "-m", "idc", STAGES[-1]))
        return seconds + self.publish_seconds[-1]

    def dvc(self, copy: Path) -> float:
        """Run the ten stages by DVC."""
        return _time(copy, "-m", "dvc", "repro")

    def flow(self, copy: Path) -> float:
        """Run the ten stages by Prefect and DVC."""
        return _time(copy, "-m", "idc", "pipeline")

    def telling(self, copy: Path) -> float:
        """Tell a new MLflow store of a training, without training."""
        return float(_run(copy, "-c", _TELL_MLFLOW))


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all ways and print the result line last."""
    options = _parse(arguments)
    print(describe_machine())
    print(describe_versions("prefect", "dvc", "mlflow", "torch", "idc"))
    given = sys.argv[1:] if arguments is None else arguments
    print("command: python -m benchmarks.overhead", shlex.join(given))
    with tempfile.TemporaryDirectory(prefix="idc-overhead-") as name:
        _measure(options, Path(name).resolve())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.overhead", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default: 3)")
    parser.add_argument("--cases", type=int, default=30, help="synthetic cases (default: 30)")
    parser.add_argument("--patches-per-case", type=int, default=30, help="mean (default: 30)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="overrides"
    )
    options = parser.parse_args(arguments)
    if options.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds {options.rounds}: at least {LEAST_ROUNDS} are needed")
    return options


def _measure(options: argparse.Namespace, folder: Path) -> None:
    overrides = SMALL | dict(parse_setting(text) for text in options.set)
    archive = folder / "synthetic.zip"
    size = ("--cases", options.cases, "--patches-per-case", options.patches_per_case)
    _run(ROOT, "-m", "idc", "synth", str(archive), *map(str, size))
    ways = Ways()
    tasks: dict[str, Callable[[Path], float]] = {
        "direct": ways.direct, "dvc": ways.dvc, "flow": ways.flow, "telling": ways.telling,
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(options.rounds):
        for name in list(tasks) if number % 2 == 0 else reversed(tasks):
            copy = _copy_project(folder / f"{name}-{number}", archive, overrides)  # not counted
            seconds[name].append(tasks[name](copy))
            shutil.rmtree(copy)
        told = "  ".join(f"{name} {values[-1]:.1f} s" for name, values in seconds.items())
        print(f"round {number + 1}: {told}", flush=True)
    _print_summary(seconds, ways.publish_seconds)


def _copy_project(folder: Path, archive: Path, overrides: dict[str, Any]) -> Path:
    copy = copy_project(ROOT, folder, overrides)
    (copy / RAW).mkdir(parents=True)
    shutil.copy2(archive, copy / RAW)
    return copy


def _print_summary(seconds: dict[str, list[float]], publish: list[float]) -> None:
    overhead = _differences(seconds["flow"], seconds["direct"])
    print_result(
        **summarise("direct_s", seconds["direct"]),
        **summarise("overhead_s", overhead),
        **summarise("dvc_s", _differences(seconds["dvc"], seconds["direct"])),
        **summarise("prefect_s", _differences(seconds["flow"], seconds["dvc"])),
        **summarise("mlflow_publish_s", publish),
        **summarise("mlflow_train_s", seconds["telling"]),
        share_of_20_minutes=statistics.median(overhead) / LONG_RUN_S,
        rounds=str(len(overhead)),
        target_s=TARGET_S,
    )


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(first, second, strict=True)]


def _time(folder: Path, *arguments: str) -> float:
    """Run this Python in `folder` and return the seconds it took."""
    start = time.perf_counter()
    _run(folder, *arguments)
    return time.perf_counter() - start


def _run(folder: Path, *arguments: str) -> str:
    """Run this Python in `folder` and return what it printed.

    Raises:
        SystemExit: If it fails.
    """
    environment = stage_environment(folder) | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlruns/mlflow.db",
        "PREFECT_HOME": str(folder / ".prefect"),
        "CI": "1",  # else DVC may ask its makers' server for the newest version
    }
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise SystemExit(f"{shlex.join(arguments)} exited {done.returncode}:\n{said}")
    return done.stdout


if __name__ == "__main__":
    main()
