import numpy as np
import pytest
from sklearn import metrics as sk

from idc.evaluation.curves import MAX_POINTS, confusion_rows, pr_points, roc_points


def draw_side(num_patches):
    rng = np.random.default_rng(1)
    y_true = np.arange(num_patches) % 3 == 0
    return y_true.astype(np.int8), 1 / (1 + np.exp(-rng.normal(1.5 * y_true, 1.0)))


@pytest.mark.parametrize("num_patches", [9, 20_000])
def test_roc_keeps_ends_and_area(num_patches):
    y_true, y_score = draw_side(num_patches)
    points = roc_points(y_true, y_score)
    assert list(points.columns) == ["fpr", "tpr", "threshold"]
    assert len(points) <= MAX_POINTS
    assert points.iloc[0, :2].tolist() == [0.0, 0.0]
    assert (y_score < points["threshold"].iloc[0]).all()
    assert points.iloc[-1, :2].tolist() == [1.0, 1.0]
    assert np.isfinite(points.to_numpy()).all()
    assert (points["threshold"].diff().dropna() <= 0).all()
    area = sk.auc(points["fpr"], points["tpr"])
    assert area == pytest.approx(sk.roc_auc_score(y_true, y_score), abs=1e-3)


@pytest.mark.parametrize("num_patches", [9, 20_000])
def test_pr_keeps_ends_and_lies_on_the_curve(num_patches):
    y_true, y_score = draw_side(num_patches)
    points = pr_points(y_true, y_score)
    assert list(points.columns) == ["recall", "precision", "threshold"]
    assert len(points) <= MAX_POINTS
    assert points.iloc[0, :2].tolist() == [0.0, 1.0]
    assert points.iloc[-1, :2].tolist() == [1.0, pytest.approx(y_true.mean())]
    for row in points.iloc[1::50].itertuples():
        y_pred = y_score >= row.threshold
        assert row.recall == pytest.approx(sk.recall_score(y_true, y_pred))
        assert row.precision == pytest.approx(sk.precision_score(y_true, y_pred))


def test_confusion_rows_name_the_classes():
    rows = confusion_rows([0, 1, 1], [0, 0, 1])
    assert rows["actual"].tolist() == ["IDC-", "IDC+", "IDC+"]
    assert rows["predicted"].tolist() == ["IDC-", "IDC-", "IDC+"]
