import numpy as np
import pandas as pd
import pytest

from idc.core.errors import InputError
from idc.data.split.leakage import measure_leakage, reject_leakage


@pytest.fixture
def measure():
    """`measure(("a", 1, 1, "train"), ...)`: the leakage of patches with noise for pixels."""

    def measure_rows(*rows, pixels=None, no_tissue=()):
        splits = pd.DataFrame(rows, columns=["case", "x", "y", "split"]).rename_axis("row")
        splits = splits.reset_index()
        index = pd.DataFrame({"near_blank": False, "out_of_focus": False, "sliver": False},
                             index=splits.index)  # fmt: skip
        index.loc[list(no_tissue), "near_blank"] = True
        if pixels is None:
            pixels = noise(len(splits))
        return measure_leakage(splits, index, pixels)

    return measure_rows


def noise(count):
    return np.random.default_rng(0).integers(0, 256, (count, 50, 50, 3), dtype=np.uint8)


def test_measure_leakage_when_cases_are_apart_then_finds_none(measure):
    leakage = measure(("a", 1, 1, "train"), ("b", 51, 1, "test"))
    assert leakage["num_shared_cases"] == 0
    assert leakage["share_touching_train"] == {"test": 0.0}
    assert leakage["num_exact_duplicates"] == leakage["num_near_duplicates"] == 0


def test_measure_leakage_when_a_case_is_on_two_subsets_then_names_it(measure):
    leakage = measure(("a", 1, 1, "train"), ("a", 501, 1, "test"), ("b", 1, 1, "val"))
    assert leakage["shared_cases"] == ["a"]


@pytest.mark.parametrize(
    ("x", "y", "share"),
    [(51, 1, 1.0), (51, 51, 1.0), (1, 51, 1.0), (101, 1, 0.0), (0, 0, 0.0), (1, 0, 0.0)],
)
def test_measure_leakage_when_a_test_patch_is_near_train_then_counts_touching_ones(
    measure, x, y, share
):
    leakage = measure(("a", 1, 1, "train"), ("a", x, y, "test"))
    assert leakage["share_touching_train"]["test"] == share


def test_measure_leakage_when_another_case_has_the_place_then_it_does_not_touch(measure):
    leakage = measure(("a", 1, 1, "train"), ("b", 51, 1, "test"), ("b", 1, 1, "val"))
    assert leakage["share_touching_train"] == {"val": 0.0, "test": 0.0}


@pytest.mark.parametrize("subsets", [("train", "test"), ("train", "val"), ("val", "test")])
def test_measure_leakage_when_two_subsets_hold_equal_pixels_then_names_the_pair(measure, subsets):
    pixels = noise(2)
    pixels[1] = pixels[0]
    leakage = measure(("a", 1, 1, subsets[0]), ("b", 51, 1, subsets[1]), pixels=pixels)
    assert leakage["num_exact_duplicates"] == 1
    assert leakage["exact_duplicates"][0]["patches"] == [
        f"a x1 y1 ({subsets[0]})", f"b x51 y1 ({subsets[1]})",
    ]  # fmt: skip


def test_measure_leakage_when_equal_pixels_are_in_one_subset_then_counts_none(measure):
    pixels = noise(2)
    pixels[1] = pixels[0]
    leakage = measure(("a", 1, 1, "train"), ("b", 51, 1, "train"), pixels=pixels)
    assert leakage["num_exact_duplicates"] == 0


def test_measure_leakage_when_equal_pixels_are_glass_then_counts_none(measure):
    pixels = noise(2)
    pixels[1] = pixels[0]
    leakage = measure(("a", 1, 1, "train"), ("b", 51, 1, "test"), pixels=pixels, no_tissue=(0, 1))
    assert leakage["num_exact_duplicates"] == 0


@pytest.mark.parametrize(("change", "count"), [(4, 1), (6, 0)])
def test_measure_leakage_when_pixels_differ_by_little_then_counts_near_duplicates(
    measure, change, count
):
    pixels = noise(2) // 2
    pixels[1] = pixels[0] + change
    leakage = measure(("a", 1, 1, "train"), ("b", 51, 1, "test"), pixels=pixels)
    assert leakage["num_near_duplicates"] == count


def test_refuse_leakage_when_a_case_is_on_two_subsets_then_names_it(measure):
    leakage = measure(("a", 1, 1, "train"), ("a", 501, 1, "test"))
    with pytest.raises(InputError, match=r"1 cases are on two subsets of the split \(a\)"):
        reject_leakage(leakage)


def test_refuse_leakage_when_an_identical_patch_is_on_two_subsets_then_names_the_pair(measure):
    pixels = noise(2)
    pixels[1] = pixels[0]
    leakage = measure(("a", 1, 1, "train"), ("b", 51, 1, "test"), pixels=pixels)
    with pytest.raises(InputError, match=r"very same pixels \(a x1 y1 \(train\) = b x51 y1"):
        reject_leakage(leakage)


def test_refuse_leakage_when_patches_are_only_near_duplicates_then_lets_them_pass(measure):
    pixels = noise(2) // 2
    pixels[1] = pixels[0] + 1
    reject_leakage(measure(("a", 1, 1, "train"), ("b", 51, 1, "test"), pixels=pixels))
