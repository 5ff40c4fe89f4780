"""The stage explain with scores and error groups, on a tiny untrained network."""

import numpy as np
import pandas as pd
import pytest
import torch

from idc import layout
from idc.data.tables import PREDICTIONS, save_table
from idc.evaluation.operating_point import OperatingPoint
from idc.files import load_json
from idc.models.bundle import ModelSpec, digest_bundle, save_bundle
from idc.models.fusion import FusionCNN
from idc.stages import explain

SPEC = ModelSpec(["test_resnet"], "none", 32, 2, 0.0, True, [1.0, 1.0], [50, 50], 1, 0.5)
SCORES = {
    "sources": "fused",
    "num_steps": 2,
    "num_mosaics": 4,
    "mosaic_confidence": 0.6,
    "num_sanity_patches": 2,
    "num_replicates": 100,
}


@pytest.fixture
def explain_test(tmp_path, monkeypatch, change_params):
    """`explain_test(flip, **changes)`: run the stage where every patch with `flip` is an error."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = FusionCNN(SPEC.backbones, pretrained="none", dropout=0.0, aux_heads=True)
    history = pd.DataFrame({"epoch": [1]})
    mean = torch.zeros(sum(branch.num_features for branch in model.branches))
    save_bundle(layout.BUNDLE, model.state_dict(), SPEC, history, mean)
    pixels = np.random.default_rng(0).integers(60, 240, (48, 50, 50, 3), dtype=np.uint8)
    layout.PATCHES.mkdir(parents=True)
    np.save(layout.PIXELS, pixels)
    OperatingPoint(
        slope=1.0, intercept=0.0, threshold=0.5, threshold_low=0.4, threshold_high=0.6,
        threshold_rule="youden", prior_shift=0.0, model_digest=digest_bundle(layout.BUNDLE),
        d4_average=False,
    ).save(layout.OPERATING_POINT)  # fmt: skip

    def run(flip, **changes):
        number = np.arange(48)
        y_true = number % 4 == 0
        called = np.where(flip(number), ~y_true, y_true)
        table = pd.DataFrame(
            {
                "row": number,
                "case": [f"case{n // 12}" for n in number],
                "x": (50 * (number % 12) + 1).astype(np.int32),
                "y": np.int32(1),
                "split": "test",
                "in_manifest": True,
                "sliver": False,
                "mean_optical_density": number / 100,
                "white_share": 0.1,
                "y_true": y_true.astype(np.int8),
                "logit": np.where(called, 2.0, -2.0).astype(np.float32),
                "y_score_colour": 0.5,
            }
        ).astype({"case": "str", "split": "str"})
        save_table(layout.PREDICTIONS, table, PREDICTIONS)
        shown = {
            "methods": ["saliency", "grad_cam"], "num_reference": 4, "num_per_group": 1,
            "num_slides": 0, "scores": SCORES,
        }  # fmt: skip
        explain.run(change_params(explain=shown | changes))
        return {path.name for path in layout.EXPLAIN.iterdir()}

    return run


def test_explain_when_scores_are_asked_for_then_table_and_pictures_are_written(explain_test):
    names = explain_test(lambda number: number % 5 == 0)
    assert {"scores.json", "pointing.png", "error_groups.json"} <= names
    assert {"error_groups_fp.png", "error_groups_fn.png"} <= names
    scores = load_json(layout.EXPLAIN_SCORES)
    assert scores["num_patches"] == 4
    assert scores["mosaics"]["num_mosaics"] == 4
    groups = load_json(layout.ERROR_GROUPS)
    assert sum(group["num_patches"] for group in groups) == 10
    before = layout.EXPLAIN_SCORES.read_bytes()
    explain_test(lambda number: number % 5 == 0)
    assert layout.EXPLAIN_SCORES.read_bytes() == before


def test_explain_when_nothing_is_wrong_and_no_scores_are_wanted_then_neither_is_there(
    explain_test, caplog
):
    with caplog.at_level("INFO"):
        names = explain_test(lambda number: number < 0, scores=None)
    assert "scores.json" not in names
    assert load_json(layout.ERROR_GROUPS) == []
    assert not any(name.startswith("error_groups_") for name in names)
    assert "no method is scored" in caplog.text
    assert "no groups of them" in caplog.text
