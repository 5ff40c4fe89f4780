"""The stages baselines and predict, with a tiny network on a handful of patches."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from idc.core import layout
from idc.core.errors import InputError
from idc.data.images import to_images
from idc.data.patches import FLAGS
from idc.data.tables import (
    BASELINE_SCORES_SCHEMA,
    INDEX_SCHEMA,
    PREDICTIONS_SCHEMA,
    SPLITS_SCHEMA,
    load_scores,
    load_table,
    save_table,
)
from idc.models.baselines.fit import score_baseline
from idc.models.bundle import load_model, save_bundle
from idc.models.scoring.patches import PatchScorer
from idc.stages import baselines, predict
from tests.random_networks import random_fusion, tiny_spec

SPEC = tiny_spec(aux_heads=True)
NUM_PATCHES = 24
HELD_OUT_ROWS = np.arange(12, NUM_PATCHES)
PIXELS = np.random.default_rng(5).integers(0, 256, (NUM_PATCHES, 50, 50, 3), dtype=np.uint8)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with pixels, index, subsets and a model: half train, the rest val and test."""
    monkeypatch.chdir(tmp_path)
    row = np.arange(NUM_PATCHES)
    place = pd.DataFrame(
        {
            "case": [f"case{number // 6}" for number in row],
            "x": (row * 50 + 1).astype(np.int32),
            "y": np.int32(1),
        }
    )
    label = (row % 2).astype(np.int8)
    index = place.assign(
        label=label, height_px=np.int16(50), width_px=np.int16(50), sha256="0" * 64
    ).assign(**dict.fromkeys(FLAGS, False))
    splits = place.assign(
        label=label, split=np.repeat(["train", "train", "val", "test"], 6), in_manifest=True
    )
    splits.insert(0, "row", row)
    layout.PIXELS.parent.mkdir(parents=True)
    np.save(layout.PIXELS, PIXELS)
    save_table(layout.INDEX, index, INDEX_SCHEMA)
    save_table(layout.SPLITS, splits, SPLITS_SCHEMA)
    torch.manual_seed(1)
    model = random_fusion(SPEC.backbones, dropout=0.0, aux_heads=True)
    state = model.state_dict()
    save_bundle(layout.BUNDLE, state, SPEC, pd.DataFrame({"epoch": [1]}), torch.zeros(1))


@pytest.mark.parametrize("option", [{"d4_average": True}, {"precision": "bf16"}])
@pytest.mark.parametrize("asked", [True, False])
def test_predict_when_an_option_of_scoring_is_asked_for_or_not_then_the_logits_follow(
    project, change_params, option, asked
):
    predict.run(change_params(predict=option if asked else {}))
    table = load_table(layout.PREDICTIONS, PREDICTIONS_SCHEMA)
    model, _ = load_model(layout.BUNDLE)
    with_it, without = (
        PatchScorer(model, 32, 16, torch.device("cpu"), options.get("precision", "fp32")).score(
            PIXELS, HELD_OUT_ROWS, d4_average=options.get("d4_average", False)
        )
        for options in (option, {})
    )
    assert np.abs(with_it - without).max() > 1e-4, "the option must make a difference"
    assert table["row"].tolist() == HELD_OUT_ROWS.tolist()
    np.testing.assert_allclose(table["logit"], with_it if asked else without, atol=1e-5)


def test_predict_when_backbones_have_heads_then_holds_their_logits_too(project, change_params):
    predict.run(change_params())
    table = load_table(layout.PREDICTIONS, PREDICTIONS_SCHEMA)
    model, _ = load_model(layout.BUNDLE)
    images = to_images(torch.from_numpy(PIXELS[HELD_OUT_ROWS]), size_px=32, device="cpu")
    with torch.inference_mode():
        alone = model.aux_heads[0](model.branches[0](images)).squeeze(1)
    np.testing.assert_allclose(table["logit_test_resnet"], alone, atol=1e-5)
    assert np.abs(table["logit_test_resnet"] - table["logit"]).max() > 1e-3


