"""A base and its variants, cross-validated: which of them improve on the base."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idc.experiments.cross_validation import Runner
from idc.experiments.folds import BASE, RESULTS, Plan
from idc.experiments.halving import run_halving
from idc.experiments.results import compare_results, read_figures
from idc.experiments.tables import format_estimate, format_folds, format_minutes, save_page
from idc.experiments.variants import Reasons, describe_result, run_variants


def run_screen(root: Path, plan: Plan, runner: Runner) -> dict[str, str]:
    """Run the base and every variant; keep `reports/experiments/screen.md` up to date after each.

    A variant that fails is listed with its reason, and the others continue. A plan with rungs is
    run by successive halving.

    Returns:
        The reasons of failed variants, by name.

    Raises:
        InputError: If the base cannot be run with these settings.
        StageFailedError: If a stage of the base fails.
        TransientError: If a lock stays held or a server does not answer, however often tried.
    """
    if plan.rungs:
        return run_halving(root, plan, runner)
    failed: Reasons = {}
    for done, failed in run_variants(root, plan, runner, describe_variant):
        write_screen(root, plan, done, failed)
    return failed


def describe_variant(root: Path, plan: Plan, name: str) -> dict[str, Any]:
    """Return the entry of `screen.json` for a variant that has results.

    That of `describe_result`; unless it is the base or a repeat of it, `trained` (False: the base's
    own models, scored differently), `against_repeats`, the `differences` to each of those if it was
    trained, and `is_improvement`.

    Raises:
        InputError: If it was not tested on the patches and folds of the base and its repeats.
    """
    described = describe_result(root, plan, name)
    if name == BASE or name in plan.base.repeats:
        return described
    result = plan.result_name(name)
    models = _models(read_figures(root, result))
    # two scorings of the same models do not differ by the randomness of training
    trained = models != _models(read_figures(root, plan.result_name(BASE)))
    repeats = {
        repeat: compare_results(root, result, plan.result_name(repeat))
        for repeat in (plan.base.repeats if trained else ())
    }
    lows = [each["auroc"]["low"] for each in (described["differences"], *repeats.values())]
    return described | {
        "trained": trained,
        "against_repeats": repeats,
        "is_improvement": min(lows) > 0,
    }


def _models(figures: Mapping[str, Any]) -> list[str]:
    """Return the digest of each fold's model."""
    return [fold["model"] for fold in figures["folds"]]


def write_screen(
    root: Path, plan: Plan, done: Mapping[str, dict[str, Any]], failed: Mapping[str, str]
) -> None:
    """Write `screen.json` and `screen.md`.

    Args:
        root: The project.
        plan: The whole plan.
        done: What `describe_variant` returned for each variant so far, base first.
        failed: The reason why a variant has no results, by name.
    """
    content = {
        "base": plan.base.model_dump(),
        "folds": plan.folds.model_dump(mode="json"),
        "variants": [{"name": name, **variant} for name, variant in done.items()],
        "failed": dict(failed),
    }
    save_page(
        root / RESULTS,
        "screen",
        content,
        format_screen(content),
    )


def format_screen(content: Mapping[str, Any]) -> str:
    """Return the Markdown page of a screen, from the content of `screen.json`."""
    repeats = list(content["base"]["repeats"])
    against = [f"AUROC against {name}" for name in (BASE, *repeats)]
    lines = [
        f"# Screen `{content['base']['name']}`",
        "",
        f"Cross-validation by case, {format_folds(content['folds'])}; every patch is scored by a "
        "model that never saw its case. Intervals are 95 % by case bootstrap; those of "
        "differences are paired (the same cases drawn for both). They show the chance of the "
        "cases, not that of a training: "
        + (
            f"the base was trained again as {', '.join(repeats)}, and a variant is an improvement "
            "where it beats each of these trainings, by the whole interval; one that only scores "
            "the base's own models otherwise is compared with the base alone."
            if repeats
            else "the base was trained once, and a variant that is an improvement here may have "
            "been lucky."
        ),
        "",
        f"| variant | AUROC | balanced accuracy | {' | '.join(against)} | is an improvement "
        "| training minutes |",
        "|---" * (len(against) + 5) + "|",
    ]
    lines += [_format_row(variant, repeats) for variant in content["variants"]]
    cells = " |" * (len(against) + 3)
    lines += [f"| {name} | failed: {why} |{cells}" for name, why in content["failed"].items()]
    return "\n".join(lines) + "\n"


def _format_row(variant: Mapping[str, Any], repeats: Sequence[str]) -> str:
    compared = {BASE: variant.get("differences"), **variant.get("against_repeats", {})}
    differences = [compared.get(name) for name in (BASE, *repeats)]
    cells = [
        "" if each is None else format_estimate(each["auroc"], sign="+") for each in differences
    ]
    return (
        f"| {variant['name']} | {format_estimate(variant['auroc'])} "
        f"| {format_estimate(variant['balanced_accuracy'])} | {' | '.join(cells)} "
        f"| {_verdict(variant, differences)} "
        f"| {format_minutes(variant['training_minutes'])} |"
    )


def _verdict(
    variant: Mapping[str, Any], differences: Sequence[Mapping[str, Mapping[str, float]] | None]
) -> str:
    if "is_improvement" not in variant:
        return ""
    worse = all(each["auroc"]["high"] < 0 for each in differences if each is not None)
    if variant["is_improvement"]:
        return "**yes**"
    return "no, it is worse" if worse else "no"
