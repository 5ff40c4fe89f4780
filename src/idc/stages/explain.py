"""Model, pixels and predictions -> explained patches and slides of the test set, with scores."""

import logging
import time
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from idc.core import layout
from idc.core.config import Params
from idc.core.errors import InputError
from idc.core.files import replacing_folder, save_json
from idc.data.patches import load_pixels
from idc.data.tables import PREDICTIONS_SCHEMA, load_table
from idc.evaluation.statistics.bootstrap import Bootstrap
from idc.evaluation.threshold.operating_point import OperatingPoint
from idc.explain.maps.attributions import AttributionBudget
from idc.explain.maps.explainer import Explainer, NotFiniteMapError
from idc.explain.maps.methods import METHODS
from idc.explain.panels.error_groups import (
    KINDS,
    describe_groups,
    draw_groups,
    find_errors,
    group_errors,
)
from idc.explain.panels.panel import FUSED, PANELS, draw_errors, draw_reference, sheet_name
from idc.explain.panels.sheets import Column, Meaning, draw_sheet
from idc.explain.panels.slides import choose_slides, draw_attribution_map, spread_scores
from idc.explain.scores.plots import draw_pointing
from idc.explain.scores.table import ExplainedModel, ExplanationScores
from idc.figures.style import save_figure
from idc.models.bundle import load_mean_embedding, load_model
from idc.models.networks.device import choose_device
from idc.models.networks.fusion import FusionCNN
from idc.models.scoring.patches import PatchScorer
from idc.models.spec import digest_bundle

log = logging.getLogger(__name__)

_MIN_SCORED = 2  # batch norms cannot be measured on one patch
# of the methods that point well the cheapest: a case has hundreds of patches
_SLIDE_METHOD = "grad_cam"
_MAX_GROUPED_ERRORS = 500  # most confident FP, and FN: a group of errors shows in far fewer
_EXAMPLES = 8  # of each group of errors
# images per pass: what backward needs of more does not fit small machines
_MAX_BATCH_WITH_GRADIENT = 32

Maps = dict[str, dict[str, np.ndarray]]
"""By method, then by source: float32 (patches, 50, 50)."""


def run(params: Params) -> None:
    """Explain the reference panel, this model's errors, and the largest complete cases.

    The methods are scored on the reference panel, and errors are grouped by what they look like.

    Raises:
        InputError: If a layer or backbone is unknown, a map is not a number, or the
            operating point belongs to another model.
    """
    config = params.explain
    digest = digest_bundle(layout.BUNDLE)
    point = OperatingPoint.load(layout.OPERATING_POINT, model_digest=digest)
    subject = _load_explained_model(params)
    explainer = _TimedExplainer(subject.explain_with(subject.model, subject.mean_embedding))
    pixels = load_pixels(layout.PIXELS)
    test = _load_test(point)
    seed = params.seeds.statistics
    panels = {
        "reference": draw_reference(test, num_patches=config.num_reference, seed=seed),
        "errors": draw_errors(test, num_per_group=config.num_per_group),
    }
    batch_size = params.runtime.scoring_batch_size
    scorer = PatchScorer(subject.model, subject.size_px, batch_size, subject.device)
    with replacing_folder(layout.EXPLAIN) as folder:
        maps: dict[str, Maps] = {}
        for name, panel in panels.items():
            scored = panel.merge(test[["row", "logit", "y_pred", "y_score"]], on="row", how="left")
            maps[name] = _explain_panel(name, scored, pixels, explainer, config.methods, folder)
        if config.num_mosaics == 0:
            log.info("explain.num_mosaics is 0: no method is scored")
        else:
            bootstrap = Bootstrap(params.evaluate.num_replicates, seed)
            scores = ExplanationScores(subject, config, bootstrap)
            _score(scores, panels["reference"], maps["reference"], test, pixels, folder)
        _group_errors(scorer, test, pixels, folder)
        _draw_slides(test, pixels, explainer, config.num_slides, folder)
    explainer.save_times(digest)