def test_predict_when_run_twice_then_writes_equal_bytes(project, change_params):
    written = []
    for _ in range(2):
        predict.run(change_params())
        written.append(layout.PREDICTIONS.read_bytes())
    assert written[0] == written[1]


def test_baselines_when_asked_for_then_the_table_holds_what_they_score(project, change_params):
    baselines.run(change_params(baselines={"names": ["trees"]}, seeds={"training": 4}))
    table = load_table(layout.BASELINE_SCORES, BASELINE_SCORES_SCHEMA)
    train = np.arange(12)
    expected = score_baseline("trees", PIXELS, train, train % 2, HELD_OUT_ROWS, 4)
    np.testing.assert_array_equal(table["y_score_trees"], expected)
    assert list(table) == ["row", "y_score_colour", "y_score_trees"]


def test_baselines_when_none_is_asked_for_then_colour_is_scored_by_mean_and_sd_alone(
    project, change_params
):
    baselines.run(change_params())
    table = load_table(layout.BASELINE_SCORES, BASELINE_SCORES_SCHEMA)
    flat = PIXELS.reshape(NUM_PATCHES, -1, 3).astype(np.float32)
    statistics = np.hstack([flat.mean(axis=1), flat.std(axis=1)]).astype(np.float64)
    train = statistics[:12]
    scaled = (statistics - train.mean(axis=0)) / train.std(axis=0)
    model = LogisticRegression(class_weight="balanced").fit(scaled[:12], np.arange(12) % 2)
    np.testing.assert_allclose(
        table["y_score_colour"], model.predict_proba(scaled[12:])[:, 1], atol=1e-3
    )


def test_load_scores_when_both_stages_ran_then_each_patch_has_its_own(project, change_params):
    params = change_params(baselines={"names": ["trees"]}, seeds={"training": 4})
    predict.run(params)
    baselines.run(params)
    scores = pd.read_parquet(layout.BASELINE_SCORES)
    scores.sample(frac=1, random_state=1).to_parquet(layout.BASELINE_SCORES, index=False)
    both = load_scores(layout.PREDICTIONS, layout.BASELINE_SCORES)
    predictions = pd.read_parquet(layout.PREDICTIONS)
    pd.testing.assert_frame_equal(both[predictions.columns], predictions)
    pd.testing.assert_frame_equal(both[scores.columns], scores)


def test_load_scores_when_they_are_of_other_patches_then_names_both_stages(project, change_params):
    predict.run(change_params())
    baselines.run(change_params())
    pd.read_parquet(layout.BASELINE_SCORES).iloc[1:].to_parquet(layout.BASELINE_SCORES, index=False)
    with pytest.raises(InputError, match="different patches: run `dvc repro baselines predict`"):
        load_scores(layout.PREDICTIONS, layout.BASELINE_SCORES)


def test_predict_when_there_is_a_texture_member_then_holds_the_logits_of_both_halves(
    project, change_params, draw_texture
):
    before, _ = load_model(layout.BUNDLE)
    texture = draw_texture(32)
    images = to_images(torch.from_numpy(PIXELS[HELD_OUT_ROWS]), size_px=32, device="cpu")
    with torch.inference_mode():
        cnn, own = before(images), texture(images)[:, 0]
    before.join_texture(texture)
    spec = replace(SPEC, texture_member=True)
    history = pd.DataFrame({"epoch": [1]})
    save_bundle(layout.BUNDLE, before.state_dict(), spec, history, torch.zeros(1))
    predict.run(change_params())
    table = load_table(layout.PREDICTIONS, PREDICTIONS_SCHEMA)
    logits = [name for name in table.columns if name.startswith("logit")]
    assert logits == ["logit", "logit_test_resnet", "logit_cnn", "logit_texture"]
    np.testing.assert_allclose(table["logit_cnn"], cnn, atol=1e-5)
    np.testing.assert_allclose(table["logit_texture"], own, atol=1e-4)
    np.testing.assert_allclose(table["logit"], (cnn + own) / 2, atol=1e-4)
    assert own.std() > 1e-2
