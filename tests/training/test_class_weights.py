import numpy as np
import pytest

from idc.training.class_weights import weigh_classes


def test_weigh_classes_when_balanced_then_weights_are_inverse_to_the_counts():
    labels = np.array([0] * 30 + [1] * 10)
    assert weigh_classes(labels, "balanced") == pytest.approx([40 / 60, 40 / 20])


def test_weigh_classes_when_the_counts_are_equal_then_both_are_one():
    assert weigh_classes(np.array([1, 0, 1, 0]), "balanced").tolist() == [1.0, 1.0]


def test_weigh_classes_when_the_rule_is_none_then_both_are_one():
    assert weigh_classes(np.array([0, 0, 0, 1]), "none").tolist() == [1.0, 1.0]
