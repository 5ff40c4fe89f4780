"""The scores of explanations as MLflow metrics."""

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
    found: dict[str, Any] = {}
    for source, by_name in scores["faithfulness"].items():
        for name, figures in by_name.items():
            for score in ("deletion_auc", "insertion_auc", "road"):
                found[f"{name}/{source}/{score}"] = figures[score]
    for name, traits in scores["traits"]["methods"].items():
        for source, figures in traits["sources"].items():
            for score, figure in figures.items():
                found[f"{name}/{source}/{score}"] = figure
        if "agreement" in traits:
            found[f"{name}/agreement"] = traits["agreement"]
    for kind, ending in (("trained", ""), ("untrained", "_untrained")):
        for name, by_source in scores["mosaics"].get(kind, {}).items():
            for source, figure in by_source.items():
                found[f"{name}/{source}/mosaic_share{ending}"] = figure
    failed = scores["sanity"]["failed"]
    for name, by_source in scores["sanity"]["similarity"].items():
        for source, steps in by_source.items():
            found[f"{name}/{source}/sanity_similarity"] = steps["all"]["signed"]
            found[f"{name}/{source}/sanity_passed"] = float(source not in failed.get(name, []))
    values = {key: figure.get("value") if isinstance(figure, dict) else figure
              for key, figure in found.items()}  # fmt: skip
    return {f"explain/{key}": float(value) for key, value in values.items() if value is not None}
