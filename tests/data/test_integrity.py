import numpy as np
import pandas as pd
import pytest

from idc.data.ingest.integrity import (
    PUBLISHED_ARCHIVE,
    compare_with_published,
    describe_equal_pixels,
    describe_index,
)
from idc.data.patches import FLAGS


def make_index(*rows):
    """Return an index of patches given as (case, label, digest) and what differs from the rest."""
    table = [
        {"case": case, "x": 50 * i + 1, "y": 1, "label": label, "height_px": 50, "width_px": 50}
        | {"sha256": digest * 64, **dict.fromkeys(FLAGS, False), **(other[0] if other else {})}
        for i, (case, label, digest, *other) in enumerate(rows)
    ]
    kinds = {"x": "int32", "y": "int32", "label": "int8", "height_px": "int16", "width_px": "int16"}
    return pd.DataFrame(table).astype(kinds)


@pytest.fixture
def index():
    return make_index(
        ("9", 0, "a", {"sliver": True, "width_px": 7}),
        ("9", 1, "b", {"ink": True}),
        ("9", 1, "c"),
        ("10", 0, "d", {"near_blank": True, "blank": True}),
        ("10", 0, "e", {"ink": True, "near_blank": True}),
    )


def test_describe_index_when_given_an_index_then_counts_patches_classes_and_cases(index):
    described = describe_index(index)
    assert [described[key] for key in PUBLISHED_ARCHIVE] == [5, 3, 2, 2]


def test_describe_index_when_given_an_index_then_counts_both_classes_of_every_case(index):
    assert describe_index(index)["cases"] == {
        "9": {"num_idc_negative": 1, "num_idc_positive": 2},
        "10": {"num_idc_negative": 2, "num_idc_positive": 0},
    }


def test_describe_index_when_patches_are_flagged_then_counts_them_and_their_positives(index):
    flags = describe_index(index)["flags"]
    assert {name: tuple(counts.values()) for name, counts in flags.items()} == {
        "sliver": (1, 0),
        "near_blank": (2, 0),
        "blank": (1, 0),
        "out_of_focus": (0, 0),
        "ink": (2, 1),
    }


def test_describe_index_when_sizes_differ_then_counts_them_as_width_by_height(index):
    assert describe_index(index)["sizes"] == {"50x50": 4, "7x50": 1}


def test_describe_index_when_one_class_is_missing_then_its_count_is_zero():
    assert describe_index(make_index(("9", 1, "a")))["num_idc_negative"] == 0


def test_describe_index_when_the_archive_is_another_then_says_so(index):
    assert not describe_index(index)["published"]["matches"]


def test_compare_with_published_when_all_counts_are_the_published_ones_then_says_it_matches():
    assert compare_with_published(dict(PUBLISHED_ARCHIVE)) == {
        "matches": True,
        "text": "matches the published archive",
    }


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("num_patches", "277,525 patches, published 277,524"),
        ("num_idc_negative", "198,739 IDC-, published 198,738"),
        ("num_idc_positive", "78,787 IDC+, published 78,786"),
        ("num_cases", "280 cases, published 279"),
    ],
)
def test_compare_with_published_when_one_count_differs_then_names_it_alone(key, says):
    compared = compare_with_published(PUBLISHED_ARCHIVE | {key: PUBLISHED_ARCHIVE[key] + 1})
    assert not compared["matches"]
    assert compared["text"] == f"is not the published archive: {says}"


def test_describe_equal_pixels_when_all_differ_then_finds_none(index):
    described = describe_equal_pixels(index)
    assert described == {
        "num_groups": 0,
        "num_patches": 0,
        "num_groups_across_cases": 0,
        "num_groups_across_labels": 0,
        "across_labels": [],
    }


def test_describe_equal_pixels_when_patches_are_equal_then_counts_groups_and_patches():
    index = make_index(("9", 0, "a"), ("9", 0, "a"), ("9", 0, "a"), ("9", 1, "b"), ("9", 1, "b"))
    described = describe_equal_pixels(index)
    assert (described["num_groups"], described["num_patches"]) == (2, 5)


def test_describe_equal_pixels_when_cases_share_them_then_counts_the_group():
    index = make_index(("9", 0, "a"), ("10", 0, "a"), ("9", 1, "b"), ("9", 1, "b"))
    assert describe_equal_pixels(index)["num_groups_across_cases"] == 1


def test_describe_equal_pixels_when_labels_differ_then_names_every_patch_of_the_group():
    index = make_index(("9", 0, "a"), ("10", 1, "a"), ("9", 1, "b"), ("9", 1, "b"))
    described = describe_equal_pixels(index)
    assert described["num_groups_across_labels"] == 1
    assert described["across_labels"] == [["9 x1 y1 label 0", "10 x51 y1 label 1"]]


def test_describe_equal_pixels_when_only_the_size_differs_then_they_are_not_equal():
    index = make_index(
        ("9", 0, "a", {"height_px": 10, "width_px": 20}),
        ("9", 0, "a", {"height_px": 20, "width_px": 10}),
    )
    assert describe_equal_pixels(index)["num_groups"] == 0


def test_describe_equal_pixels_when_there_are_many_groups_then_names_50_and_counts_all():
    digests = [f"{i:02x}" for i in range(60)]
    index = make_index(*[(str(i % 2), i % 2, digests[i // 2]) for i in range(120)])
    described = describe_equal_pixels(index)
    assert (described["num_groups_across_labels"], len(described["across_labels"])) == (60, 50)


def test_describe_index_when_done_then_holds_json_values_only(index):
    kinds = set()

    def visit(value):
        if isinstance(value, dict):
            for below in value.values():
                visit(below)
        elif isinstance(value, list):
            for below in value:
                visit(below)
        else:
            kinds.add(type(value))

    visit(describe_index(index))
    assert not any(issubclass(kind, np.generic) for kind in kinds)
