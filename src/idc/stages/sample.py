"""Index -> manifest."""

import logging

from idc import layout
from idc.config import Params
from idc.data.sampling import draw_manifest
from idc.data.tables import INDEX, MANIFEST, load_table, save_table

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Draw the balanced manifest.

    Raises:
        InputError: If a class is missing or the pool is too small.
    """
    manifest = draw_manifest(load_table(layout.INDEX, INDEX), params.sample)
    save_table(layout.MANIFEST, manifest, MANIFEST)
    counts = manifest["label"].value_counts()
    log.info("%d patches: %d IDC-, %d IDC+", len(manifest), counts[0], counts[1])