class _TimedExplainer:
    """Explains patches, and keeps the time of each method for the log and for `publish`.

    Times are in no output of DVC.
    """

    def __init__(self, explainer: Explainer) -> None:
        self.plain = explainer
        self._seconds: dict[str, float] = {}
        self._patches: dict[str, int] = {}

    def explain(
        self, method: str, patches: pd.DataFrame, pixels: np.ndarray, *, negated: bool = False
    ) -> dict[str, np.ndarray]:
        """Return the maps of the patches, and note how long they took.

        Raises:
            InputError: If a map is not a number, naming the patch.
        """
        start = time.monotonic()
        chosen = pixels[patches["row"].to_numpy()]
        try:
            maps = self.plain.explain(method, chosen, negated=negated)
        except NotFiniteMapError as error:
            patch = patches.iloc[error.patch]
            raise InputError(
                f"case {patch['case']}, x{patch['x']} y{patch['y']}: {error}"
            ) from None
        self._seconds[method] = self._seconds.get(method, 0.0) + time.monotonic() - start
        self._patches[method] = self._patches.get(method, 0) + len(patches)
        return maps

    def save_times(self, model_digest: str) -> None:
        """Log the time per patch of each method, and leave it to `publish`."""
        speed = {
            method: seconds / self._patches[method]
            for method, seconds in self._seconds.items()
            if self._patches[method]
        }
        for method, seconds in speed.items():
            log.info(
                "%s: %.3f s per patch, %.1f s for %d",
                METHODS[method].title, seconds, self._seconds[method], self._patches[method],
            )  # fmt: skip
        log.info("explained in %.0f s", sum(self._seconds.values()))
        times = {"model_digest": model_digest, "seconds_per_patch": speed}
        save_json(layout.EXPLAIN_TIMES, times)


def _load_explained_model(params: Params) -> ExplainedModel:
    model, spec = load_model(layout.BUNDLE)
    device = choose_device(params.runtime)
    batch_size = min(params.runtime.scoring_batch_size, _MAX_BATCH_WITH_GRADIENT)
    budget = AttributionBudget(batch_size, params.seeds.statistics)

    def explain_with(network: FusionCNN, mean_embedding: Tensor) -> Explainer:
        return Explainer(
            network,
            spec.size_px,
            mean_embedding,
            device,
            budget,
            params.explain.cam_layers,
        )

    mean = load_mean_embedding(layout.BUNDLE)
    return ExplainedModel(model.to(device), spec.size_px, mean, device, explain_with)


def _load_test(point: OperatingPoint) -> pd.DataFrame:
    predictions = load_table(layout.PREDICTIONS, PREDICTIONS_SCHEMA)
    test = predictions[predictions["split"] == "test"].reset_index(drop=True)
    logits = test["logit"].to_numpy()
    return test.assign(y_score=point.score(logits), y_pred=point.predict(logits))


def _explain_panel(
    name: str,
    panel: pd.DataFrame,
    pixels: np.ndarray,
    explainer: _TimedExplainer,
    methods: tuple[str, ...],
    folder: Path,
) -> Maps:
    """Write `<name>.csv` and a sheet per group and source; return the maps."""
    maps = {method: explainer.explain(method, panel, pixels) for method in methods}
    opposed = {
        method: _explain_opposition(explainer, method, panel, pixels)
        for method in methods
        if METHODS[method].hides_opposition
    }
    chosen = pixels[panel["row"].to_numpy()]
    contributions = explainer.plain.contributions(chosen)
    _save_table(panel, contributions, explainer.plain.members, folder / f"{name}.csv")
    _log_empty_maps(name, maps)
    for group, meaning in PANELS[name].items():
        members = np.flatnonzero(panel["group"] == group)
        if len(members) == 0:
            log.info("no test patch is %s: no sheet of it in the %s panel", meaning, name)
            continue
        for place, source in enumerate(explainer.plain.sources):
            columns = _columns(source, members, maps, opposed)
            added = None if source == FUSED else contributions[members, place]
            sheet = draw_sheet(
                f"{meaning}: {source}",
                _labels(panel.iloc[members], added),
                chosen[members],
                columns,
            )
            save_figure(sheet, folder / sheet_name(name, group, source))
    return maps


def _explain_opposition(
    explainer: _TimedExplainer, method: str, panel: pd.DataFrame, pixels: np.ndarray
) -> dict[str, np.ndarray]:
    """Return maps of the negated logit for patches predicted IDC-, and NaN for the others."""
    negative = np.flatnonzero(panel["y_pred"] == 0)
    some = explainer.explain(method, panel.iloc[negative], pixels, negated=True)
    maps = {}
    for source, heat in some.items():
        maps[source] = np.full((len(panel), *heat.shape[1:]), np.nan, np.float32)
        maps[source][negative] = heat
    return maps


