"""All scores together, on a network of one small backbone and patches with a planted square."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch

from idc.core.config import ExplainScoresConfig
from idc.explain.maps.explainer import Explainer
from idc.explain.scores import table as score_table
from idc.explain.scores.fast_scores import create_score
from idc.explain.scores.table import ExplainedModel, ExplanationScores
from idc.models.networks.fusion import FusionCNN
from idc.tracking.explanation_metrics import score_metrics

METHODS = ("saliency", "grad_cam")
CONFIG = ExplainScoresConfig(
    sources="fused",
    num_steps=2,
    num_mosaics=4,
    mosaic_confidence=0.6,
    num_sanity_patches=3,
    num_replicates=100,
)


def explain_with(model, mean_embedding):
    return Explainer(
        model, 32, mean_embedding, torch.device("cpu"),
        batch_size=8, smooth_grad_samples=2, integrated_gradients_steps=2, seed=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    model = FusionCNN(["test_resnet", "test_efficientnet"], pretrained="none", dropout=0.0).eval()
    mean = torch.zeros(sum(branch.num_features for branch in model.branches))
    return ExplainedModel(model, 32, mean, torch.device("cpu"), explain_with)


@pytest.fixture(scope="module")
def store():
    return np.random.default_rng(0).integers(60, 240, (48, 50, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def test_set():
    number = np.arange(48)
    idc = number % 4 == 0
    return pd.DataFrame(
        {
            "row": number,
            "case": [f"case{n // 12}" for n in number],
            "x": 50 * number,
            "y": 1,
            "y_true": idc.astype(np.int8),
            "y_score": np.where(idc, 0.9, 0.1),
            "sliver": False,
        }
    )


@pytest.fixture(scope="module")
def measure(subject, store, test_set):
    def run(config=CONFIG, test=test_set):
        panel = test_set.iloc[::12]
        pixels = store[panel["row"].to_numpy()]
        explainer = explain_with(subject.model, subject.mean_embedding)
        maps = {name: explainer.explain(name, pixels) for name in METHODS}
        scores = ExplanationScores(subject, METHODS, config, seed=5)
        return scores.measure(panel, pixels, maps, test, store)

    return run


@pytest.fixture(scope="module")
def scores(measure):
    return measure(CONFIG.model_copy(update={"sources": "each"}))


def test_scores_when_measured_then_every_method_stands_beside_the_baselines(scores):
    sources = {"test_resnet", "test_efficientnet", "fused"}
    assert set(scores["faithfulness"]) == sources
    for by_name in scores["faithfulness"].values():
        assert set(by_name) == {*METHODS, "random", "centre", "darkness"}
        figure = by_name["saliency"]["deletion_auc"]
        assert figure["low"] < figure["value"] < figure["high"]
        assert by_name["random"]["road_gain"]["value"] == 0
    assert set(scores["mosaics"]["baselines"]) == {"random", "centre", "darkness"}
    assert scores["mosaics"]["baselines"]["random"]["value"] == pytest.approx(0.25, abs=0.02)
    assert set(scores["mosaics"]["untrained"]["grad_cam"]) == sources
    assert set(scores["mosaics"]["ranking"]) == set(METHODS)
    calm = sources - {"fused", *scores["mosaics"]["thrown_off"]}
    assert scores["mosaics"]["ranked_by"] in (["fused"], sorted(calm, reverse=True))
    assert set(scores["sanity"]["similarity"]["saliency"]["fused"]) == {"head", "deep", "all"}
    assert set(scores["traits"]["baselines"]) == {"random", "centre", "darkness"}


def test_scores_when_measured_again_then_equal_and_plain_data_and_the_model_untouched(
    scores, measure, subject
):
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    again = measure()  # of the fused maps alone
    after = subject.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert set(again["faithfulness"]) == {"fused"}
    expected = scores | {"faithfulness": {"fused": scores["faithfulness"]["fused"]}}
    text = json.dumps(expected, allow_nan=False, sort_keys=True)
    assert text == json.dumps(again, allow_nan=False, sort_keys=True)


def test_mosaics_when_no_patch_is_confident_then_said_and_nothing_ranked(measure, test_set):
    found = measure(test=test_set.assign(y_score=0.5))
    assert found["mosaics"]["num_mosaics"] == 0
    assert "confident" in found["mosaics"]["reason"]
    assert found["mosaics"]["num_cases_left_out"] == 4
    metrics = score_metrics(found)
    assert not any("mosaic" in key for key in metrics)


def test_sanity_when_a_methods_maps_never_change_then_it_fails_and_the_log_warns(
    monkeypatch, measure, caplog
):
    explain = Explainer.explain

    def constant_saliency(self, method, pixels, **options):
        maps = explain(self, method, pixels, **options)
        if method == "saliency":
            return {source: np.ones_like(each) for source, each in maps.items()}
        return maps

    monkeypatch.setattr(Explainer, "explain", constant_saliency)
    with caplog.at_level(logging.WARNING, logger=score_table.__name__):
        found = measure()
    assert set(found["sanity"]["failed"]["saliency"]) == {
        "test_resnet",
        "test_efficientnet",
        "fused",
    }
    assert "Saliency FAILS" in caplog.text
    metrics = score_metrics(found)
    assert metrics["explain/saliency/fused/sanity_passed"] == 0.0
    assert metrics["explain/saliency/fused/sanity_similarity"] == 1.0


def test_metrics_when_flattened_then_keys_name_method_source_and_score(scores):
    metrics = score_metrics(scores)
    value = scores["faithfulness"]["fused"]["grad_cam"]["deletion_auc"]["value"]
    assert metrics["explain/grad_cam/fused/deletion_auc"] == value
    assert (
        metrics["explain/random/fused/road"]
        == scores["faithfulness"]["fused"]["random"]["road"]["value"]
    )
    assert "explain/grad_cam/agreement" in metrics
    assert "explain/grad_cam/fused/mosaic_share_untrained" in metrics
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())


def test_metrics_when_a_score_has_an_interval_then_its_ends_stand_behind_it(scores):
    metrics = score_metrics(scores)
    for score in ("deletion_auc", "enrichment", "empty_rate", "noise_sensitivity", "mosaic_share"):
        low, value, high = (
            metrics[f"explain/saliency/fused/{score}{end}"] for end in ("_low", "", "_high")
        )
        assert low <= value <= high, score
    assert "explain/saliency/agreement_low" in metrics
    assert "explain/saliency/fused/sanity_passed_low" not in metrics


def test_metrics_when_there_are_maps_without_a_network_then_they_stand_beside_the_methods(scores):
    metrics = score_metrics(scores)
    for name in ("random", "centre", "darkness"):
        for score in ("road", "enrichment", "background_share", "empty_rate", "mosaic_share"):
            assert f"explain/{name}/fused/{score}" in metrics
    best = scores["traits"]["best_enrichment"]["cam"]
    assert metrics["explain/best_enrichment_cam"] == best["value"]
    assert metrics["explain/best_enrichment_cam_low"] == best["low"]
    assert "explain/background_area" in metrics


@pytest.mark.parametrize("num_patches", [10, 5000])
def test_score_when_fast_then_it_is_what_the_explainer_says(subject, store, num_patches):
    score = create_score(
        subject.model, subject.mean_embedding + 0.1,
        size_px=32, device=torch.device("cpu"), num_patches=num_patches,
    )  # fmt: skip
    slow = explain_with(subject.model, subject.mean_embedding + 0.1).logits(store)
    assert np.allclose(score(store), slow, atol=1e-3)


@pytest.mark.parametrize("num_patches", [10, 5000])
def test_scores_when_there_is_a_texture_member_then_its_contribution_is_no_source(
    store, test_set, draw_texture, num_patches
):
    torch.manual_seed(0)
    model = FusionCNN(["test_resnet", "test_efficientnet"], pretrained="none", dropout=0.0).eval()
    model.join_texture(draw_texture(32))
    mean = torch.full((96 + 256 + 1,), 0.1)
    score = create_score(
        model, mean, size_px=32, device=torch.device("cpu"), num_patches=num_patches
    )
    explainer = explain_with(model, mean)
    slow = explainer.logits(store)
    assert slow.shape == (len(store), 4)
    assert np.allclose(score(store), slow, atol=1e-3)
    textured = ExplainedModel(model, 32, mean, torch.device("cpu"), explain_with)
    panel = test_set.iloc[::12]
    pixels = store[panel["row"].to_numpy()]
    maps = {name: explainer.explain(name, pixels) for name in METHODS}
    config = CONFIG.model_copy(update={"sources": "each"})
    found = ExplanationScores(textured, METHODS, config, seed=5).measure(
        panel, pixels, maps, test_set, store
    )
    assert set(found["faithfulness"]) == {"test_resnet", "test_efficientnet", "fused"}
    assert set(found["mosaics"]["trained"]["saliency"]) == set(found["faithfulness"])
    assert "texture" not in found["mosaics"]["thrown_off"], "mosaics keep the size of textures"
