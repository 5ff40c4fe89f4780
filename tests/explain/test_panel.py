import numpy as np
import pandas as pd
import pytest

from idc.explain.panels.panel import PANELS, draw_errors, draw_reference


@pytest.fixture
def test_set():
    """Six cases of 60 patches, half IDC+, of all stains; scores at random."""
    rng = np.random.default_rng(4)
    places = np.arange(360)
    return pd.DataFrame(
        {
            "row": 1000 + places,
            "case": [f"case{place // 60}" for place in places],
            "x": 50 * (places % 60 % 8) + 1,
            "y": 50 * (places % 60 // 8) + 1,
            "y_true": (places % 2).astype(np.int8),
            "mean_optical_density": rng.uniform(0.1, 0.6, 360),
            "sliver": places % 17 == 0,
            "y_pred": rng.integers(0, 2, 360),
            "y_score": rng.random(360),
        }
    )


def test_reference_then_labels_and_stains_are_equally_frequent_and_cases_take_turns(test_set):
    panel = draw_reference(test_set, num_patches=36, seed=1)
    assert (panel.groupby(["group", "stain"]).size() == 6).all()
    assert (panel.groupby(["group", "stain"])["case"].nunique() == 6).all()
    assert ((panel["y_true"] == 1) == (panel["group"] == "positive")).all()
    assert not panel["row"].isin(test_set.loc[test_set["sliver"], "row"]).any()
    stains = test_set.set_index("row")["mean_optical_density"][panel["row"]].to_numpy()
    assert stains[panel["stain"] == "pale"].max() < stains[panel["stain"] == "medium"].min()


def test_reference_when_another_model_scores_or_rows_are_shuffled_then_is_the_same(test_set):
    panel = draw_reference(test_set, num_patches=32, seed=1)
    other = test_set.assign(y_pred=1 - test_set["y_pred"], y_score=1 - test_set["y_score"])
    shuffled = other.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(draw_reference(shuffled, num_patches=32, seed=1), panel)
    assert set(draw_reference(test_set, num_patches=32, seed=2)["row"]) != set(panel["row"])


def test_reference_when_the_subset_is_small_or_of_one_label_then_takes_what_there_is(test_set):
    positive = test_set[test_set["y_true"] == 1].head(5)
    panel = draw_reference(positive, num_patches=32, seed=1)
    assert sorted(panel["row"]) == sorted(positive.loc[~positive["sliver"], "row"])
    assert len(draw_reference(test_set.head(0), num_patches=32, seed=1)) == 0


def test_errors_then_each_group_begins_with_the_most_confident_and_cases_take_turns(test_set):
    panel = draw_errors(test_set, num_per_group=4).merge(
        test_set[["row", "y_pred", "y_score"]], on="row"
    )
    assert list(panel["group"].unique()) == list(PANELS["errors"])
    subsets = test_set.groupby(["y_true", "y_pred"])["y_score"]
    for group, (label, called) in {"fp": (0, 1), "fn": (1, 0), "tp": (1, 1), "tn": (0, 0)}.items():
        members = panel[panel["group"] == group]
        assert (members["y_true"] == label).all()
        assert (members["y_pred"] == called).all()
        assert members["case"].nunique() == 4
        extreme = subsets.max() if called else subsets.min()
        assert members["y_score"].iloc[0] == extreme[label, called]
        assert members["y_score"].is_monotonic_decreasing is bool(called)


def test_errors_when_a_group_is_empty_then_has_no_row_of_it(test_set):
    right = test_set.assign(y_pred=test_set["y_true"])
    assert set(draw_errors(right, num_per_group=4)["group"]) == {"tp", "tn"}


def test_errors_when_one_case_has_all_errors_then_it_comes_more_than_once(test_set):
    wrong = (test_set["case"] == "case2") & (test_set["y_true"] == 0)
    table = test_set.assign(y_pred=np.where(wrong, 1, test_set["y_true"]))
    panel = draw_errors(table, num_per_group=4)
    assert (panel.loc[panel["group"] == "fp", "case"] == "case2").sum() == 4
