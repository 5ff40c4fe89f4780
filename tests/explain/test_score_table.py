"""All scores together, on a network of one small backbone and patches with a planted square."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch

from idc.evaluation.statistics.bootstrap import Bootstrap
from idc.explain.maps.attributions import AttributionBudget
from idc.explain.maps.explainer import Explainer
from idc.explain.scores import table as score_table
from idc.explain.scores.fast_scores import create_score
from idc.explain.scores.table import ExplainedModel, ExplanationScores
from idc.tracking.chosen_metrics import best_attribution
from idc.tracking.result_tables import tabulate_scores
from tests.random_networks import random_fusion

METHODS = ("saliency", "grad_cam")
BOOTSTRAP = Bootstrap(100, 5)


@pytest.fixture(scope="module")
def config(change_params):
    return change_params(explain={"methods": METHODS, "num_mosaics": 4}).explain


def explain_with(model, mean_embedding):
    return Explainer(model, 32, mean_embedding, torch.device("cpu"), AttributionBudget(8, 1))


def tabulate(scores):
    """The rows of the table by method, source and score."""
    return tabulate_scores(scores).set_index(["method", "source", "score"])


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    model = random_fusion(["test_resnet", "test_efficientnet"], dropout=0.0).eval()
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
def measure(subject, store, test_set, config):
    def run(test=test_set):
        panel = test_set.iloc[::12]
        pixels = store[panel["row"].to_numpy()]
        explainer = explain_with(subject.model, subject.mean_embedding)
        maps = {name: explainer.explain(name, pixels) for name in METHODS}
        scores = ExplanationScores(subject, config, BOOTSTRAP)
        return scores.measure(panel, pixels, maps, test, store)

    return run


@pytest.fixture(scope="module")
def scores(measure):
    return measure()


def test_scores_when_measured_then_every_method_stands_beside_the_baselines(scores):
    sources = {"test_resnet", "test_efficientnet", "fused"}
    assert set(scores["faithfulness"]) == {"fused"}
    by_name = scores["faithfulness"]["fused"]
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
    again = measure()
    after = subject.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    text = json.dumps(scores, allow_nan=False, sort_keys=True)
    assert text == json.dumps(again, allow_nan=False, sort_keys=True)


def test_mosaics_when_no_patch_is_confident_then_said_and_nothing_ranked(measure, test_set):
    found = measure(test=test_set.assign(y_score=0.5))
    assert found["mosaics"]["num_mosaics"] == 0
    assert "confident" in found["mosaics"]["reason"]
    assert found["mosaics"]["num_cases_left_out"] == 4
    assert not tabulate_scores(found)["score"].str.contains("mosaic").any()


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
    value = tabulate(found)["value"]
    assert value["saliency", "fused", "sanity_passed"] == 0.0
    assert value["saliency", "fused", "sanity_similarity"] == 1.0


def test_table_when_made_then_a_row_names_method_source_and_score(scores):
    table = tabulate(scores)
    assert table.index.is_unique
    for name in ("grad_cam", "random"):
        figure = scores["faithfulness"]["fused"][name]["deletion_auc"]
        row = table.loc[(name, "fused", "deletion_auc")]
        assert (row["value"], row["low"], row["high"]) == tuple(
            figure[key] for key in ("value", "low", "high")
        )
    assert ("grad_cam", "fused", "mosaic_share_untrained") in table.index
    assert np.isfinite(table["value"]).all()


def test_table_when_a_score_has_an_interval_then_its_ends_stand_beside_it(scores):
    table = tabulate(scores)
    for score in ("deletion_auc", "enrichment", "empty_rate", "mosaic_share"):
        row = table.loc[("saliency", "fused", score)]
        assert row["low"] <= row["value"] <= row["high"], score
    assert table["low"].notna()["saliency", "", "agreement"]
    assert table["low"].isna()["saliency", "fused", "sanity_passed"]
    # of two patches here, whose cases are too few for an interval
    assert table["low"].isna()["saliency", "fused", "noise_sensitivity"]
    assert table["value"].notna()["saliency", "fused", "noise_sensitivity"]


def test_table_when_there_are_maps_without_a_network_then_they_stand_beside_the_methods(scores):
    table = tabulate(scores)
    for name in ("random", "centre", "darkness"):
        for score in ("road", "enrichment", "background_share", "empty_rate", "mosaic_share"):
            assert (name, "fused", score) in table.index
    best = scores["traits"]["best_enrichment"]["cam"]
    row = table.loc[("", "", "best_enrichment_cam")]
    assert (row["value"], row["low"]) == (best["value"], best["low"])
    assert ("", "", "background_area") in table.index


def test_best_attribution_when_methods_are_ranked_then_the_first_with_its_interval(scores):
    speed = {f"explain/s_per_patch/{name}": float(i) for i, name in enumerate(METHODS)}
    name, metrics = best_attribution(speed, scores)
    best, source = scores["mosaics"]["ranking"][0], scores["mosaics"]["ranked_by"][0]
    assert name == (best if source == "fused" else f"{best} of {source}")
    figure = scores["mosaics"]["trained"][best][source]
    assert metrics.pop("explain/best_s_per_patch") == METHODS.index(best)
    assert metrics == {
        f"explain/best_mosaic_share{end}": figure[key]
        for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def test_best_attribution_when_nothing_is_ranked_then_none(measure, test_set):
    assert best_attribution({}, measure(test=test_set.assign(y_score=0.5))) == ("", {})
    assert best_attribution({}, None) == ("", {})


@pytest.mark.parametrize("num_patches", [10, 5000])
def test_score_when_fast_then_it_is_what_the_explainer_says(subject, store, num_patches):
    score = create_score(
        subject.model, subject.mean_embedding + 0.1,
        size_px=32, device=torch.device("cpu"), num_patches=num_patches,
    )  # fmt: skip
    slow = explain_with(subject.model, subject.mean_embedding + 0.1).logits(store)
    assert np.allclose(score(store), slow, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("num_patches", [10, 5000])
def test_scores_when_there_is_a_texture_member_then_its_contribution_is_no_source(
    store, test_set, draw_texture, config, num_patches
):
    torch.manual_seed(0)
    model = random_fusion(["test_resnet", "test_efficientnet"], dropout=0.0).eval()
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
    found = ExplanationScores(textured, config, BOOTSTRAP).measure(
        panel, pixels, maps, test_set, store
    )
    sources = {"test_resnet", "test_efficientnet", "fused"}
    assert set(found["mosaics"]["trained"]["saliency"]) == sources
    assert "texture" not in found["mosaics"]["thrown_off"], "mosaics keep the size of textures"
