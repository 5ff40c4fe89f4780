import pandas as pd
import pytest

from idc.data.leakage import measure_leakage, refuse_leakage
from idc.errors import InputError


def table(*rows):
    return pd.DataFrame(rows, columns=["case", "x", "y", "split"])


def test_measure_leakage_when_cases_are_apart_then_finds_none():
    leakage = measure_leakage(table(("a", 1, 1, "train"), ("b", 51, 1, "test")))
    assert leakage["num_cases_on_two_sides"] == 0
    assert leakage["share_test_touching_train"] == 0.0


def test_measure_leakage_when_a_case_is_on_two_sides_then_names_it():
    leakage = measure_leakage(
        table(("a", 1, 1, "train"), ("a", 501, 1, "test"), ("b", 1, 1, "val"))
    )
    assert leakage["cases_on_two_sides"] == ["a"]


@pytest.mark.parametrize(("x", "y", "share"), [(51, 1, 1.0), (51, 51, 1.0), (101, 1, 0.0)])
def test_measure_leakage_when_a_test_patch_is_near_train_then_counts_touching_ones(x, y, share):
    leakage = measure_leakage(table(("a", 1, 1, "train"), ("a", x, y, "test")))
    assert leakage["share_test_touching_train"] == share


def test_refuse_leakage_when_a_case_is_on_two_sides_then_names_it():
    leakage = measure_leakage(table(("a", 1, 1, "train"), ("a", 501, 1, "test")))
    with pytest.raises(InputError, match=r"1 cases are on two sides of the split \(a\)"):
        refuse_leakage(leakage)
