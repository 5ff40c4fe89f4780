import re
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idc.core.errors import InputError
from idc.data.ingest.names import parse_paths
from idc.data.patches import PatchName, load_pixels

GOOD = "IDC/8863/1/8863_idx5_x51_y1_class1.png"

# the grammar a second time, by another engine: one name without its folders
GRAMMAR = re.compile(
    r'(?P<case>[^_/\\,"#\x00-\x1f]+)_idx5_x(?P<x>[0-9]{1,7})_y(?P<y>[0-9]{1,7})'
    r"_class(?P<label>[01])\.(?:[pP][nN][gG]|[jJ][pP][eE]?[gG])"
)

# unassigned code points are left out: the two Unicode libraries need not be of one version
TEXT = st.characters(min_codepoint=0x20, exclude_categories=("Cs", "Cn"), exclude_characters="/")


def _may_be_in_a_case(char):
    return char not in '_\\,"#' and unicodedata.category(char) not in ("Cc", "Zl", "Zp")


CASES = st.text(TEXT.filter(_may_be_in_a_case), min_size=1, max_size=12)
CASES = CASES.filter(lambda case: case[0] not in "=+-@")
CORNERS_PX = st.integers(0, 9_999_999)
NAMES = st.builds(PatchName, CASES, CORNERS_PX, CORNERS_PX, st.integers(0, 1))
FOLDERS = st.lists(st.text(TEXT, min_size=1, max_size=6), max_size=4)

modest = settings(max_examples=50, deadline=None)


@st.composite
def nearly_names(draw):
    """A name on the grammar with one character more, less, or another."""
    name = str(draw(NAMES))
    place = draw(st.integers(0, len(name)))
    kept = name[place + draw(st.integers(0, 1)) :]
    return name[:place] + draw(st.sampled_from(["", "0", "_", "x", ".", "\n", "é"])) + kept


def normal(text):
    return unicodedata.normalize("NFC", text)


def parse(*paths):
    return parse_paths(pd.Series(paths, dtype="str"))


@modest
@given(NAMES)
def test_parse_paths_when_a_name_was_written_then_reads_back_what_it_says(name):
    read = parse(str(name)).iloc[0]
    said = (normal(name.case), name.x, name.y, name.label)
    assert (read["case"], read["x"], read["y"], read["label"]) == said


@modest
@given(FOLDERS, NAMES)
def test_parse_paths_when_there_are_folders_then_gives_the_innermost_and_their_number(
    folders, name
):
    read = parse("/".join([*folders, str(name)])).iloc[0]
    assert (read["folder"], read["depth"]) == (normal(folders[-1] if folders else ""), len(folders))


@modest
@given(NAMES)
def test_parse_paths_when_one_name_is_composed_and_decomposed_then_both_are_one_case(name):
    forms = [unicodedata.normalize(form, str(name)) for form in ("NFC", "NFD")]
    assert parse(*forms)["case"].tolist() == [normal(name.case)] * 2


@modest
@given(nearly_names())
def test_parse_paths_when_one_character_is_off_then_agrees_with_a_second_reading(name):
    said = GRAMMAR.fullmatch(normal(name))
    expected = [None, -1, -1, -1]
    if said:
        expected = [said["case"], int(said["x"]), int(said["y"]), int(said["label"])]
    read = parse(f"a/{name}", GOOD)[["case", "x", "y", "label"]]
    assert [None if pd.isna(value) else value for value in read.iloc[0]] == expected


@pytest.mark.parametrize(
    "name",
    [
        "8863_idx5_x51_y1_class2.png",
        "8863_idx5_x51_y1_class0.tif",
        "=cmd()_idx5_x51_y1_class0.png",  # a formula, to a spreadsheet
        "+1_idx5_x51_y1_class0.png",
        "-1_idx5_x51_y1_class0.png",
        "@a_idx5_x51_y1_class0.png",
        "a\x9b2J_idx5_x51_y1_class0.png",  # an escape sequence, to a terminal
        "8863_idx5_x51_y1_class0.png\n",
        "8863_idx5_x51_y1.png",
        "8863_idx4_x51_y1_class0.png",
        "8863_idx5_x-1_y1_class0.png",
        "8863_idx5_x_y1_class0.png",
        "8863_idx5_x12345678_y1_class0.png",
        "8863_idx5_x\u0665_y1_class0.png",
        "_idx5_x51_y1_class0.png",
        "a_b_idx5_x51_y1_class0.png",
        "a,b_idx5_x51_y1_class0.png",
        'a"b_idx5_x51_y1_class0.png',
        "a#b_idx5_x51_y1_class0.png",
        "a\\b_idx5_x51_y1_class0.png",
        "a\tb_idx5_x51_y1_class0.png",
        "",
    ],
)
def test_parse_paths_when_off_the_grammar_then_the_case_is_missing_and_numbers_are_minus_one(name):
    read = parse(GOOD, f"8863/0/{name}").iloc[1]
    assert pd.isna(read["case"])
    assert read[["x", "y", "label"]].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "jpeg", "JPG"])
def test_parse_paths_when_a_picture_is_named_otherwise_then_it_is_on_the_grammar(suffix):
    assert parse(f"8863_idx5_x51_y1_class0.{suffix}")["x"].tolist() == [51]


def test_parse_paths_when_off_names_stand_between_then_every_row_keeps_its_index():
    paths = pd.Series(["off.png", GOOD, "off.png"], index=[7, 3, 5])
    assert parse_paths(paths)["x"].to_dict() == {7: -1, 3: 51, 5: -1}


@pytest.mark.parametrize("paths", [(), (GOOD,), (GOOD, "off.png")])
def test_parse_paths_when_done_then_numbers_have_the_documented_types(paths):
    kinds = parse(*paths).dtypes
    assert kinds[["x", "y", "label"]].astype(str).tolist() == ["int32", "int32", "int8"]


def test_load_pixels_when_missing_then_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match="run `dvc repro ingest`"):
        load_pixels(tmp_path / "pixels.npy")


def test_load_pixels_when_opened_then_is_read_only(tmp_path):
    np.save(tmp_path / "pixels.npy", np.zeros((2, 50, 50, 3), np.uint8))
    pixels = load_pixels(tmp_path / "pixels.npy")
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 1
