"""Successive halving: each rung runs what the one before kept, with more training.

Most of the time goes to the few variants that are still ahead (Karnin et al. 2013, ICML, "Almost
optimal exploration in multi-armed bandits"; Jamieson & Talwalkar 2016, AISTATS, "Non-stochastic
best arm identification and hyperparameter optimization"). What learns slowly at first is lost.

The base and the variants are *candidates*, ranked by the pooled AUROC of the fused logit. The base
runs in every rung, also when it is no candidate any more, since differences are to it. Its repeats
run in the last rung alone and are never ranked: what they differ by from the base is chance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from idc.experiments.cross_validation import Runner
from idc.experiments.folds import BASE, RESULTS, Overrides, Plan
from idc.experiments.results import compare_results
from idc.experiments.tables import format_estimate, format_folds, format_minutes, save_page
from idc.experiments.variants import Described, Reasons, describe_result, run_variants


@dataclass(frozen=True)
class Rung:
    """What is known of one rung."""

    candidates: tuple[str, ...]
    """What is ranked, in the plan's order."""
    done: Described = field(default_factory=dict)
    """The figures of all that ran, candidates or not."""
    failed: Reasons = field(default_factory=dict)
    kept: tuple[str, ...] | None = None
    """The candidates that go on, of the last rung the winner; None before the rung is over."""


def run_halving(root: Path, plan: Plan, runner: Runner) -> Reasons:
    """Run the rungs of a plan; keep `reports/experiments/screen.md` up to date after each variant.

    A variant that fails drops out. If none is left, no further rung runs.

    Returns:
        The reasons of failed variants, by name.

    Raises:
        InputError, StageFailedError, TransientError: As `idc.experiments.variants.run_variants`.
    """
    candidates: tuple[str, ...] = (BASE, *plan.variants)
    over: list[Rung] = []
    while candidates and len(over) < len(plan.rungs):
        rung = Rung(candidates)
        in_rung = plan.in_rung(len(over), candidates)
        for done, failed in run_variants(root, in_rung, runner, describe_result):
            rung = replace(rung, done=done, failed=failed)
            write_halving(root, plan, [*over, rung])
        candidates = choose_kept(plan, len(over), rung)
        over.append(replace(rung, kept=candidates))
        write_halving(root, plan, over)
    return {
        name: f"rung {number}: {why}"
        for number, rung in enumerate(over)
        for name, why in rung.failed.items()
    }


def choose_kept(plan: Plan, number: int, rung: Rung) -> tuple[str, ...]:
    """Return the candidates that go on, in the plan's order; of the last rung the best alone.

    The share `keep`, rounded up, of those that have results; of equals, the earlier goes on.
    """
    with_results = [name for name in rung.candidates if name in rung.done]
    ranked = sorted(with_results, key=lambda name: -rung.done[name]["auroc"]["value"])
    # as the share was written: in floats, .07 of 100 is more than 7
    share = Fraction(str(plan.keep)) * len(ranked)
    is_last = number == len(plan.rungs) - 1
    kept = ranked[: 1 if is_last else math.ceil(share)]
    return tuple(name for name in with_results if name in kept)


def write_halving(root: Path, plan: Plan, rungs: Sequence[Rung]) -> None:
    """Write `screen.json` and `screen.md` of a plan with rungs.

    Args:
        root: The project.
        plan: The whole plan.
        rungs: Those that are over, and the one that runs.

    Raises:
        InputError: If the winner was not tested on the patches and folds of the base's repeats.
    """
    content = {
        "base": plan.base.model_dump(),
        "folds": plan.folds.model_dump(mode="json"),
        "keep": plan.keep,
        "rungs": [
            {
                "overrides": plan.rungs[number],
                "candidates": list(rung.candidates),
                "variants": [{"name": name, **figures} for name, figures in rung.done.items()],
                "failed": rung.failed,
                "kept": None if rung.kept is None else list(rung.kept),
            }
            for number, rung in enumerate(rungs)
        ],
        "winner": describe_winner(root, plan, rungs),
    }
    save_page(root / RESULTS, "screen", content, format_halving(content))


