import numpy as np
import pytest

from idc.data.patches import PatchName, load_index, load_pixels, parse_patch_name
from idc.errors import InputError


def test_parse_patch_name_when_on_the_grammar_then_reads_every_part():
    name = parse_patch_name("10253_idx5_x1001_y1051_class0.png")
    assert name == PatchName("10253", 1001, 1051, 0)


def test_parse_patch_name_when_written_again_then_is_the_same_name():
    assert str(parse_patch_name("8863_idx5_x51_y1_class1.png")) == "8863_idx5_x51_y1_class1.png"


@pytest.mark.parametrize(
    "name",
    [
        "10253_idx5_x1001_y1051_class2.png",
        "10253_idx5_x1001_y1051_class0.jpg",
        "10253_idx5_x-1_y1051_class0.png",
        "_idx5_x1_y1_class0.png",
        "a/10253_idx5_x1_y1_class0.png",
        "10253_idx5_x1_y1_class0.png\n",
    ],
)
def test_parse_patch_name_when_off_the_grammar_then_refuses(name):
    with pytest.raises(InputError, match="is not named"):
        parse_patch_name(name)


def test_load_index_when_missing_then_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match="run `dvc repro ingest`"):
        load_index(tmp_path / "index.parquet")


def test_load_pixels_when_opened_then_is_read_only(tmp_path):
    np.save(tmp_path / "pixels.npy", np.zeros((2, 50, 50, 3), np.uint8))
    pixels = load_pixels(tmp_path / "pixels.npy")
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 1
