"""A result's full tables, as a person opens them in MLflow: one row per figure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

ENDS = ("", "_low", "_high")
FUSED = "fused"  # the source whose maps explain the logit itself, as `idc.explain` names it

_FIGURE = ("value", "low", "high")
_Row = tuple[str, str, str, Any]
"""Method, source, score and figure; method and source are empty where a score has none."""


def tabulate_metrics(figures: Mapping[str, float]) -> pd.DataFrame:
    """Return all figures of a result.

    Args:
        figures: By `<subset>/<name>`; behind a metric with an interval stand its ends,
            `<name>_low` and `<name>_high`.

    Returns:
        Columns `subset`, `metric`, `value`, `low`, `high` (None without an interval).
    """
    ends = {f"{key}{end}" for key in figures for end in ENDS[1:] if f"{key}_low" in figures}
    rows = [
        (*_split(key), *(figures.get(f"{key}{end}") for end in ENDS))
        for key in figures
        if key not in ends
    ]
    return pd.DataFrame(rows, columns=["subset", "metric", *_FIGURE])


def tabulate_scores(scores: Mapping[str, Any]) -> pd.DataFrame:
    """Return all scores of the attribution methods.

    Scores: `deletion_auc`, `insertion_auc`, `road`, `enrichment`, `background_share`, `empty_rate`,
    `mosaic_share`; of methods alone `noise_sensitivity`, `mosaic_share_untrained`,
    `sanity_similarity` and `sanity_passed` (1 or 0). Maps without a network are the methods
    `random`, `centre` and `darkness`. Of a method as a whole: `agreement`. Of the panel:
    `best_enrichment_cam`, `best_enrichment_pixel` and `background_area`. What is undefined is left
    out.

    Args:
        scores: As `idc.explain.scores.table.ExplanationScores.measure` returns them.

    Returns:
        Columns `method`, `source`, `score`, `value`, `low`, `high` (None without an interval).
    """
    found = (
        *_faithfulness(scores["faithfulness"]),
        *_traits(scores["traits"]),
        *_mosaics(scores["mosaics"]),
        *_sanity(scores["sanity"]),
    )
    rows = [(*names, *_ends(figure)) for *names, figure in found]
    table = pd.DataFrame(rows, columns=["method", "source", "score", *_FIGURE])
    return table[table["value"].notna()].reset_index(drop=True)


def tabulate_subgroups(subgroups: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows of `idc.evaluation.summary.summarise_subgroups` as a table."""
    return pd.DataFrame(list(subgroups))


def _split(key: str) -> tuple[str, str]:
    subset, _, name = key.rpartition("/")
    return subset, name


def _ends(figure: Any) -> tuple[float | None, ...]:  # noqa: ANN401  (a figure or a plain number)
    if isinstance(figure, dict):
        return tuple(figure.get(key) for key in _FIGURE)
    return float(figure), None, None


def _faithfulness(by_source: Mapping[str, Any]) -> Iterator[_Row]:
    for source, by_name in by_source.items():
        for name, figures in by_name.items():
            for score in ("deletion_auc", "insertion_auc", "road"):
                yield name, source, score, figures[score]


def _traits(traits: Mapping[str, Any]) -> Iterator[_Row]:
    for name, of_method in traits["methods"].items():
        for source, figures in of_method["sources"].items():
            for score, figure in figures.items():
                yield name, source, score, figure
        if "agreement" in of_method:
            yield name, "", "agreement", of_method["agreement"]
    for name, figures in traits["baselines"].items():
        for score, figure in figures.items():
            yield name, FUSED, score, figure
    for resolution, figure in traits["best_enrichment"].items():
        yield "", "", f"best_enrichment_{resolution}", figure
    yield "", "", "background_area", traits["background_area"]


def _mosaics(mosaics: Mapping[str, Any]) -> Iterator[_Row]:
    for kind, ending in (("trained", ""), ("untrained", "_untrained")):
        for name, by_source in mosaics.get(kind, {}).items():
            for source, figure in by_source.items():
                yield name, source, f"mosaic_share{ending}", figure
    for name, figure in mosaics.get("baselines", {}).items():
        yield name, FUSED, "mosaic_share", figure


def _sanity(sanity: Mapping[str, Any]) -> Iterator[_Row]:
    for name, by_source in sanity["similarity"].items():
        failed = sanity["failed"].get(name, [])
        for source, steps in by_source.items():
            yield name, source, "sanity_similarity", steps["all"]["signed"]
            yield name, source, "sanity_passed", float(source not in failed)
