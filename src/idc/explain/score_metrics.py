"""The scores of explanations as MLflow metrics."""

from collections.abc import Iterator
from typing import Any


def score_metrics(scores: dict[str, Any]) -> dict[str, float]:
    """Return `explain/<method>/<source>/<score>` for what `scores.json` holds.

    Scores: `deletion_auc`, `insertion_auc`, `road` (of baselines as well, under their name),
    `enrichment`, `background_share`, `empty_rate`, `noise_sensitivity`, `mosaic_share`,
    `mosaic_share_untrained`, `sanity_similarity` and `sanity_passed` (1 or 0). Of a method alone:
    `explain/<method>/agreement`. What is undefined is left out.

    Args:
        scores: As `idc.explain.score_table.ExplanationScores.measure` returns them.
    """
    found = dict(_faithfulness(scores["faithfulness"]))
    found |= dict(_traits(scores["traits"]["methods"]))
    found |= dict(_mosaics(scores["mosaics"]))
    found |= dict(_sanity(scores["sanity"]))
    values = {
        key: figure.get("value") if isinstance(figure, dict) else figure
        for key, figure in found.items()
    }
    return {f"explain/{key}": float(value) for key, value in values.items() if value is not None}


_Named = Iterator[tuple[str, Any]]


def _faithfulness(by_source: dict[str, Any]) -> _Named:
    for source, by_name in by_source.items():
        for name, figures in by_name.items():
            for score in ("deletion_auc", "insertion_auc", "road"):
                yield f"{name}/{source}/{score}", figures[score]


def _traits(by_name: dict[str, Any]) -> _Named:
    for name, traits in by_name.items():
        for source, figures in traits["sources"].items():
            for score, figure in figures.items():
                yield f"{name}/{source}/{score}", figure
        if "agreement" in traits:
            yield f"{name}/agreement", traits["agreement"]


def _mosaics(mosaics: dict[str, Any]) -> _Named:
    for kind, ending in (("trained", ""), ("untrained", "_untrained")):
        for name, by_source in mosaics.get(kind, {}).items():
            for source, figure in by_source.items():
                yield f"{name}/{source}/mosaic_share{ending}", figure


def _sanity(sanity: dict[str, Any]) -> _Named:
    for name, by_source in sanity["similarity"].items():
        failed = sanity["failed"].get(name, [])
        for source, steps in by_source.items():
            yield f"{name}/{source}/sanity_similarity", steps["all"]["signed"]
            yield f"{name}/{source}/sanity_passed", float(source not in failed)
