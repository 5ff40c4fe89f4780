import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from idc.core.errors import InputError
from idc.evaluation.cases.burden import Absent
from idc.evaluation.statistics.bootstrap import Bootstrap, bootstrap_metrics, bootstrap_share
from idc.evaluation.subgroups import (
    find_subgroups,
    measure_borders,
    measure_regions,
    subgroup_table,
)

NUM_CASES, SIDE, THRESHOLD = 9, 12, 0.4
METRICS = [
    "auroc",
    "balanced_accuracy",
    "calibration_gap",
    "calibration_slope",
    "calibration_intercept",
]


@pytest.fixture(scope="module")
def patches():
    """Nine full grids, IDC+ in their upper rows, ever more of it from case to case."""
    rng = np.random.default_rng(0)
    row, column = np.indices((SIDE, SIDE)).reshape(2, -1)
    table = pd.concat(
        [
            pd.DataFrame(
                {
                    "case": f"c{number}",
                    "x": 50 * column + 1,
                    "y": 50 * row + 1,
                    "y_true": (row <= number).astype(np.int8),
                }
            )
            for number in range(NUM_CASES)
        ],
        ignore_index=True,
    )
    num_patches = len(table)
    table["log_odds"] = rng.normal(2.0 * table["y_true"] - 1.2)
    table["mean_optical_density"] = rng.permutation(num_patches) / num_patches
    table["white_share"] = rng.permutation(num_patches) / num_patches
    table["sliver"] = table["x"] == 50 * (SIDE - 1) + 1
    return table


@pytest.fixture(scope="module")
def table(patches):
    return measure(patches)


def measure(patches):
    return subgroup_table(patches, THRESHOLD, Bootstrap(60, 5))


def pick(table, family, group):
    return table[(table["family"] == family) & (table["group"] == group)].set_index("metric")


def test_subgroup_table_when_measured_then_every_family_has_its_groups_and_metrics(table):
    groups = table.groupby("family", sort=False)["group"].unique().map(list)
    assert groups.to_dict() == {
        "case_burden": ["low", "middle", "high"],
        "stain": ["pale", "middle", "dark"],
        "white_share": ["up_to_10", "10_to_50", "over_50"],
        "size": ["whole", "sliver"],
        "border": ["border", "interior", "alone"],
    }
    assert table.groupby(["family", "group"])["metric"].agg(list).map(METRICS.__eq__).all()


def test_find_subgroups_when_families_are_formed_then_each_patch_is_in_one_group(patches):
    for family, groups in find_subgroups(patches).items():
        members = np.stack([inside for _, inside in groups.values()])
        assert (members.sum(axis=0) == 1).all(), family


def test_find_subgroups_when_of_burden_then_cases_are_assigned_in_thirds(patches):
    thirds = find_subgroups(patches)["case_burden"]
    found = {group: set(patches["case"][inside]) for group, (_, inside) in thirds.items()}
    assert found == {
        "low": {"c0", "c1", "c2"},
        "middle": {"c3", "c4", "c5"},
        "high": {"c6", "c7", "c8"},
    }


def test_find_subgroups_when_of_white_then_limits_belong_to_the_lower_group(patches):
    at_limits = patches.head(4).assign(white_share=[0.1, 0.11, 0.5, 0.51])
    groups = find_subgroups(at_limits)["white_share"]
    assert [inside.tolist() for _, inside in groups.values()] == [
        [True, False, False, False],
        [False, True, True, False],
        [False, False, False, True],
    ]


def test_find_subgroups_when_of_the_border_then_two_rows_of_each_case_touch_it(patches):
    border = find_subgroups(patches)["border"]
    assert border["border"][1].sum() == NUM_CASES * 2 * SIDE
    assert border["alone"][1].sum() == 0


def test_subgroup_table_when_a_group_is_measured_then_agrees_with_the_bootstrap_of_its_patches(
    patches, table
):
    part = patches[patches["sliver"]]
    expected = bootstrap_metrics(
        part["y_true"].to_numpy(),
        expit(part["log_odds"].to_numpy()),
        part["case"].to_numpy(),
        THRESHOLD,
        Bootstrap(60, 5),
    )
    found = pick(table, "size", "sliver")
    for name in ("auroc", "balanced_accuracy"):
        assert found.loc[name, ["value", "low", "high"]].tolist() == [
            expected[name].value,
            expected[name].low,
            expected[name].high,
        ]
    assert set(found["num_patches"]) == {NUM_CASES * SIDE}
    assert set(found["num_cases"]) == {NUM_CASES}


def test_subgroup_table_when_scores_are_shifted_then_the_calibration_shows_it(patches):
    part = patches[patches["white_share"] > 0.5]
    found = pick(measure(patches), "white_share", "over_50")
    gap = expit(part["log_odds"]).mean() - part["y_true"].mean()
    assert found.loc["calibration_gap", "value"] == pytest.approx(gap)
    assert found.loc["calibration_gap", "low"] < gap < found.loc["calibration_gap", "high"]
    line = LogisticRegression(C=np.inf, tol=1e-9).fit(part[["log_odds"]], part["y_true"])
    assert found.loc["calibration_slope", "value"] == pytest.approx(line.coef_[0, 0], rel=1e-4)
    assert found.loc["calibration_intercept", "value"] == pytest.approx(
        line.intercept_[0], rel=1e-3
    )
    assert found.loc[["calibration_slope", "calibration_intercept"], "low"].isna().all()


