"""All reports -> one self-contained page and the model card."""

from dataclasses import asdict
from pathlib import Path

from idc.core import layout
from idc.core.config import NON_STAGE_SECTIONS, Params, flatten
from idc.core.files import load_json, replacing_file, replacing_folder
from idc.evaluation.threshold.operating_point import OperatingPoint
from idc.explain.panels.panel import FUSED, PANELS, sheet_name
from idc.models.spec import digest_bundle, load_history, load_spec
from idc.report.page import ReportInputs, render_model_card, render_report
from idc.report.pictures import Curves

_SHOWN_SECTIONS = tuple(
    name for name in Params.model_fields if name not in (*NON_STAGE_SECTIONS, "publish")
)


def run(params: Params) -> None:
    """Render `reports/index.html`, its pictures in `reports/figures`, and `reports/model_card.md`.

    Raises:
        InputError: If a result is missing, or the operating point belongs to another model.
    """
    inputs = _gather(params)
    with replacing_folder(layout.FIGURES) as partial:
        page = render_report(inputs, partial)
    for path, text in (
        (layout.REPORT_PAGE, page),
        (layout.MODEL_CARD, render_model_card(inputs)),
    ):
        with replacing_file(path) as partial:
            partial.write_text(text, encoding="utf-8")


def _gather(params: Params) -> ReportInputs:
    point = OperatingPoint.load(layout.OPERATING_POINT, model_digest=digest_bundle(layout.BUNDLE))
    return ReportInputs(
        params={
            key: value
            for key, value in flatten(params).items()
            if key.split(".")[0] in _SHOWN_SECTIONS
        },
        ingest=load_json(layout.INGEST_REPORT),
        leakage=load_json(layout.LEAKAGE_REPORT),
        metrics=load_json(layout.METRICS),
        evaluation=load_json(layout.EVALUATION),
        spec=asdict(load_spec(layout.BUNDLE)),
        operating_point=asdict(point),
        history=load_history(layout.BUNDLE),
        curves=Curves.load(layout.PLOTS, layout.CASES),
        sheets={panel: _find_sheets(panel) for panel in PANELS},
        attention={
            path.stem.removeprefix("slide_"): path
            for path in sorted(layout.EXPLAIN.glob("slide_*.png"))
        },
        scores=load_json(layout.EXPLAIN_SCORES) if layout.EXPLAIN_SCORES.exists() else None,
        error_groups=load_json(layout.ERROR_GROUPS),
        score_pictures={
            name: path
            for name in ("pointing", "error_groups_fp", "error_groups_fn")
            if (path := layout.EXPLAIN / f"{name}.png").exists()
        },
    )


def _find_sheets(panel: str) -> dict[str, Path | None]:
    """Return the fused sheet of each group by its meaning; None where the group has no patch."""
    paths = {
        meaning: layout.EXPLAIN / sheet_name(panel, group, FUSED)
        for group, meaning in PANELS[panel].items()
    }
    return {meaning: path if path.exists() else None for meaning, path in paths.items()}
