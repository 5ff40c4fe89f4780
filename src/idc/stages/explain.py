"""Model, pixels and predictions -> a panel of explained test patches."""

import logging

import numpy as np
import pandas as pd
import torch

from idc import layout
from idc.config import Params
from idc.data.batches import to_images
from idc.data.patches import load_pixels
from idc.data.tables import PREDICTIONS, load_table
from idc.evaluation.operating_point import OperatingPoint
from idc.evaluation.plots import save_figure
from idc.explain.attributions import prepare_for_gradients, saliency_maps
from idc.explain.cams import grad_cams
from idc.explain.panel import GROUPS, draw_panel, draw_sheet
from idc.files import replacing_folder
from idc.models.bundle import digest_bundle, load_model
from idc.models.device import choose_device

log = logging.getLogger(__name__)

_METHODS = {"saliency": saliency_maps, "Grad-CAM": grad_cams}


def run(params: Params) -> None:
    """Explain a seeded panel over both labels and both predictions.

    Raises:
        InputError: If the operating point belongs to another model.
    """
    device = choose_device(params.runtime)
    point = OperatingPoint.load(layout.OPERATING_POINT, model_digest=digest_bundle(layout.BUNDLE))
    test = _load_test(point)
    panel = draw_panel(test, num_per_group=params.explain.num_per_group, seed=params.explain.seed)
    model, spec = load_model(layout.BUNDLE)
    prepare_for_gradients(model.to(device))
    pixels = load_pixels(layout.PIXELS)[panel["row"].to_numpy()]
    images = to_images(torch.from_numpy(pixels), size_px=spec.size_px, device=device)
    maps = {method: _explain(function(model, images)) for method, function in _METHODS.items()}
    _save(panel, pixels, maps)


def _load_test(point: OperatingPoint) -> pd.DataFrame:
    predictions = load_table(layout.PREDICTIONS, PREDICTIONS)
    test = predictions[predictions["split"] == "test"].reset_index(drop=True)
    logits = test["logit"].to_numpy()
    return test.assign(y_score=point.score(logits), y_pred=point.predict(logits))


def _explain(maps: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: heat.numpy() for name, heat in maps.items()}


def _save(panel: pd.DataFrame, pixels: np.ndarray, maps: dict[str, dict[str, np.ndarray]]) -> None:
    columns = ["group", "row", "case", "x", "y", "y_true", "y_pred", "y_score"]
    with replacing_folder(layout.EXPLAIN) as partial:
        panel[columns].round({"y_score": 6}).to_csv(partial / "panel.csv", index=False)
        for group, meaning in GROUPS.items():
            chosen = np.flatnonzero(panel["group"] == group)
            if len(chosen) == 0:
                log.info("no test patch is %s: no sheet %s.png", meaning, group)
                continue
            group_maps = {
                method: {name: heat[chosen] for name, heat in by_name.items()}
                for method, by_name in maps.items()
            }
            sheet = draw_sheet(panel.iloc[chosen], pixels[chosen], group_maps)
            save_figure(sheet, partial / f"{group}.png")
        _log_empty_maps(maps)


def _log_empty_maps(maps: dict[str, dict[str, np.ndarray]]) -> None:
    for method, by_name in maps.items():
        for name, heat in by_name.items():
            num_empty = int((heat.reshape(len(heat), -1).max(axis=1) == 0).sum())
            if num_empty:
                log.info("%s of %s: %d of %d maps are empty", method, name, num_empty, len(heat))
