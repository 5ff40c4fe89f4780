"""The settings of cross-validated experiments, and where their files are.

Results are in `reports/experiments/<name>/`, the folds' copies of the project in
`.workspaces/experiments/<name>/fold-<k>`.

A *scoring file* is Parquet with one row per tested patch: `case`, `x`, `y`, `y_true` (0 or 1),
`fold` (the fold that tested it), optionally `y_pred` (0 or 1, decided on `logit`), and one column
per scoring: `logit` and `logit_*`, or else every other column of numbers, named after what scored.
A score is any finite number; a larger one means IDC+ is more likely. Scores of different folds are
in one column, so they must mean the same in each (probabilities, or logits calibrated on the fold's
val).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from idc.core.config import MAX_FOLDS, MIN_FOLDS, FoldsConfig, NumFolds, Section
from idc.core.errors import InputError
from idc.core.layout import PARAMS, REPORTS
from idc.core.scratch import scratch_folder
from idc.experiments.plan_files import read_plan
from idc.runs.workspace import WORKSPACES, override_params

RESULTS = REPORTS / "experiments"
FOLDERS = WORKSPACES / "experiments"
BASE = "base"

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_SET_BY_FOLDS = ("split.mode", "split.folds")

CAP_CASES = "split.max_train_cases"
CAP_PATCHES = "split.max_train_patches"
CAPS = (CAP_CASES, CAP_PATCHES)

SplitUnit = Literal["case", "patch"]
"""What is assigned to the folds: `split.mode`."""
Overrides = dict[str, Any]
Name = Annotated[str, Field(pattern=f"^{_NAME}$")]


class BasePlan(Section):
    """The setting that every variant is compared with."""

    name: Name
    """Folder of the results; another base needs another name."""
    overrides: Overrides
    """New parameter values by dotted key, which also apply to every variant."""
    repeats: dict[Name, Overrides] = Field(default_factory=dict)
    """The base again with other randomness, such as another seed: a variant must beat it too."""


class FoldsPlan(Section):
    """The cross-validation, the same for every variant."""

    num_folds: NumFolds
    """Folds in all."""
    only: tuple[int, ...] | None
    """Folds (from 0) that are run; null runs all."""


class Plan(Section):
    """All of a file like `configs/screen.yaml`."""

    base: BasePlan
    folds: FoldsPlan
    variants: dict[Name, Overrides]
    """What each variant changes in the base."""
    rungs: Annotated[tuple[Overrides, ...], Field(min_length=2)] = ()
    """Successive halving: what each rung (from 0) changes in the base and its variants, the last
    with the most training. Without rungs, all variants run once."""
    keep: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """With rungs: the share of the base and variants that goes on to the next, rounded up."""

    def all_overrides(self) -> dict[str, Overrides]:
        """Return the overrides of the base, of each repeat and of each variant, in this order."""
        changes = {**self.base.repeats, **self.variants}
        changed = {name: _apply_over(self.base.overrides, more) for name, more in changes.items()}
        return {BASE: self.base.overrides, **changed}

    def in_rung(self, rung: int, candidates: Collection[str]) -> "Plan":
        """Return a rung as a plan of its own, without rungs.

        Args:
            rung: From 0.
            candidates: Names of the variants that run. The base always runs, as what they are
                compared with; its repeats in the last rung alone, as further variants.
        """
        more = self.rungs[rung]
        repeats = self.base.repeats if rung == len(self.rungs) - 1 else {}
        chosen = {name: change for name, change in self.variants.items() if name in candidates}
        base = {
            "name": f"{self.base.name}/rung-{rung}",
            "overrides": _apply_over(self.base.overrides, more),
            "repeats": {},
        }
        variants = {
            name: _apply_over(change, more) for name, change in {**repeats, **chosen}.items()
        }
        return self.model_copy(
            update={
                "base": self.base.model_copy(update=base),
                "variants": variants,
                "rungs": (),
                "keep": None,
            }
        )

    def result_name(self, variant: str) -> str:
        """Return the name under which the folds of a variant run."""
        return f"{self.base.name}/{variant}"


def _apply_over(overrides: Overrides, more: Overrides) -> Overrides:
    """Return both, `more` as the last: of a section and a key in it, the last one holds."""
    return {key: value for key, value in overrides.items() if key not in more} | more


def load_plan(path: Path, root: Path) -> Plan:
    """Read a file like `configs/screen.yaml` and check every override before anything runs.

    Raises:
        InputError: Naming the file, the rung, the variant or key, and the fault.
    """
    plan = read_plan(path, Plan, example="configs/screen.yaml")
    for name in plan.variants:
        if name == BASE or name in plan.base.repeats:
            raise InputError(
                "that name is taken", f"{path}: variants.{name}", "call the variant otherwise"
            )
    if BASE in plan.base.repeats:
        raise InputError("that name is taken", f"{path}: base.repeats.{BASE}", "call it otherwise")
    choose_folds(plan.folds.num_folds, plan.folds.only)
    _check_all_overrides(root, plan, str(path))
    _check_rungs(root, plan, path)
    return plan


def _check_all_overrides(root: Path, plan: Plan, where: str) -> None:
    for name, overrides in plan.all_overrides().items():
        try:
            check_overrides(root, overrides)
        except InputError as error:
            raise error.found_in(f"{where}: {name}") from None


def _check_rungs(root: Path, plan: Plan, path: Path) -> None:
    if not plan.rungs and plan.keep is not None:
        raise InputError("there are no rungs", f"{path}: keep", "list rungs, or leave it out")
    if plan.rungs and plan.keep is None:
        raise InputError("keep is missing", f"{path}: rungs", "say which share goes on: keep: 0.5")
    for rung, more in enumerate(plan.rungs):
        where = f"{path}: rungs.{rung}"
        try:
            check_overrides(root, _apply_over(plan.base.overrides, more))
        except InputError as error:
            raise error.found_in(where) from None
        in_rung = plan.in_rung(rung, plan.variants)
        _check_all_overrides(root, in_rung, where)
        _require_own_changes(in_rung, where)


def _require_own_changes(in_rung: Plan, where: str) -> None:
    """Check that no rung sets all that a variant changes: it would be the base, trained twice."""
    base, *others = in_rung.all_overrides().items()
    for name, overrides in others:
        if overrides == base[1]:
            raise InputError(
                "here it is the same as the base", f"{where}: {name}",
                "let the variant change a key that the rung does not set",
            )  # fmt: skip


def check_name(name: str) -> None:
    """Check that a result's name makes a folder below `reports/experiments`.

    Raises:
        InputError: Otherwise.
    """
    if not re.fullmatch(f"{_NAME}(/{_NAME})*", name):
        raise InputError(
            f"{name!r} cannot name a folder of results", fix="use letters, digits, _, . and -"
        )


def check_overrides(
    root: Path, overrides: Mapping[str, Any], *, also_set: Sequence[str] = ()
) -> None:
    """Check that a cross-validation can override parameters like this, without doing it.

    Args:
        root: The project.
        overrides: New values by dotted key.
        also_set: Keys that the experiment sets, in addition to those that folds set.

    Raises:
        InputError: If a key is no parameter, a value breaks its rule, or the experiment sets it.
    """
    for key in overrides:
        if any(key == own or key.startswith(f"{own}.") for own in (*_SET_BY_FOLDS, *also_set)):
            raise InputError("the experiment sets it itself", f"override {key}", "leave it out")
    try_overrides(root, overrides)


def try_overrides(root: Path, overrides: Mapping[str, Any]) -> None:
    """Check that parameters can be overridden like this, without doing it.

    Raises:
        InputError: If a key is no parameter, or a value breaks its rule.
    """
    with scratch_folder() as folder:
        copy = folder / PARAMS
        copy.write_bytes((root / PARAMS).read_bytes())
        try:
            override_params(copy, overrides)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), str(PARAMS))) from None


def choose_folds(num_folds: int, only: Collection[int] | None) -> list[int]:
    """Return the folds to run, ascending: all, or those requested.

    Raises:
        InputError: If the number of folds is out of range, or a requested fold does not exist.
    """
    if not MIN_FOLDS <= num_folds <= MAX_FOLDS:
        raise InputError(f"{num_folds} folds: there must be {MIN_FOLDS} to {MAX_FOLDS}")
    chosen = sorted(set(range(num_folds) if only is None else only))
    unknown = [fold for fold in chosen if not 0 <= fold < num_folds]
    if unknown or not chosen:
        asked = f"fold {unknown[0]}" if unknown else "no fold"
        raise InputError(f"{asked} was asked for: folds are numbered 0 to {num_folds - 1}")
    return chosen


def fold_overrides(
    overrides: Mapping[str, Any], split_unit: SplitUnit, num_folds: int, fold: int
) -> Overrides:
    """Return the overrides of one fold's workspace."""
    folds = FoldsConfig(num_folds=num_folds, test_fold=fold)
    return {**overrides, "split.mode": split_unit, "split.folds": folds.model_dump()}
