import numpy as np
import pandas as pd
import pytest

from idc.training.targets import mean_neighbour_label, smooth_targets

LABELS = np.array([0, 1], dtype=np.int8)


def smooth(neighbour_mean=None, **shares):
    return smooth_targets(
        LABELS, neighbour_mean, **{"label_smoothing": 0.0, "neighbour_smoothing": 0.0, **shares}
    )


def test_smooth_targets_when_nothing_smooths_then_they_are_the_labels():
    targets = smooth()
    assert (targets.tolist(), targets.dtype) == ([0.0, 1.0], np.float32)


def test_smooth_targets_when_labels_smooth_then_they_move_towards_a_half():
    assert smooth(label_smoothing=0.1).tolist() == pytest.approx([0.05, 0.95])


def test_smooth_targets_when_neighbours_smooth_then_they_move_towards_their_mean():
    targets = smooth(np.array([0.5, 1.0]), neighbour_smoothing=0.2)
    assert targets.tolist() == pytest.approx([0.1, 1.0])


def test_smooth_targets_when_both_smooth_then_both_shares_count():
    targets = smooth(np.array([1.0, 0.0]), label_smoothing=0.1, neighbour_smoothing=0.3)
    assert targets.tolist() == pytest.approx([0.35, 0.65])


@pytest.fixture
def index():
    """Two cases; in case a a full 3x3 block whose right column is IDC."""
    block = [("a", 50 * i, 50 * j, int(i == 2)) for i in range(3) for j in range(3)]
    others = [("b", 0, 0, 1), ("b", 100, 0, 0)]  # two steps apart: no neighbours
    return pd.DataFrame([*block, *others], columns=["case", "x", "y", "label"])


def test_mean_neighbour_label_when_all_eight_touch_then_is_their_mean(index):
    everywhere = np.arange(len(index))
    middle = index.query("case == 'a' and x == 50 and y == 50").index.to_numpy()
    assert mean_neighbour_label(index, middle, everywhere).tolist() == [3 / 8]


def test_mean_neighbour_label_when_in_a_corner_then_three_count(index):
    corner = index.query("case == 'a' and x == 100 and y == 0").index.to_numpy()
    assert mean_neighbour_label(index, corner, np.arange(len(index))).tolist() == [1 / 3]


def test_mean_neighbour_label_when_none_touches_then_keeps_the_own_label(index):
    lone = index.query("case == 'b'").index.to_numpy()
    assert mean_neighbour_label(index, lone, np.arange(len(index))).tolist() == [1.0, 0.0]


def test_mean_neighbour_label_when_neighbours_are_outside_the_pool_then_they_do_not_count(index):
    middle = index.query("case == 'a' and x == 50 and y == 50").index.to_numpy()
    pool = index.query("x < 100").index.to_numpy()
    assert mean_neighbour_label(index, middle, pool).tolist() == [0.0]
