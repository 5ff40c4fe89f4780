"""Index and corrected labels -> manifest."""

import logging

from idc.core import layout
from idc.core.config import Params
from idc.data.manifest.label_overrides import load_label_overrides, relabel
from idc.data.manifest.sampling import draw_manifest
from idc.data.tables import INDEX_SCHEMA, MANIFEST_SCHEMA, load_table, save_table

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Draw the balanced manifest by the archive's labels, then write in the corrected ones.

    Raises:
        InputError: If a class is missing, the pool is too small, or an override is wrong.
    """
    index = load_table(layout.INDEX, INDEX_SCHEMA)
    overrides = load_label_overrides(layout.LABEL_OVERRIDES, index)
    drawn = draw_manifest(index, params.sample, params.seeds.data)
    manifest = relabel(drawn, overrides)
    save_table(layout.MANIFEST, manifest, MANIFEST_SCHEMA)
    counts = drawn["label"].value_counts()
    log.info("%d patches: %d IDC-, %d IDC+", len(drawn), counts[0], counts[1])
    if len(overrides):
        num_changed = int((manifest["label"] != drawn["label"]).sum())
        log.info("%d of %d corrected labels are in it", num_changed, len(overrides))
