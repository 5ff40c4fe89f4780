"""Which figures of a result MLflow's run shows: those that a person compares between runs.

A finished pipeline knows a thousand figures. All of them are in the run's tables
(`idc.tracking.result_tables`); as metrics they would hide the few that answer a question.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from idc.tracking.result import Result
from idc.tracking.result_tables import ENDS, FUSED

MAX_METRICS = 80


@dataclass(frozen=True)
class Choice:
    """Some metrics of a subset."""

    subset: str
    """What stands before the `/`; `*` is any text."""
    names: tuple[str, ...]
    ends: bool
    """Whether the ends of the interval, `<name>_low` and `<name>_high`, are shown as well."""
    why: str


CHOSEN = (
    Choice(
        "test",
        ("auroc", "balanced_accuracy", "sensitivity", "specificity", "brier"),
        True,
        "what models are judged by, and what a promotion shows of each version",
    ),
    Choice("test", ("auprc", "ece"), False, "rare IDC+ patches; how honest probabilities are"),
    Choice(
        "test_context",
        ("auroc", "balanced_accuracy"),
        True,
        "whether looking at touching patches helps",
    ),
    Choice("val", ("auroc", "balanced_accuracy"), False, "a gap to test is optimism"),
    Choice("fusion_minus_*", ("auroc",), True, "whether the fusion beats members and baselines"),
    Choice("fusion_minus_*", ("balanced_accuracy",), False, "the same at the operating point"),
    Choice("test_burden", ("mae_score",), False, "how well whole cases are measured"),
    Choice("class_weights", ("0", "1"), False, "how unbalanced the training set was"),
    Choice(
        "leakage",
        ("num_shared_cases", "num_exact_duplicates", "num_near_duplicates"),
        False,
        "a split that leaks makes every other figure worthless",
    ),
    Choice("leakage", ("share_test_touching_train",), False, "likewise, of neighbours"),
)
"""Beside them: the epochs (loss, AUROC of val, learning rate, speed) and, of `best_attribution`,
the score and the seconds per patch of the best attribution method alone."""


def shown_metrics(result: Result) -> dict[str, float]:
    """Return the figures that a result's run and model show as metrics, by their keys."""
    return choose_metrics(result.figures) | best_attribution(result.figures, result.scores)[1]


def choose_metrics(figures: Mapping[str, float]) -> dict[str, float]:
    """Return those of a result's figures that its run shows, in the order of `CHOSEN`.

    Args:
        figures: All of them by `<subset>/<name>`, such as `test/auroc_low`.
    """
    chosen: dict[str, float] = {}
    for choice in CHOSEN:
        names = [
            f"{name}{end}" for name in choice.names for end in (ENDS if choice.ends else ENDS[:1])
        ]
        subsets = dict.fromkeys(key.rpartition("/")[0] for key in figures)
        for subset in subsets:
            if fnmatchcase(subset, choice.subset):
                keys = [f"{subset}/{name}" for name in names]
                chosen |= {key: figures[key] for key in keys if key in figures}
    return chosen


def best_attribution(
    figures: Mapping[str, float], scores: Mapping[str, Any] | None
) -> tuple[str, dict[str, float]]:
    """Return the attribution method that finds known answers best, and its metrics.

    Args:
        figures: All of a result by `<subset>/<name>`; `explain/s_per_patch/<method>` is read.
        scores: As `idc.explain.scores.table.ExplanationScores.measure` returns them, or None.

    Returns:
        Name, empty where methods are not ranked; `explain/best_mosaic_share` with its interval's
        ends, the share of a map's mass in the IDC+ cell of a mosaic, in [0, 1]; its seconds per
        patch if known.
    """
    mosaics = {} if scores is None else scores["mosaics"]
    if "ranking" not in mosaics:
        return "", {}
    best, source = mosaics["ranking"][0], mosaics["ranked_by"][0]
    figure = mosaics["trained"][best][source]
    ends = zip(ENDS, (figure.get(key) for key in ("value", "low", "high")), strict=True)
    metrics = {f"explain/best_mosaic_share{end}": v for end, v in ends if v is not None}
    time_key = f"explain/s_per_patch/{best}"
    if time_key in figures:
        metrics["explain/best_s_per_patch"] = figures[time_key]
    return (best if source == FUSED else f"{best} of {source}"), metrics
