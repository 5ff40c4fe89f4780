"""Index -> manifest."""

import logging

from idc import layout
from idc.config import Params
from idc.data.patches import load_index
from idc.data.sampling import draw_manifest
from idc.files import replacing_file

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Draw the balanced manifest.

    Raises:
        InputError: If a class is missing or the pool is too small.
    """
    manifest = draw_manifest(load_index(layout.INDEX), params.sample)
    with replacing_file(layout.MANIFEST) as partial:
        manifest.to_csv(partial, index=False)
    counts = manifest["label"].value_counts()
    log.info("%d patches: %d IDC-, %d IDC+", len(manifest), counts[0], counts[1])