def describe_winner(root: Path, plan: Plan, rungs: Sequence[Rung]) -> dict[str, Any] | None:
    """Return what the last rung kept, or None before it is over or if it kept nothing.

    `name`, `changes` (the variant's own), `overrides` (all: base, variant and last rung), `auroc`
    (value, low, high), and `against`: the differences to the base and each of its repeats by name,
    then by metric (value, low, high).

    Raises:
        InputError: If it was not tested on the patches and folds of the base's repeats.
    """
    last = rungs[-1]
    if len(rungs) < len(plan.rungs) or not last.kept:
        return None
    (name,) = last.kept
    in_rung = plan.in_rung(len(rungs) - 1, last.candidates)
    references = [each for each in (BASE, *plan.base.repeats) if each in last.done]
    return {
        "name": name,
        "changes": plan.variants.get(name, {}),
        "overrides": in_rung.all_overrides()[name],
        "auroc": last.done[name]["auroc"],
        "against": {
            each: compare_results(root, in_rung.result_name(name), in_rung.result_name(each))
            for each in references
            if each != name
        },
    }


def format_halving(content: Mapping[str, Any]) -> str:
    """Return the Markdown page, from the content of `screen.json` of a plan with rungs."""
    lines = [
        f"# Screen `{content['base']['name']}`, by successive halving",
        "",
        f"Cross-validation by case, {format_folds(content['folds'])}; every patch is scored by a "
        f"model that never saw its case. After each rung the share {content['keep']} of the base "
        "and the variants goes on, by AUROC. The base runs in every rung as the reference, its "
        "repeats only in the last; these are not ranked, and differ from the base by chance alone. "
        "Intervals are 95 % by case bootstrap; those of differences are paired (the same cases "
        "drawn for both). They show the chance of the cases, not that of a training.",
    ]
    for number, rung in enumerate(content["rungs"]):
        lines += ["", f"## Rung {number}: `{_in_one_line(rung['overrides'])}`", ""]
        lines += _format_rung(rung)
    return "\n".join(lines + _format_winner(content)) + "\n"


def _format_rung(rung: Mapping[str, Any]) -> list[str]:
    lines = [
        "| variant | AUROC | balanced accuracy | AUROC against base | training minutes | kept |",
        "|---|---|---|---|---|---|",
    ]
    for variant in rung["variants"]:
        differences = variant.get("differences")
        against = "" if differences is None else format_estimate(differences["auroc"], sign="+")
        lines.append(
            f"| {variant['name']} | {format_estimate(variant['auroc'])} "
            f"| {format_estimate(variant['balanced_accuracy'])} | {against} "
            f"| {format_minutes(variant['training_minutes'])} | {_fate(rung, variant['name'])} |"
        )
    return lines + [
        f"| {name} | failed: {why} | | | | {_fate(rung, name)} |"
        for name, why in rung["failed"].items()
    ]


def _fate(rung: Mapping[str, Any], name: str) -> str:
    if name not in rung["candidates"]:
        return "reference"
    if rung["kept"] is None:
        return ""
    return "**yes**" if name in rung["kept"] else "no"


def _format_winner(content: Mapping[str, Any]) -> list[str]:
    if content["rungs"][-1]["kept"] == []:
        return ["", "**No winner**: every candidate of this rung failed."]
    winner = content["winner"]
    if winner is None:
        return []
    against = "".join(
        f"; against {name} {format_estimate(metrics['auroc'], sign='+')}"
        for name, metrics in winner["against"].items()
    )
    num_candidates = len(content["rungs"][0]["candidates"])
    return [
        "",
        f"**Winner: {winner['name']}** `{_in_one_line(winner['changes'])}`, "
        f"AUROC {format_estimate(winner['auroc'])}{against}.",
        "",
        f"It is the best of {num_candidates} on the folds that chose it, and that flatters it: "
        "measure it and the base on other folds and with other seeds. All of its overrides:",
        "",
        "```yaml",
        *yaml.safe_dump(winner["overrides"], sort_keys=False).splitlines(),
        "```",
    ]


def _in_one_line(overrides: Overrides) -> str:
    dumped = yaml.safe_dump(overrides, default_flow_style=True, sort_keys=False, width=math.inf)
    return str(dumped).strip()
