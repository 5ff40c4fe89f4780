import numpy as np
import pytest
from scipy.special import logit

from idc.core.errors import InputError
from idc.experiments.contradictions import (
    count_confident,
    draw_contact_sheet,
    draw_contexts,
    find_neighbours,
    rank_disagreements,
)

GREY = 190


@pytest.fixture
def index(make_index):
    # 8 a row: case a is a full grid of 3 x 8, case b one row of four
    return make_index({"a": (10, 14), "b": (2, 2)})


def predict(index, probability):
    places = index[["case", "x", "y"]]
    return places.assign(y_true=index["label"], logit=logit(np.asarray(probability)), fold=0)


@pytest.fixture
def pixels(index):
    return np.random.default_rng(0).integers(0, 180, (len(index), 50, 50, 3), dtype=np.uint8)


def test_rank_disagreements_when_ranked_then_those_on_the_other_subset_least_likely_first(index):
    probability = np.where(index["label"] == 1, 0.9, 0.1)
    probability[[3, 12, 25, 27]] = [0.7, 0.01, 0.95, 0.49]
    predictions = predict(index, probability).sample(frac=1.0, random_state=1)
    found = rank_disagreements(predictions, index)
    assert found["row"].tolist() == [12, 25, 3, 27]
    assert found["label"].tolist() == [1, 0, 0, 1]
    assert found["probability"].tolist() == pytest.approx([0.01, 0.95, 0.7, 0.49])
    assert found["against_label"].tolist() == pytest.approx(logit([0.99, 0.95, 0.7, 0.51]))
    assert found["x"].tolist() == index.loc[found["row"], "x"].tolist()


def test_rank_disagreements_when_there_are_neighbours_then_their_share_is_that_of_a_plain_loop(
    index,
):
    everyone = rank_disagreements(predict(index, np.where(index["label"] == 1, 0.2, 0.8)), index)
    rows = everyone["row"].to_numpy()
    expected = [_mean_neighbour_label(index, row) for row in rows]
    np.testing.assert_allclose(everyone["neighbour_idc_share"], expected)
    counts = dict(zip(rows, everyone["num_neighbours"], strict=True))
    assert (counts[0], counts[1], counts[9], counts[24], counts[25]) == (3, 5, 8, 1, 2)


def _mean_neighbour_label(index, row):
    patch = index.loc[row]
    around = index[
        (index["case"] == patch["case"])
        & ((index["x"] - patch["x"]).abs() <= 50)
        & ((index["y"] - patch["y"]).abs() <= 50)
    ]
    return around.drop(index=row)["label"].mean()


def test_rank_disagreements_when_a_patch_is_alone_then_has_no_share(make_index):
    index = make_index({"a": (1, 0), "b": (0, 1)})
    found = rank_disagreements(predict(index, [0.8, 0.3]), index)
    assert found["num_neighbours"].tolist() == [0, 0]
    assert found["neighbour_idc_share"].isna().all()


def test_rank_disagreements_when_all_agree_then_is_empty(index):
    assert rank_disagreements(predict(index, np.where(index["label"], 0.6, 0.4)), index).empty


@pytest.mark.parametrize(
    "change", [{"x": lambda t: t["x"].where(t.index != 4, 9001)},
               {"y_true": lambda t: t["y_true"].where(t.index != 4, 1)}]
)  # fmt: skip
def test_rank_disagreements_when_the_index_is_of_another_archive_then_names_the_first(
    index, change
):
    predictions = predict(index, np.full(len(index), 0.5)).assign(**change)
    with pytest.raises(InputError, match=r"1 predicted patches are not .* first a x\d+ y1: "):
        rank_disagreements(predictions, index)


def test_count_confident_when_counted_by_hand_then_the_same(index):
    predictions = predict(index.head(5), [0.95, 0.04, 0.5, 0.92, 0.89])  # all IDC-
    found = count_confident(predictions, 0.9)
    assert (found["num_patches"], found["num_disagreeing"]) == (3, 2)
    assert found["num_expected"] == pytest.approx(0.05 + 0.04 + 0.08)


def test_find_neighbours_when_in_the_middle_then_row_by_row_from_the_upper_left(index):
    assert find_neighbours(index, np.array([9])).tolist() == [[0, 1, 2, 8, 10, 16, 17, 18]]
    assert find_neighbours(index, np.array([24])).tolist() == [[-1, -1, -1, -1, 25, -1, -1, -1]]


def test_draw_contexts_when_drawn_then_neighbours_are_in_their_places_and_none_is_grey(
    index, pixels
):
    middle, edge = draw_contexts(index, pixels, np.array([9, 24]))
    assert middle.shape == (150, 150, 3)
    for row, (y, x) in {9: (50, 50), 0: (0, 0), 2: (0, 100), 17: (100, 50)}.items():
        inside = np.s_[y + 1 : y + 49, x + 1 : x + 49]  # the outline lies on the neighbours' edge
        np.testing.assert_array_equal(middle[inside], pixels[row, 1:49, 1:49])
    np.testing.assert_array_equal(middle[50:100, 50:100], pixels[9])
    assert (middle[49, 49:101] == (255, 220, 0)).all()
    assert (edge[:49] == GREY).all()
    np.testing.assert_array_equal(edge[50:100, 101:150], pixels[25, :, 1:])


@pytest.mark.parametrize("num_patches", [1, 8])
def test_draw_contact_sheet_when_drawn_then_every_patch_is_named(index, pixels, num_patches):
    ranked = rank_disagreements(predict(index, np.where(index["label"] == 1, 0.2, 0.8)), index)
    figure = draw_contact_sheet(ranked.head(num_patches), index, pixels)
    (axes,) = figure.axes
    head, *names = [text.get_text() for text in axes.texts]
    assert "coarse contours" in head
    assert len(names) == num_patches
    first = ranked.iloc[0]
    says = "IDC+, p(IDC+) 0.2000" if first["label"] else "IDC-, p(IDC+) 0.8000"
    assert names[0] == f"1. labelled {says}\n{first['case']} x{first['x']} y{first['y']}"
    assert axes.images[0].get_array().shape[0] == -(-num_patches // 6) * (150 + 34)
