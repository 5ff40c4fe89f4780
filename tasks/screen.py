"""A base and its variants, cross-validated: which of them earn their place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.experiment_results import compare_results, read_figures
from tasks.experiment_tables import format_estimate, save_page
from tasks.experiments import BASE, RESULTS, Plan


@task(cache_policy=NO_CACHE)
def describe_variant(root: Path, plan: Plan, name: str) -> dict[str, Any]:
    """Return what `screen.json` says of a variant whose results are there.

    `overrides`, `num_patches`, `num_cases`, `training_minutes` (None: unknown), `auroc` and
    `balanced_accuracy` (value, low, high); unless it is the base, `differences` to the base by
    metric (value, low, high) and `earns_its_place`.

    Raises:
        InputError: If it was not tested on the patches and in the folds of the base.
    """
    result = plan.result_name(name)
    figures = read_figures(root, result)
    minutes = [fold["training_minutes"] for fold in figures["folds"]]
    described = {
        "overrides": plan.variants.get(name, {}),
        **{key: figures[key] for key in ("num_patches", "num_cases", "auroc", "balanced_accuracy")},
        "training_minutes": None if None in minutes else sum(minutes),
    }
    if name == BASE:
        return described
    differences = compare_results(root, result, plan.result_name(BASE))
    return described | {
        "differences": differences,
        "earns_its_place": differences["auroc"]["low"] > 0,
    }


@task(cache_policy=NO_CACHE)
def write_screen(
    root: Path, plan: Plan, done: Mapping[str, dict[str, Any]], failed: Mapping[str, str]
) -> None:
    """Write `screen.json` and `screen.md`.

    Args:
        root: The project.
        plan: What was to be run.
        done: What `describe_variant` returned for each variant so far, base first.
        failed: Why a variant has no results, by name.
    """
    content = {
        "base": plan.base.model_dump(),
        "folds": plan.folds.model_dump(mode="json"),
        "variants": [{"name": name, **variant} for name, variant in done.items()],
        "failed": dict(failed),
    }
    save_page(
        root / RESULTS, "screen", content, format_screen(content), "Which variants earn their place"
    )


def format_screen(content: Mapping[str, Any]) -> str:
    """Return the Markdown page of a screen, from what `screen.json` holds."""
    folds = content["folds"]
    only = folds["only"]
    which = "all of them" if only is None else f"only {', '.join(map(str, only))}"
    lines = [
        f"# Screen `{content['base']['name']}`",
        "",
        f"Cross-validation by case, {folds['num_folds']} folds, {which}; every patch is scored by "
        "a model that never saw its case. Intervals are 95 % by case bootstrap; those of "
        "differences are paired (the same cases drawn for both). A variant earns its place where "
        "the whole interval lies above 0: of forty variants that are worth nothing, one still "
        "would. One training seed each.",
        "",
        "| variant | AUROC | balanced accuracy | AUROC against base | earns its place "
        "| training minutes |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_format_row(variant) for variant in content["variants"]]
    lines += [f"| {name} | failed: {why} | | | | |" for name, why in content["failed"].items()]
    return "\n".join(lines) + "\n"


def _format_row(variant: Mapping[str, Any]) -> str:
    difference, verdict = "", ""
    if "differences" in variant:
        estimate = variant["differences"]["auroc"]
        difference = format_estimate(estimate, sign="+")
        worse = "no, it is worse" if estimate["high"] < 0 else "no"
        verdict = "**yes**" if variant["earns_its_place"] else worse
    minutes = variant["training_minutes"]
    return (
        f"| {variant['name']} | {format_estimate(variant['auroc'])} "
        f"| {format_estimate(variant['balanced_accuracy'])} | {difference} | {verdict} "
        f"| {'unknown' if minutes is None else format(minutes, '.1f')} |"
    )
