"""Facts of the real archive at hand; runs where IDC_REAL_DATA names its folder."""

import os
from pathlib import Path

import pytest

from idc.data.archive import list_members, store_patches

FOLDER = os.environ.get("IDC_REAL_DATA")

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(FOLDER is None, reason="IDC_REAL_DATA names no folder with idc_patches.zip"),
]


def test_ingest_when_given_the_real_patches_then_counts_are_the_known_ones(tmp_path):
    listing = list_members([Path(str(FOLDER)) / "idc_patches.zip"])
    index, unreadable = store_patches(listing, tmp_path / "pixels.npy", num_workers=0)
    assert unreadable == []
    assert len(index) == 25_354
    assert index["case"].nunique() == 212
    assert index["label"].value_counts().to_dict() == {0: 18_337, 1: 7_017}
    assert index["sliver"].sum() == 242
    assert not index["sha256"].duplicated().any()
