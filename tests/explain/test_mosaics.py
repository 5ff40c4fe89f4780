import numpy as np
import pandas as pd
import pytest

from idc.explain.scores.mosaics import (
    CHANCE,
    find_unreliable,
    join_mosaics,
    plan_mosaics,
    pointing_share,
)


def draw_test(cases):
    """`{"a": (2, 7)}`: two confident IDC+ and seven confident IDC- patches of case a."""
    rows = [
        {"case": case, "y_true": int(i < pos), "y_score": 0.97 if i < pos else 0.02, "x": 50 * i}
        for case, (pos, neg) in cases.items()
        for i in range(pos + neg)
    ]
    table = pd.DataFrame(rows).assign(y=1, sliver=False)
    return table.assign(row=np.arange(len(table)))


def plan(test, **changes):
    return plan_mosaics(test, **({"num_mosaics": 8, "confidence": 0.9, "seed": 5} | changes))


def test_plan_when_cases_have_enough_then_each_mosaic_is_of_one_case_and_no_patch_comes_twice():
    test = draw_test({"a": (3, 9), "b": (2, 6)})
    found = plan(test)
    assert found.rows.shape == (5, 4)
    assert len(np.unique(found.rows)) == 20
    for rows, right, case in zip(found.rows, found.right_cell, found.case, strict=True):
        patches = test.iloc[rows]
        assert set(patches["case"]) == {case}
        assert list(np.flatnonzero(patches["y_true"])) == [right]


def test_plan_when_many_then_the_right_cell_rotates_and_cases_come_in_turn():
    found = plan(draw_test({"a": (8, 30), "b": (8, 30)}))
    assert list(found.right_cell) == [0, 1, 2, 3, 0, 1, 2, 3]
    assert sorted(found.case) == ["a"] * 4 + ["b"] * 4


def test_plan_when_a_case_has_too_few_or_none_is_confident_then_it_is_left_out_and_counted():
    test = draw_test({"a": (2, 6), "b": (0, 9), "c": (3, 2), "d": (4, 12)})
    test.loc[test["case"] == "d", "y_score"] = 0.5
    found = plan(test)
    assert set(found.case) == {"a"}
    assert found.num_cases_left_out == 3
    nothing = plan(test[test["case"] == "b"])
    assert nothing.rows.shape == (0, 4)


def test_plan_when_patches_are_wrongly_called_or_slivers_then_they_are_not_used():
    test = draw_test({"a": (4, 12)})
    test.loc[test.index[:2], "y_score"] = 0.02
    test.loc[test.index[2], "sliver"] = True
    assert np.isin(plan(test).rows, [0, 1, 2]).sum() == 0


def test_plan_when_the_table_is_shuffled_then_it_is_the_same():
    test = draw_test({"a": (3, 9), "b": (3, 9)})
    first, second = plan(test), plan(test.sample(frac=1, random_state=1))
    assert np.array_equal(first.rows, second.rows)
    assert not np.array_equal(first.rows, plan(test, seed=6).rows)


def test_join_when_four_patches_are_joined_then_each_is_in_its_cell():
    pixels = np.stack([np.full((50, 50, 3), level, np.uint8) for level in range(8)])
    mosaics = join_mosaics(pixels, np.array([[4, 5, 6, 7], [0, 1, 2, 3]]))
    assert mosaics.shape == (2, 100, 100, 3)
    corners = mosaics[:, [10, 10, 60, 60], [10, 60, 10, 60], 0]
    assert corners.tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]


def test_share_when_all_evidence_is_in_the_right_cell_then_1_and_when_empty_chance():
    maps = np.zeros((4, 100, 100))
    maps[0, 60:70, 10:20] = 1.0
    maps[0, :50] = -3.0
    maps[1] = 1.0
    maps[3, :50, :50] = 1.0
    assert pointing_share(maps, np.array([2, 1, 0, 3])) == pytest.approx([1.0, 0.25, CHANCE, 0.0])


def test_find_thrown_off_when_a_backbone_answers_out_of_proportion_then_it_is_named():
    cells = np.array([[1.0, -2.0], [-1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    assert find_unreliable(["calm", "wild"], np.array([[3.0, -30_000.0]]), cells) == ["wild"]
    assert find_unreliable(["calm", "wild"], np.array([[3.0, 3.0]]), cells) == []
