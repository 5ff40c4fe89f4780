"""Writing the results of experiments: numbers, tables, pages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idc.core.files import replacing_file, save_json
from idc.evaluation.statistics.bootstrap import Estimate


def save_page(folder: Path, stem: str, content: Mapping[str, Any], page: str) -> None:
    """Write `<stem>.json` and `<stem>.md`."""
    save_json(folder / f"{stem}.json", content)
    save_text(folder / f"{stem}.md", page)


def save_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def format_comparison(differences: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Return the result of `compare_files` as a Markdown table."""
    lines = ["| first - second | metric | difference |", "|---|---|---|"]
    lines += [
        f"| {pair} | {metric} | {format_estimate(vars(estimate), sign='+')} |"
        for pair, metrics in differences.items()
        for metric, estimate in metrics.items()
    ]
    return "\n".join(lines) + "\n"


def format_estimate(estimate: Mapping[str, float], sign: str = "") -> str:
    """Return `value [low, high]` to three digits; `sign="+"` shows the sign of each."""
    value, low, high = (format(estimate[key], f"{sign}.3f") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def format_counts(counts: list[int]) -> str:
    """Return one number if all are equal, else the smallest and the largest."""
    least, largest = min(counts), max(counts)
    return f"{least:,}" if least == largest else f"{least:,} to {largest:,}"


def format_folds(folds: Mapping[str, Any]) -> str:
    """Return which folds of a plan run, such as `5 folds, only 0, 3`."""
    only = folds["only"]
    which = "all of them" if only is None else f"only {', '.join(map(str, only))}"
    return f"{folds['num_folds']} folds, {which}"


def format_minutes(minutes: float | None) -> str:
    """Return minutes to one digit; None is `unknown`."""
    return "unknown" if minutes is None else format(minutes, ".1f")
