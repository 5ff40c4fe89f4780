"""Model and pixels -> logits of every pool patch of val, gate and test."""

import logging

from idc.core import layout
from idc.core.config import Params
from idc.data.patches import load_pixels
from idc.data.quality import describe_pixels
from idc.data.subsets import HELD_OUT
from idc.data.tables import INDEX_SCHEMA, PREDICTIONS_SCHEMA, SPLITS_SCHEMA, load_table, save_table
from idc.models.bundle import load_model
from idc.models.networks.device import choose_device
from idc.models.networks.fusion import MemberLogits
from idc.models.scoring.patches import PatchScorer

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Score once; everything after works from the table.

    Raises:
        InputError: If the model or the split table is missing.
    """
    device = choose_device(params.runtime)
    pixels = load_pixels(layout.PIXELS)
    splits = load_table(layout.SPLITS, SPLITS_SCHEMA)
    held_out = splits[splits["split"].isin(HELD_OUT)].reset_index(drop=True)
    rows = held_out["row"].to_numpy()
    held_out["sliver"] = load_table(layout.INDEX, INDEX_SCHEMA)["sliver"].to_numpy()[rows]
    described = describe_pixels(pixels, rows)
    held_out[described.columns.tolist()] = described
    model, spec = load_model(layout.BUNDLE)
    scorer = PatchScorer(
        MemberLogits(model.to(device)),
        spec.size_px,
        params.runtime.scoring_batch_size,
        device,
        params.predict.precision,
    )
    logits = scorer.score(pixels, rows, d4_average=params.predict.d4_average)
    columns = ["logit", *(f"logit_{name}" for name in model.scored_members)]
    held_out[columns] = logits
    predictions = held_out.rename(columns={"label": "y_true"})
    fixed = [name for name, column in PREDICTIONS_SCHEMA.columns.items() if not column.regex]
    save_table(layout.PREDICTIONS, predictions[fixed + columns[1:]], PREDICTIONS_SCHEMA)
    log.info("%d patches scored", len(held_out))
