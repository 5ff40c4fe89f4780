"""Render the report and the model card from what the stages wrote; nothing is computed here."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from idc.evaluation.bootstrap import Estimate
from idc.evaluation.plots import (
    METRIC_LABELS,
    draw_confusion,
    draw_intervals,
    draw_pr,
    draw_roc,
    draw_training,
    save_figure,
)


@dataclass(frozen=True)
class ReportInputs:
    """Everything that the report shows."""

    params: dict[str, str]
    ingest: dict[str, Any]
    leakage: dict[str, Any]
    metrics: dict[str, float]
    spec: dict[str, Any]
    operating_point: dict[str, Any]
    history: pd.DataFrame
    roc: pd.DataFrame
    pr: pd.DataFrame
    confusion: pd.DataFrame
    sheets: dict[str, Path]
    """Explanation sheets by what their patches have in common."""


def render_report(inputs: ReportInputs, scratch: Path) -> str:
    """Return one self-contained HTML page; `scratch` is a folder for the pictures on their way."""
    counts = _confusion_matrix(inputs.confusion)
    figures = {
        "intervals": draw_intervals(select_estimates(inputs.metrics, "test")),
        "roc": draw_roc({"fusion CNN": inputs.roc}),
        "pr": draw_pr({"fusion CNN": inputs.pr}),
        "confusion": draw_confusion(counts),
        "training": draw_training(inputs.history),
    }
    pictures = {name: _embed_figure(figure, scratch) for name, figure in figures.items()}
    sheets = {meaning: _embed(path.read_bytes()) for meaning, path in inputs.sheets.items()}
    return _render("report.html.j2", inputs, pictures=pictures, sheets=sheets)


def render_model_card(inputs: ReportInputs) -> str:
    """Return the model card as Markdown."""
    return _render("model_card.md.j2", inputs)


def select_estimates(metrics: dict[str, float], side: str) -> dict[str, Estimate]:
    """Return the metrics of one side with their intervals, in the order of reading.

    Those that are undefined there are left out.
    """
    return {
        name: Estimate(
            metrics[f"{side}/{name}"], metrics[f"{side}/{name}_low"], metrics[f"{side}/{name}_high"]
        )
        for name in METRIC_LABELS
        if f"{side}/{name}" in metrics
    }


def _render(template: str, inputs: ReportInputs, **pictures: Any) -> str:  # noqa: ANN401
    environment = Environment(
        loader=PackageLoader("idc.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sides = {
        "test": "Test: all pool patches of the test cases, natural prevalence",
        "test_manifest": "Test, manifest patches only: balanced by design, not comparable",
        "val": "Validation: where threshold and calibration were chosen",
    }
    tables = {side: select_estimates(inputs.metrics, side) for side in sides}
    return environment.get_template(template).render(
        inputs=inputs,
        metrics=inputs.metrics,
        labels=METRIC_LABELS,
        sides=sides,
        tables=tables,
        colour=select_estimates(inputs.metrics, "test_colour"),
        **pictures,
    )


def _confusion_matrix(rows: pd.DataFrame) -> np.ndarray:
    names = ["IDC-", "IDC+"]
    table = pd.crosstab(rows["actual"], rows["predicted"])
    return table.reindex(index=names, columns=names, fill_value=0).to_numpy()


def _embed_figure(figure: Figure, scratch: Path) -> Markup:
    path = scratch / "figure.png"
    save_figure(figure, path)
    return _embed(path.read_bytes())


def _embed(png: bytes) -> Markup:
    return Markup("data:image/png;base64," + base64.b64encode(png).decode())
