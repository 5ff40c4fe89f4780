"""The stage evaluate on a table of predictions, without a network."""

import numpy as np
import pandas as pd
import pytest
import torch

from idc.data.tables import PREDICTIONS, save_table
from idc.evaluation.calibration import OperatingPoint
from idc.files import load_json
from idc.layout import BUNDLE, METRICS, OPERATING_POINT
from idc.layout import PREDICTIONS as PREDICTIONS_PATH
from idc.models.bundle import ModelSpec, save_bundle
from idc.stages import evaluate

SPEC = ModelSpec(
    backbones=["test_resnet"], pretrained="none", size_px=32, stem_stride=2, dropout=0.0,
    aux_heads=True,
    class_weights=[1.0, 1.0], num_training_patches=[1, 1], best_epoch=1, val_auroc=0.5,
)  # fmt: skip


@pytest.fixture
def measure(tmp_path, monkeypatch, change_params):
    """`measure(predictions)`: the metrics of these predictions."""
    monkeypatch.chdir(tmp_path)
    weights = {"w": torch.zeros(1)}
    save_bundle(BUNDLE, weights, SPEC, pd.DataFrame({"epoch": [1]}), torch.zeros(1))

    def run(predictions):
        save_table(PREDICTIONS_PATH, predictions, PREDICTIONS)
        evaluate.run(change_params())
        return load_json(METRICS)

    return run


@pytest.fixture
def predictions():
    """Ten cases each of val and test; a tenth of test are slivers, all but one IDC-."""
    rng = np.random.default_rng(3)
    num_patches = 1000
    side = np.repeat(["val", "test"], num_patches // 2)
    y_true = (rng.random(num_patches) < 0.3).astype(np.int8)
    sliver = (side == "test") & (np.arange(num_patches) % 10 == 0)
    y_true[sliver] = 0
    y_true[990] = 1
    table = pd.DataFrame(
        {
            "row": np.arange(num_patches),
            "case": [f"{one}{i % 10}" for i, one in enumerate(side)],
            "x": (np.arange(num_patches) * 50).astype(np.int32),
            "y": np.int32(1),
            "split": side,
            "in_manifest": np.arange(num_patches) % 2 == 0,
            "sliver": sliver,
            "y_true": y_true,
            "logit": (2.0 * y_true - 1 + rng.normal(0, 1.0, num_patches)).astype(np.float32),
            "y_score_colour": rng.random(num_patches),
        }
    )
    # slivers of ten cases, not of one
    table.loc[sliver, "case"] = [f"test{i % 10}" for i in range(int(sliver.sum()))]
    return table.astype({"case": "str", "split": "str"})


def test_run_when_test_holds_slivers_then_reports_them_apart(measure, predictions):
    metrics = measure(predictions)
    assert metrics["test_sliver/num_patches"] == 50
    assert metrics["test_sliver/num_idc"] == 1
    low, value, high = (metrics[f"test_sliver/specificity{end}"] for end in ("_low", "", "_high"))
    assert 0.3 < low < value < high < 1
    assert metrics["test/num_patches"] == 500


def test_run_when_slivers_are_of_too_few_cases_then_counts_them_only(measure, predictions):
    one_case = predictions["case"].isin(["test0", "test1"])
    metrics = measure(predictions.assign(sliver=predictions["sliver"] & one_case))
    assert metrics["test_sliver/num_patches"] == 10
    assert "test_sliver/specificity" not in metrics


def test_run_when_there_is_no_sliver_then_says_none(measure, predictions):
    metrics = measure(predictions.assign(sliver=False))
    assert metrics["test_sliver/num_patches"] == metrics["test_sliver/num_idc_found"] == 0


@pytest.mark.parametrize("d4_average", [True, False])
def test_operating_point_when_written_then_says_how_the_logits_were_made(
    measure, predictions, change_params, d4_average
):
    measure(predictions)  # prepares the folder
    evaluate.run(change_params(predict={"d4_average": d4_average}))
    assert OperatingPoint.load(OPERATING_POINT).d4_average is d4_average