def _columns(source: str, members: np.ndarray, maps: Maps, opposed: Maps) -> list[Column]:
    columns = []
    for method, by_source in maps.items():
        meaning: Meaning = "for" if METHODS[method].is_signed else "neither"
        columns.append(Column(METHODS[method].title, by_source[source][members], meaning))
    for method, by_source in opposed.items():
        heat = by_source[source][members]
        if not np.isnan(heat).all():
            columns.append(Column(f"{METHODS[method].title} (negated)", heat, "against"))
    return columns


def _labels(patches: pd.DataFrame, added: np.ndarray | None) -> list[str]:
    labels = []
    for place, patch in enumerate(patches.itertuples()):
        lines = [
            f"p(IDC+) = {patch.y_score:.2f}",
            f"predicted {'IDC+' if patch.y_pred else 'IDC-'}",
            f"{patch.case} x{patch.x} y{patch.y}",
        ]
        if added is not None:
            lines.append(f"adds {added[place]:+.2f} to the logit")
        labels.append("\n".join(lines))
    return labels


def _save_table(
    panel: pd.DataFrame, contributions: np.ndarray, members: list[str], path: Path
) -> None:
    table = panel.assign(
        **{f"contribution_{name}": contributions[:, i] for i, name in enumerate(members)}
    )
    table.round(6).to_csv(path, index=False)


def _log_empty_maps(panel: str, maps: Maps) -> None:
    for method, by_source in maps.items():
        for source, heat in by_source.items():
            num_empty = int((heat.reshape(len(heat), -1) == 0).all(axis=1).sum())
            if num_empty:
                log.info(
                    "%s panel, %s of %s: %d of %d maps are empty",
                    panel, METHODS[method].title, source, num_empty, len(heat),
                )  # fmt: skip


def _draw_slides(
    test: pd.DataFrame,
    pixels: np.ndarray,
    explainer: _TimedExplainer,
    num_slides: int,
    folder: Path,
) -> None:
    slides = choose_slides(test, num_slides)
    if not slides and num_slides:
        log.info("no slide: no test case is complete")
    for case in slides:
        patches = test[test["case"] == case]
        heat = explainer.explain(_SLIDE_METHOD, patches, pixels)[FUSED]
        spread = spread_scores(patches["y_score"].to_numpy(), heat)
        title = f"Where it comes from: {METHODS[_SLIDE_METHOD].title}"
        figure = draw_attribution_map(patches, pixels[patches["row"].to_numpy()], spread, title)
        save_figure(figure, folder / f"slide_{case}.png")


def _score(
    table: ExplanationScores,
    panel: pd.DataFrame,
    maps: Maps,
    test: pd.DataFrame,
    pixels: np.ndarray,
    folder: Path,
) -> None:
    """Write `scores.json` and a picture of where methods point."""
    if len(panel) < _MIN_SCORED:
        log.warning("the reference panel holds %d patches: no method is scored", len(panel))
        return
    scores = table.measure(panel, pixels[panel["row"].to_numpy()], maps, test, pixels)
    save_json(folder / layout.EXPLAIN_SCORES.name, scores)
    if "ranking" in scores["mosaics"]:
        save_figure(draw_pointing(scores), folder / "pointing.png")


def _group_errors(
    scorer: PatchScorer[FusionCNN], test: pd.DataFrame, pixels: np.ndarray, folder: Path
) -> None:
    """Write `error_groups.json` and a sheet of examples per kind of error."""
    errors = find_errors(test, max_errors=_MAX_GROUPED_ERRORS)
    rows = errors["row"].to_numpy()
    embeddings = scorer.embed(pixels, rows)
    # a texture member's one number says what it predicts of a patch, not what that looks like
    grouped = group_errors(errors, embeddings[: len(scorer.model.branches)])
    colours = pixels[rows].mean(axis=(1, 2), dtype=np.float64)
    save_json(folder / layout.ERROR_GROUPS.name, describe_groups(grouped, colours))
    for kind, meaning in KINDS.items():
        members = np.flatnonzero(grouped["kind"] == kind)
        if len(members) == 0:
            log.info("no test patch is %s: no groups of them", meaning)
            continue
        sheet = draw_groups(grouped.iloc[members], pixels[rows[members]], num_examples=_EXAMPLES)
        save_figure(sheet, folder / f"error_groups_{kind}.png")
