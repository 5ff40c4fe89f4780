"""The plan of a sweep: a grid over parameters, and its points."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from idc.core.config import Section, load_params
from idc.core.errors import InputError
from idc.core.layout import PARAMS
from idc.experiments.folds import Name, Overrides, try_overrides
from idc.experiments.plan_files import read_plan
from idc.runs.workspace import WORKSPACES

FOLDERS = WORKSPACES / "sweeps"

_SET_BY_SWEEP = ("publish.experiment", "publish.move_challenger", "publish.run_name")
_UNFIT_FOR_FOLDERS = re.compile(r"[^A-Za-z0-9_.=+,-]+")


@dataclass(frozen=True)
class GridPoint:
    """One combination of values of the grid."""

    label: str
    """Its values, such as `learning_rate=0.001 batch_size=32`: its name in MLflow."""
    name: str
    """The name of its run in Prefect and of its workspace."""
    overrides: Overrides
    """New parameter values by dotted key."""


class SweepPlan(Section):
    """All of a file like `configs/sweep.yaml`."""

    name: Name
    """The name of the sweep, with which the name of its MLflow experiment ends."""
    overrides: Overrides
    """New parameter values by dotted key, for every point."""
    grid: Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]], Field(min_length=1)]
    """The values of each parameter, by dotted key; every combination is a point."""
    max_parallel: Annotated[int, Field(ge=1, le=64)]
    """Points that run at the same time."""
    gpu_slots: Annotated[int, Field(ge=1)] | None
    """Stages that use the GPU at the same time, unless the server has a limit `gpu`; null: any."""

    def points(self, experiment: str) -> list[GridPoint]:
        """Return the points of the grid, the last parameter changing fastest.

        Args:
            experiment: MLflow experiment of all of them.
        """
        short = _short_names(tuple(self.grid))
        points = []
        for values in product(*self.grid.values()):
            chosen = dict(zip(self.grid, values, strict=True))
            label = " ".join(f"{short[key]}={_spell(value)}" for key, value in chosen.items())
            own = {
                "publish.experiment": experiment,
                "publish.move_challenger": False,
                "publish.run_name": label,
            }
            folder = _UNFIT_FOR_FOLDERS.sub(",", f"{self.name}-{label}")
            points.append(GridPoint(label, folder, {**self.overrides, **chosen, **own}))
        return points


@dataclass(frozen=True)
class Sweep:
    """A sweep whose points have all been checked."""

    name: str
    experiment: str
    """MLflow experiment of its runs, which holds nothing else."""
    points: list[GridPoint]
    max_parallel: int
    gpu_slots: int | None


def load_sweep(path: Path, root: Path) -> Sweep:
    """Read a file like `configs/sweep.yaml` and check every point before anything runs.

    Raises:
        InputError: Naming the file, the key or point, and the fault.
    """
    plan = read_plan(path, SweepPlan, example="configs/sweep.yaml")
    for key in (*plan.overrides, *plan.grid):
        if key in _SET_BY_SWEEP:
            raise InputError("the sweep sets it itself", f"{path}: {key}", "leave it out")
    twice = sorted(set(plan.overrides) & set(plan.grid))
    if twice:
        raise InputError(f"{twice[0]} is in overrides and in grid", path, "take it out of one")
    own_experiment = load_params(root / PARAMS).publish.experiment
    sweep = Sweep(
        plan.name,
        experiment := f"{own_experiment} sweep {plan.name}",
        plan.points(experiment),
        plan.max_parallel,
        plan.gpu_slots,
    )
    for point in sweep.points:
        try:
            try_overrides(root, point.overrides)
        except InputError as error:
            raise error.found_in(f"{path}: {point.label}") from None
    _require_different([point.name for point in sweep.points], path)
    return sweep


def result_rows(
    metrics: Mapping[str, Mapping[str, float]], keys: Sequence[str]
) -> list[dict[str, str | float]]:
    """Return a row per point for people to read, sorted by the first key, best first.

    Args:
        metrics: Final metrics of each point, by its label.
        keys: Metrics to show.
    """
    rows: list[dict[str, str | float]] = [
        {"point": label, **{key: round(values[key], 4) for key in keys if key in values}}
        for label, values in metrics.items()
    ]
    return sorted(rows, key=lambda row: -float(row.get(keys[0], "-inf")))


def _short_names(keys: tuple[str, ...]) -> dict[str, str]:
    """Return the last part of each dotted key, or the whole key if the last part is ambiguous."""
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)
    }


def _spell(value: Any) -> str:  # noqa: ANN401  (any YAML value)
    if isinstance(value, list):
        return "+".join(map(_spell, value))
    return "null" if value is None else str(value)


def _require_different(names: list[str], path: Path) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two points are called {name}", path, "give a value only once")
