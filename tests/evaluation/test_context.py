import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from idc.core.config import SampleConfig
from idc.core.errors import InputError
from idc.data.manifest.sampling import draw_manifest
from idc.evaluation.cases.context import (
    Kernel,
    average_context,
    count_touching_places,
    distance_to_border,
    fit_gaussian,
    label_regions,
)
from idc.evaluation.statistics.metrics import auroc

EIGHT = np.ones((3, 3))
MEAN9, WIDE = Kernel("mean9"), Kernel("gaussian", 1.5)


def lay(drawing, case="a"):
    """Return the patches of a drawing: `+` is IDC+, `-` is IDC-, a blank is no patch."""
    rows = [
        {"case": case, "x": 50 * column + 1, "y": 50 * row + 101, "y_true": int(mark == "+")}
        for row, line in enumerate(drawing)
        for column, mark in enumerate(line)
        if mark != " "
    ]
    return pd.DataFrame(rows)


def arrays(table, *names):
    return [table[name].to_numpy() for name in names]


def places(table):
    return arrays(table, "case", "x", "y")


def labelled(table):
    return arrays(table, "case", "x", "y", "y_true")


def make_slides(num_cases=12, side=40, seed=0):
    """An index of whole slides: smooth label maps, over a quarter IDC+, no pixels."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(num_cases):
        smooth = ndimage.gaussian_filter(rng.normal(size=(side, side)), 5)
        tissue = ndimage.gaussian_filter(rng.normal(size=(side, side)), 8) > 0
        idc = smooth > np.quantile(smooth[tissue], rng.uniform(0.5, 0.9))
        row, column = np.nonzero(tissue)
        parts.append(
            pd.DataFrame(
                {
                    "case": f"c{number:02d}",
                    "x": 50 * column + 1,
                    "y": 50 * row + 1,
                    "label": idc[row, column].astype(np.int8),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def draw_balanced(index, num_patches, seed):
    config = SampleConfig(
        num_patches=num_patches,
        allow_fewer=False,
        max_per_case=None,
        exclude_flags=(),
    )
    return draw_manifest(index, config, seed)


def test_average_context_when_patches_touch_then_is_the_mean_of_those_at_hand():
    # two touching rows, a patch two steps away, and another case at the same places
    case = np.array(["a"] * 5 + ["b"])
    x = np.array([1, 51, 1, 51, 151, 1])
    y = np.array([1, 1, 51, 101, 1, 1])
    log_odds = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    averaged = average_context(case, x, y, log_odds, MEAN9)
    assert averaged.dtype == np.float64
    assert averaged.tolist() == [7 / 3, 7 / 3, 15 / 4, 6.0, 16.0, 32.0]


@pytest.mark.parametrize("kernel", [MEAN9, WIDE], ids=["mean9", "gaussian"])
def test_average_context_when_patches_are_off_by_a_pixel_then_they_do_not_touch(kernel):
    assert average_context(
        np.array(["a", "a"]), np.array([1, 52]), np.array([1, 1]), np.array([0.0, 1.0]), kernel
    ).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("kernel", "footprint"),
    [
        (MEAN9, np.ones((3, 3))),
        (WIDE, np.outer(*2 * [np.exp(-(np.arange(-4, 5) ** 2) / (2 * 1.5**2))])),
    ],
    ids=["mean9", "gaussian"],
)
def test_average_context_when_a_slide_is_full_then_agrees_with_a_filter_of_its_grid(
    kernel, footprint
):
    log_odds = np.random.default_rng(1).normal(size=(9, 7))
    row, column = np.indices(log_odds.shape).reshape(2, -1)
    sums = ndimage.convolve(log_odds, footprint, mode="constant")
    number = ndimage.convolve(np.ones_like(log_odds), footprint, mode="constant")
    averaged = average_context(
        np.full(row.size, "a"), 50 * column + 1, 50 * row + 1, log_odds.ravel(), kernel
    )
    np.testing.assert_allclose(averaged, (sums / number).ravel(), rtol=1e-12)


@pytest.mark.parametrize("kernel", [MEAN9, WIDE], ids=["mean9", "gaussian"])
def test_average_context_when_rows_are_shuffled_then_no_bit_changes(kernel):
    table = make_slides(num_cases=3)
    table["log_odds"] = np.random.default_rng(2).normal(size=len(table))
    shuffled = table.sample(frac=1, random_state=3)
    expected = average_context(*arrays(table, "case", "x", "y", "log_odds"), kernel)
    averaged = average_context(*arrays(shuffled, "case", "x", "y", "log_odds"), kernel)
    assert averaged.tobytes() == expected[shuffled.index].tobytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": [1, 1]}, "1 patches come twice, the first is of case a, again in row 1"),
        ({"log_odds": [0.0, np.nan]}, "1 of 2 log-odds are NaN"),
        ({"log_odds": [0.0, -np.inf]}, "1 of 2 log-odds are NaN or infinite"),
        ({"log_odds": [0.0]}, "2 patches but 1 log-odds"),
        ({"y": [1]}, "2 cases, 2 x and 1 y"),
    ],
)
def test_average_context_when_the_input_is_unusable_then_says_so(change, said):
    values = {"case": ["a", "a"], "x": [1, 51], "y": [1, 1], "log_odds": [0.0, 1.0]} | change
    with pytest.raises(InputError, match=said):
        average_context(*(np.array(each) for each in values.values()), MEAN9)


def test_average_context_when_there_is_no_patch_then_says_so():
    with pytest.raises(InputError, match="no patches"):
        average_context(*(np.array([]) for _ in range(4)), MEAN9)


@pytest.mark.parametrize("kernel", [MEAN9, WIDE], ids=["mean9", "gaussian"])
def test_sampled_neighbours_when_counted_then_tell_the_label_and_context_does_not_see_them(kernel):
    index = make_slides()
    index["log_odds"] = np.random.default_rng(4).normal(2.0 * index["label"] - 1.5)
    num_patches = int(index["label"].sum())  # half of the IDC+ patches, fewer of the others
    scores = []
    for seed in (1, 2):
        manifest = draw_balanced(index, num_patches, seed)
        sampled = index.index.isin(manifest["row"])
        count = count_sampled_neighbours(index, sampled)
        even = index["case"].str.slice(1).astype(int) % 2 == 0
        learnt = index[even & sampled].groupby(count[even & sampled])["label"].mean()
        unseen = ~even & sampled
        guessed = count[unseen].map(learnt).fillna(0.5)
        assert auroc(index["label"][unseen].to_numpy(), guessed.to_numpy()) >= 0.8

        # a subset lists its manifest rows first: another manifest, another order of the same pool
        subset = pd.concat([index.loc[manifest["row"]], index[~sampled]])
        subset["context"] = average_context(*arrays(subset, "case", "x", "y", "log_odds"), kernel)
        scores.append(subset.sort_index()["context"].to_numpy())
    assert scores[0].tobytes() == scores[1].tobytes()
    label = index["label"].to_numpy()
    assert auroc(label, scores[0]) > auroc(label, index["log_odds"].to_numpy())


@pytest.mark.parametrize("kernel", [MEAN9, WIDE], ids=["mean9", "gaussian"])
def test_average_context_when_all_log_odds_are_alike_then_no_number_of_neighbours_shows(kernel):
    table = make_slides(num_cases=2).sample(frac=0.5, random_state=5)
    averaged = average_context(*arrays(table, "case", "x", "y"), np.full(len(table), -0.7), kernel)
    np.testing.assert_allclose(averaged, -0.7, rtol=1e-12)


@pytest.mark.parametrize(
    ("noise", "low", "high"), [(0.3, 0.3, 0.8), (2.0, 0.8, 2.5), (20.0, 2.5, 4.0)]
)
def test_fit_gaussian_when_scores_are_noisier_then_is_wider(noise, low, high):
    table = make_slides(num_cases=6)
    means = 2.0 * table["label"] - 1.0
    table["log_odds"] = np.random.default_rng(6).normal(means, noise)
    kernel = fit_gaussian(*arrays(table, "case", "x", "y", "log_odds", "label"))
    assert kernel.name == "gaussian"
    assert low <= kernel.width <= high


def test_fit_gaussian_when_another_set_is_scored_then_ranks_better_than_mean9():
    table = make_slides(num_cases=12)
    table["log_odds"] = np.random.default_rng(7).normal(2.0 * table["label"] - 1.0, 4.0)
    even = table["case"].str.slice(1).astype(int) % 2 == 0
    kernel = fit_gaussian(*arrays(table[even], "case", "x", "y", "log_odds", "label"))
    unseen = table[~even]
    label, places_and_odds = (
        unseen["label"].to_numpy(),
        arrays(unseen, "case", "x", "y", "log_odds"),
    )
    reached = [auroc(label, average_context(*places_and_odds, each)) for each in (kernel, MEAN9)]
    assert reached[0] > reached[1] + 0.01


def test_fit_gaussian_when_a_class_is_missing_then_says_so():
    one = np.ones(3)
    with pytest.raises(InputError, match="class"):
        fit_gaussian(np.array(["a"] * 3), np.array([1, 51, 101]), one, one, np.ones(3, np.int8))


def count_sampled_neighbours(index, sampled):
    counts = pd.Series(0, index=index.index)
    for _, case in index.groupby("case"):
        grid = np.zeros((60, 60))
        row, column = case["y"] // 50 + 5, case["x"] // 50 + 5
        grid[row, column] = sampled[case.index]
        counts[case.index] = (ndimage.convolve(grid, EIGHT) - grid)[row, column].astype(int)
    return counts


def test_count_touching_places_when_a_case_has_holes_then_counts_what_is_there():
    table = lay(["+-+", "- -", "   ", "-  "])
    assert count_touching_places(*places(table)).tolist() == [2, 4, 2, 2, 2, 0]


def test_distance_to_border_when_a_patch_touches_the_other_label_then_is_border():
    table = lay(["+----", "     ", "-   -", "  +  "])
    found = distance_to_border(*labelled(table), max_distance=2)
    assert found["distance"].tolist() == [1, 1, 2, 3, 3, 2, 2, 2]
    assert found["is_border"].tolist() == [True, True] + 6 * [False]
    # the last three touch no patch: neither border nor interior
    assert found["is_interior"].tolist() == [False] * 2 + [True] * 3 + [False] * 3


def test_distance_to_border_when_the_other_label_is_in_another_case_then_is_more():
    table = pd.concat([lay(["++"], "a"), lay(["--"], "b")])
    found = distance_to_border(*labelled(table), max_distance=4)
    assert found["distance"].tolist() == [5] * 4
    assert found["is_interior"].all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_distance_to_border_when_slides_are_random_then_agrees_with_every_pair(seed):
    rng = np.random.default_rng(seed)
    marks = rng.choice(list(" -+"), size=(2, 8, 8))
    table = pd.concat([lay(["".join(row) for row in marks[i]], f"c{i}") for i in (0, 1)])
    table = table.sample(frac=1, random_state=seed)
    case, x, y, y_true = labelled(table)
    apart = np.maximum(np.abs(x[:, None] - x), np.abs(y[:, None] - y)) // 50
    other = (case[:, None] == case) & (y_true[:, None] != y_true)
    nearest = np.where(other, apart, 99).min(axis=1)
    found = distance_to_border(case, x, y, y_true, max_distance=3)
    assert found["distance"].tolist() == np.minimum(nearest, 4).tolist()


def test_label_regions_when_patches_touch_by_a_corner_then_they_are_one_region():
    table = lay(["+-+-+", "-+--+", "-----", "++---"])
    regions = label_regions(*labelled(table))
    sizes = regions["region_size"].to_numpy()
    assert sizes[table["y_true"] == 0].max() == 0
    assert sizes[table["y_true"] == 1].tolist() == [3, 3, 2, 3, 2, 2, 2]
    # numbered by case and place, column by column; -1 where IDC-
    assert regions["region"][table["y_true"] == 1].tolist() == [0, 0, 2, 0, 2, 1, 1]
    assert set(regions["region"][table["y_true"] == 0]) == {-1}


def test_label_regions_when_slides_are_whole_then_agrees_with_ndimage():
    table = make_slides(num_cases=4).rename(columns={"label": "y_true"})
    table = table.sample(frac=1, random_state=0)
    regions = label_regions(*labelled(table))["region_size"].to_numpy()
    for case, part in table.groupby("case"):
        grid = np.zeros((40, 40), int)
        grid[part["y"] // 50, part["x"] // 50] = part["y_true"]
        numbered, _ = ndimage.label(grid, EIGHT)
        sizes = np.bincount(numbered.ravel())
        sizes[0] = 0
        expected = sizes[numbered[part["y"] // 50, part["x"] // 50]]
        assert regions[(table["case"] == case).to_numpy()].tolist() == expected.tolist()


def test_label_regions_when_no_patch_is_idc_then_there_is_none():
    regions = label_regions(*labelled(lay(["--", " -"])))
    assert regions["region"].tolist() == [-1] * 3
    assert regions["region_size"].tolist() == [0] * 3
