"""Facts of the real archive at hand; runs where IDC_REAL_DATA names its folder."""

import os
from pathlib import Path

import pytest

from idc.data.ingest.archive import list_members
from idc.data.ingest.integrity import describe_index
from idc.data.ingest.pixel_store import store_patches

FOLDER = os.environ.get("IDC_REAL_DATA")

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(FOLDER is None, reason="IDC_REAL_DATA names no folder with idc_patches.zip"),
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    listing = list_members([Path(str(FOLDER)) / "idc_patches.zip"])
    pixels = tmp_path_factory.mktemp("real") / "pixels.npy"
    return store_patches(listing, pixels, num_processes=1)


@pytest.fixture(scope="module")
def described(stored):
    return describe_index(stored.index)


def test_real_patches_when_ingested_then_every_one_is_readable_and_of_one_format(stored):
    assert stored.unreadable == []
    assert stored.formats == {"8-bit RGB PNG": 25_354}


def test_real_patches_when_counted_then_patches_classes_and_cases_are_the_known_ones(described):
    assert described["num_patches"] == 25_354
    assert described["num_cases"] == 212
    assert (described["num_idc_negative"], described["num_idc_positive"]) == (18_337, 7_017)


@pytest.mark.slow
def test_real_patches_when_compared_then_no_two_have_equal_pixels(described):
    assert described["equal_pixels"]["num_groups"] == 0


def test_real_patches_when_judged_then_flags_are_the_known_ones(described):
    flags = {name: counts["num_patches"] for name, counts in described["flags"].items()}
    assert (flags["sliver"], flags["out_of_focus"], flags["ink"]) == (242, 42, 249)
