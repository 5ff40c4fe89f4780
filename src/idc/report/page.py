"""Render the report and the model card from what the stages wrote; nothing is computed here."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from idc.evaluation.statistics.metrics import PRIMARY
from idc.figures.intervals import METRIC_LABELS
from idc.figures.style import save_figure
from idc.report.pictures import Curves, draw_figures, select_estimates

_SLIDE = "slide_"
_SUBSETS = {
    "test": "Test: all pool patches of the test cases, natural prevalence",
    "test_context": "Test, each patch with its neighbours",
    "test_manifest": "Test, manifest patches only: balanced by design, not comparable",
    "val": "Validation: where threshold and calibration were chosen",
}
_PLACES = {
    "auroc_border": "AUROC of patches touching the other label",
    "auroc_interior": "AUROC of patches touching their own label only",
    "sensitivity_small_regions": "Sensitivity in IDC+ regions under 9 patches (complete cases)",
    "sensitivity_large_regions": "Sensitivity in larger IDC+ regions (complete cases)",
}
_PREDICTORS = {
    "score": "Mean calibrated score of its patches",
    "calibrated": "Calibrated burden",
    "called": "Share of patches predicted IDC+",
    "constant": "Constant",
}


@dataclass(frozen=True)
class ReportInputs:
    """Everything that the report shows."""

    params: dict[str, str]
    ingest: dict[str, Any]
    leakage: dict[str, Any]
    metrics: dict[str, float]
    evaluation: dict[str, Any]
    spec: dict[str, Any]
    operating_point: dict[str, Any]
    history: pd.DataFrame
    curves: Curves
    sheets: dict[str, dict[str, Path | None]]
    """Explanation sheets by panel, then by what their patches have in common; None for a group
    without a patch."""
    attention: dict[str, Path]
    """Pictures of whole cases with where their evidence lies, by case."""
    scores: dict[str, Any] | None
    """Scores of the attribution methods; None where they were not asked for."""
    error_groups: list[dict[str, Any]]
    """What is typical of each group of errors."""
    score_pictures: dict[str, Path]
    """Pictures beside the two: `pointing`, `error_groups_fp`, `error_groups_fn`."""


def render_report(inputs: ReportInputs, figures: Path) -> str:
    """Return one self-contained HTML page.

    Args:
        inputs: What to show.
        figures: Folder that receives the pictures as PNG files too.
    """
    drawn = draw_figures(
        inputs.curves, inputs.metrics, inputs.evaluation, inputs.operating_point, inputs.history
    )
    pictures = {}
    for name, figure in drawn.items():
        path = figures / f"{name}.png"
        save_figure(figure, path)
        pictures[name] = _embed(path.read_bytes())
    return _render(
        "report.html.j2",
        inputs,
        pictures=pictures,
        slides={
            name.removeprefix(_SLIDE): picture
            for name, picture in pictures.items()
            if name.startswith(_SLIDE)
        },
        sheets={
            panel: {
                meaning: _embed(path.read_bytes()) if path else None
                for meaning, path in groups.items()
            }
            for panel, groups in inputs.sheets.items()
        },
        attention={case: _embed(path.read_bytes()) for case, path in inputs.attention.items()},
        score_pictures={
            name: _embed(path.read_bytes()) for name, path in inputs.score_pictures.items()
        },
    )


def render_model_card(inputs: ReportInputs) -> str:
    """Return the model card as Markdown."""
    return _render("model_card.md.j2", inputs)


def _render(template: str, inputs: ReportInputs, **pictures: Any) -> str:  # noqa: ANN401
    environment = Environment(
        loader=PackageLoader("idc.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ablation = inputs.evaluation["ablation"]
    members = {member["name"]: member["title"] for member in ablation["members"]}
    baselines = [name for name in ablation["differences"] if name not in members]
    tables = {subset: select_estimates(inputs.metrics, subset) for subset in _SUBSETS}
    return environment.get_template(template).render(
        inputs=inputs,
        metrics=inputs.metrics,
        evaluation=inputs.evaluation,
        point=inputs.operating_point,
        members=list(members),
        baselines=baselines,
        titles={name: name.replace("_", " ") for name in baselines}
        | {name: title.replace("_", " ") for name, title in members.items()},
        labels=METRIC_LABELS,
        places=_PLACES,
        predictors=_PREDICTORS,
        primary=PRIMARY,
        subsets=_SUBSETS,
        tables={subset: table for subset, table in tables.items() if table},
        colour=select_estimates(inputs.metrics, "test_colour"),
        **pictures,
    )


def _embed(png: bytes) -> Markup:
    # base64 has no markup in it
    return Markup("data:image/png;base64," + base64.b64encode(png).decode())  # noqa: S704