def test_subgroup_table_when_scores_mean_what_they_say_then_the_gap_holds_0():
    rng = np.random.default_rng(1)
    log_odds = rng.normal(size=6000)
    patches = pd.DataFrame(
        {
            "case": np.repeat([f"c{number:02d}" for number in range(30)], 200),
            "x": np.tile(100 * np.arange(200), 30),
            "y": 1,
            "y_true": (rng.random(6000) < expit(log_odds)).astype(np.int8),
            "log_odds": log_odds,
            "mean_optical_density": rng.random(6000),
            "white_share": rng.random(6000),
            "sliver": False,
        }
    )
    found = pick(measure(patches), "border", "alone")
    assert found.loc["calibration_gap", "low"] < 0 < found.loc["calibration_gap", "high"]
    assert found.loc["calibration_slope", "value"] == pytest.approx(1, abs=0.1)
    assert found.loc["calibration_intercept", "value"] == pytest.approx(0, abs=0.1)


def test_subgroup_table_when_a_metric_is_undefined_then_its_numbers_are_empty_and_say_why(
    patches, table
):
    alone = pick(table, "border", "alone")
    assert set(alone["reason"]) == {"no patches"}
    assert alone[["value", "low", "high"]].isna().all().all()

    one_class = measure(patches[(patches["y_true"] == 0) | ~patches["sliver"]])
    slivers = pick(one_class, "size", "sliver")
    assert slivers.loc["auroc", "reason"].endswith("patches are IDC-")
    assert pd.isna(slivers.loc["auroc", "value"])
    assert slivers.loc["calibration_gap", "reason"] == ""

    two_cases = measure(patches[patches["case"].isin(["c0", "c1"]) | ~patches["sliver"]])
    slivers = pick(two_cases, "size", "sliver")
    for name in ("auroc", "balanced_accuracy", "calibration_gap"):
        assert slivers.loc[name, "reason"] == "2 of 3 cases needed"
    # a line needs patches of both classes, not cases
    assert slivers.loc["calibration_slope", "reason"] == ""
    assert not pd.isna(slivers.loc["calibration_slope", "value"])


def test_subgroup_table_when_a_number_is_given_then_it_is_finite_and_has_no_reason(table):
    given = table["value"].notna()
    assert (table["reason"] == "").tolist() == given.tolist()
    assert np.isfinite(table.loc[given, "value"].to_numpy(float)).all()


@pytest.mark.parametrize(
    ("log_odds", "reason"),
    [(1.0, "IDC+ scores no higher than IDC-"), (None, "scores separate the classes")],
)
def test_subgroup_table_when_scores_allow_no_line_then_says_so(patches, log_odds, reason):
    scores = patches["y_true"] * 2.0 if log_odds is None else log_odds
    found = pick(measure(patches.assign(log_odds=scores)), "size", "whole")
    assert found.loc["calibration_slope", "reason"] == reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda patches: patches.drop(columns="sliver"), "lack sliver"),
        (lambda patches: patches.head(0), "no patches"),
        (lambda patches: patches.assign(log_odds=np.nan), "of log_odds are NaN"),
        (lambda patches: pd.concat([patches, patches.head(1)]), "come twice"),
    ],
)
def test_subgroup_table_when_the_patches_are_unusable_then_says_so(patches, change, said):
    with pytest.raises(InputError, match=said):
        measure(change(patches))


def test_measure_regions_when_regions_differ_then_small_ones_are_kept_apart():
    # per case a region of 8 patches of which 6 are called, and one of 9 that all are
    rows = [(1 + 50 * i, 1, 1.0 if i < 6 else -3.0) for i in range(8)]
    rows += [(1 + 50 * i, 501, 1.0) for i in range(9)]
    parts = [
        pd.DataFrame(rows, columns=["x", "y", "log_odds"]).assign(case=case, y_true=1)
        for case in "abc"
    ]
    patches = pd.concat(parts, ignore_index=True)
    figures = measure_regions(patches, 0.5, Bootstrap(40, 0))
    small = patches["y"] == 1
    assert figures["sensitivity_small_regions"] == bootstrap_share(
        (patches["log_odds"] > 0)[small].to_numpy(),
        patches["case"][small].to_numpy(),
        Bootstrap(40, 0),
    )
    assert figures["sensitivity_small_regions"].value == 0.75
    assert figures["sensitivity_large_regions"].value == 1.0


def test_measure_regions_when_there_is_no_small_region_then_is_absent(patches):
    figures = measure_regions(patches, 0.5, Bootstrap(20, 0))
    assert figures["sensitivity_small_regions"] == Absent("no patches")


def test_measure_borders_when_measured_then_are_the_aurocs_of_the_two_groups(patches):
    figures = measure_borders(patches, THRESHOLD, Bootstrap(60, 5))
    for name, (_, inside) in find_subgroups(patches)["border"].items():
        if name == "alone":
            continue
        part = patches[inside]
        expected = roc_auc_score(part["y_true"], part["log_odds"])
        assert figures[f"auroc_{name}"].value == pytest.approx(expected)


def test_measure_borders_when_all_labels_are_alike_then_are_absent_with_a_reason(patches):
    figures = measure_borders(patches.assign(y_true=0), THRESHOLD, Bootstrap(20, 0))
    assert figures["auroc_border"] == Absent("no patches")
    assert "are IDC-" in figures["auroc_interior"].reason
