"""The scores of explanations as MLflow metrics."""

from collections.abc import Iterator
from typing import Any

FUSED = "fused"  # the source whose maps explain the logit itself, as `idc.explain` names it


def score_metrics(scores: dict[str, Any]) -> dict[str, float]:
    """Return `explain/<method>/<source>/<score>` for what `scores.json` holds.

    Behind a score with an interval stand its ends, `<score>_low` and `<score>_high`.

    Scores: `deletion_auc`, `insertion_auc`, `road`, `enrichment`, `background_share`, `empty_rate`,
    `mosaic_share`; of methods alone `noise_sensitivity`, `mosaic_share_untrained`,
    `sanity_similarity` and `sanity_passed` (1 or 0). Maps without a network are `random`, `centre`
    and `darkness`; what does not depend on a source stands under `fused`, beside the methods'. Of a
    method as a whole: `explain/<method>/agreement`. Of the panel: `explain/best_enrichment_cam`,
    `explain/best_enrichment_pixel` and `explain/background_area`. What is undefined is left out.

    Args:
        scores: As `idc.explain.scores.table.ExplanationScores.measure` returns them.
    """
    found = dict(_faithfulness(scores["faithfulness"]))
    found |= dict(_traits(scores["traits"]))
    found |= dict(_mosaics(scores["mosaics"]))
    found |= dict(_sanity(scores["sanity"]))
    values = {key: value for name, figure in found.items() for key, value in _ends(name, figure)}
    return {f"explain/{key}": float(value) for key, value in values.items() if value is not None}


_Named = Iterator[tuple[str, Any]]


def _ends(name: str, figure: Any) -> _Named:  # noqa: ANN401  (a figure or a plain number)
    if not isinstance(figure, dict):
        yield name, figure
        return
    for key, ending in (("value", ""), ("low", "_low"), ("high", "_high")):
        yield f"{name}{ending}", figure.get(key)


def _faithfulness(by_source: dict[str, Any]) -> _Named:
    for source, by_name in by_source.items():
        for name, figures in by_name.items():
            for score in ("deletion_auc", "insertion_auc", "road"):
                yield f"{name}/{source}/{score}", figures[score]


def _traits(traits: dict[str, Any]) -> _Named:
    for name, of_method in traits["methods"].items():
        for source, figures in of_method["sources"].items():
            for score, figure in figures.items():
                yield f"{name}/{source}/{score}", figure
        if "agreement" in of_method:
            yield f"{name}/agreement", of_method["agreement"]
    for name, figures in traits["baselines"].items():
        for score, figure in figures.items():
            yield f"{name}/{FUSED}/{score}", figure
    for resolution, figure in traits["best_enrichment"].items():
        yield f"best_enrichment_{resolution}", figure
    yield "background_area", traits["background_area"]


def _mosaics(mosaics: dict[str, Any]) -> _Named:
    for kind, ending in (("trained", ""), ("untrained", "_untrained")):
        for name, by_source in mosaics.get(kind, {}).items():
            for source, figure in by_source.items():
                yield f"{name}/{source}/mosaic_share{ending}", figure
    for name, figure in mosaics.get("baselines", {}).items():
        yield f"{name}/{FUSED}/mosaic_share", figure


def _sanity(sanity: dict[str, Any]) -> _Named:
    for name, by_source in sanity["similarity"].items():
        failed = sanity["failed"].get(name, [])
        for source, steps in by_source.items():
            yield f"{name}/{source}/sanity_similarity", steps["all"]["signed"]
            yield f"{name}/{source}/sanity_passed", float(source not in failed)
