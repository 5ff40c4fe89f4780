import numpy as np
import pandas as pd
import pytest

from idc.explain.panels.error_groups import (
    describe_groups,
    draw_groups,
    find_errors,
    group_errors,
)


@pytest.fixture
def test_set():
    """Forty patches of four cases in a row; every third is wrong."""
    number = np.arange(40)
    y_true = (number % 2).astype(np.int8)
    wrong = number % 3 == 0
    y_pred = np.where(wrong, 1 - y_true, y_true).astype(np.int8)
    return pd.DataFrame(
        {
            "row": number,
            "case": [f"c{n // 10}" for n in number],
            "x": 50 * number,
            "y": 1,
            "y_true": y_true,
            "y_pred": y_pred,
            "y_score": np.where(y_pred == 1, 0.6 + number / 200, 0.3 - number / 200),
            "mean_optical_density": 0.3,
            "white_share": number / 40,
        }
    )


def cluster_points(errors):
    """Two clouds: patches of an even column of ten and others, seen alike by both backbones."""
    rng = np.random.default_rng(0)
    far = (errors["row"].to_numpy() % 12 < 6).astype(float)[:, None]
    return [10 * far + rng.normal(size=(len(errors), size)) for size in (4, 7)]


def test_errors_when_found_then_the_most_confident_of_each_kind_come_first(test_set):
    errors = find_errors(test_set, max_errors=5)
    assert list(errors["kind"]) == ["fp"] * 5 + ["fn"] * 5
    fp, fn = (errors[errors["kind"] == kind] for kind in ("fp", "fn"))
    assert (fp["y_true"] == 0).all()
    assert (fn["y_true"] == 1).all()
    assert fp["y_score"].is_monotonic_decreasing
    assert fn["y_score"].is_monotonic_increasing
    assert errors["burden"].eq(0.5).all()
    assert errors["is_border"].all()


def test_groups_when_errors_are_in_two_clouds_then_they_are_kept_apart(test_set):
    wide = pd.concat([test_set.assign(case=test_set["case"] + name) for name in "abcd"])
    errors = find_errors(wide.assign(row=np.tile(np.arange(40), 4)), max_errors=100)
    grouped = group_errors(errors, cluster_points(errors))
    for _, part in grouped.groupby("kind"):
        assert set(part["group"]) == {1, 2}
        cloud = part["row"] % 12 < 6
        assert (
            part.groupby("group")["row"].apply(lambda rows: (rows % 12 < 6).nunique()).eq(1).all()
        )
        assert cloud.nunique() == 2
        sizes = part["group"].value_counts()
        assert sizes[1] >= sizes[2]


def test_groups_when_there_are_few_errors_then_one_group_and_none_then_none(test_set):
    errors = find_errors(test_set, max_errors=3)
    assert set(group_errors(errors, cluster_points(errors))["group"]) == {1}
    right = find_errors(test_set.assign(y_pred=test_set["y_true"]), max_errors=3)
    grouped = group_errors(right, [np.zeros((0, 4))])
    assert grouped.empty
    assert describe_groups(grouped, np.zeros((0, 3))) == []


def test_description_when_made_then_it_counts_cases_and_averages_traits(test_set):
    errors = find_errors(test_set, max_errors=3)
    grouped = group_errors(errors, cluster_points(errors))
    colours = np.column_stack([np.arange(6), np.zeros(6), np.full(6, 200)])
    fp, fn = describe_groups(grouped, colours)
    assert (fp["kind"], fn["kind"]) == ("fp", "fn")
    chosen = grouped[grouped["kind"] == "fp"]
    assert fp["num_patches"] == 3
    assert fp["white_share"] == pytest.approx(chosen["white_share"].mean())
    assert fp["mean_colour"] == [1.0, 0.0, 200.0]
    assert fn["mean_colour"] == [4.0, 0.0, 200.0]
    assert fp["num_cases"] == chosen["case"].nunique()
    assert fp["touching_other_label"] == 1.0


def test_sheet_when_drawn_then_it_has_a_row_per_group_and_its_words(test_set):
    errors = find_errors(test_set, max_errors=6)
    grouped = group_errors(errors, cluster_points(errors))
    part = grouped[grouped["kind"] == "fp"]
    pixels = np.zeros((len(part), 50, 50, 3), np.uint8)
    figure = draw_groups(part, pixels, num_examples=2)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert sum(word.startswith("Group") for word in words) == part["group"].nunique()
    assert sum(word.startswith("p = ") for word in words) == 2 * part["group"].nunique()
