"""The stage report on files as the other stages write them, without a network."""

import re
import shutil
from contextlib import chdir
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from idc.core import layout
from idc.core.files import load_json, save_json
from idc.data.tables import SPLITS_SCHEMA, save_table
from idc.evaluation.published import benchmark_row
from idc.evaluation.statistics.bootstrap import Estimate
from idc.evaluation.statistics.metrics import PRIMARY
from idc.explain.scores.faithfulness import HIGHER_IS_BETTER
from idc.explain.scores.sanity import STEPS
from idc.figures.style import save_figure
from idc.models.bundle import save_bundle
from idc.models.spec import StartingWeights
from idc.stages import evaluate, report
from tests.random_networks import tiny_spec
from tests.score_tables import save_scores

PRETRAINED = {
    "pretrained": "imagenet",
    "starting_weights": [StartingWeights("test_resnet", "a-lab/net", "cc-by-4.0", None)],
}
SPEC = tiny_spec(aux_heads=True, num_training_patches=[50, 50])
INGEST = {
    "published": {"text": "is not the published one"},
    "num_patches": 4410,
    "num_idc_positive": 900,
    "num_cases": 10,
    "num_copies": 0,
    "unreadable": [],
    "equal_pixels": {"num_patches": 0, "num_groups_across_labels": 0},
    "formats": {"png": 4410},
    "flags": {"sliver": {"num_patches": 0, "num_idc_positive": 0}},
}
LEAKAGE = {
    "mode": "case",
    "num_shared_cases": 0,
    "num_exact_duplicates": 0,
    "num_near_duplicates": 0,
    "near_duplicate_difference": 5,
    "share_touching_train": {"test": 0.0},
    "subsets": {
        "train": {
            "num_cases": 9,
            "num_patches": 3969,
            "num_in_manifest": 100,
            "prevalence": 0.2,
            "num_corrected_labels": 3,
        },
        "test": {"num_cases": 5, "num_patches": 2205, "num_in_manifest": 1100, "prevalence": 0.2},
    },
}

GROUP = {
    "kind": "fp", "group": 1, "num_patches": 12, "num_cases": 3, "largest_case": "case7",
    "largest_case_share": 0.5, "y_score": 0.91, "burden": 0.2, "mean_optical_density": 0.4,
    "white_share": 0.1, "touching_other_label": 0.75, "mean_colour": [180.4, 120.0, 170.9],
}  # fmt: skip


def draw_scores(**mosaics):
    """`scores.json` of two methods, of which saliency fails the sanity check."""

    def figure(value):
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "num_patches": 8}

    names = ("saliency", "grad_cam")
    both = ("test_resnet", "fused")
    faithful = {name: figure(0.3) for name in HIGHER_IS_BETTER}
    faithful |= {f"{name}_gain": figure(0.0) for name in HIGHER_IS_BETTER}
    faithful["road_gain"] = figure(0.3)
    shown = {"enrichment": figure(1.2), "background_share": figure(0.2), "empty_rate": figure(0.1)}
    return {
        "num_patches": 8,
        "num_cases": 4,
        "methods": {"saliency": "Saliency", "grad_cam": "Grad-CAM"},
        "faithfulness": {"fused": dict.fromkeys((*names, "random"), faithful)},
        "traits": {
            "best_enrichment": {"cam": figure(2.0), "pixel": figure(5.0)},
            "background_area": figure(0.3),
            "baselines": {"random": shown},
            "methods": {
                name: {
                    "sources": dict.fromkeys(
                        both, shown | {"noise_sensitivity": {"num_patches": 0, "reason": "none"}}
                    )
                }
                for name in names
            },
        },
        "mosaics": {"num_mosaics": 0, "num_cases": 0, "num_cases_left_out": 4, "confidence": 0.8}
        | mosaics,
        "sanity": {
            "largest_similarity": 0.5,
            "num_patches": 4,
            "failed": {"saliency": ["fused"]},
            "similarity": {
                name: {
                    source: {step: {"signed": 0.9, "absolute": 0.9} for step in STEPS}
                    for source in both
                }
                for name in names
            },
        },
    }


@pytest.fixture(scope="module")
def finish(tmp_path_factory, change_params, project_root):
    """`finish(separation, …)`: a folder where evaluate and report ran; the same one if repeated.

    The network with a texture member also began with pretrained weights.
    """

    @cache
    def run(separation, without=(), context="mean9", texture=False):
        folder = tmp_path_factory.mktemp("finished")
        predictions = draw_predictions(separation).drop(columns=list(without))
        if texture:
            noise = np.random.default_rng(8).normal(size=len(predictions)).astype(np.float32)
            logit = predictions["logit"]
            predictions = predictions.assign(logit_cnn=logit + noise, logit_texture=logit - noise)
        with chdir(folder):
            spec = replace(SPEC, texture_member=True, **PRETRAINED) if texture else SPEC
            _write_inputs(project_root, predictions, spec)
            params = change_params(evaluate={"context": context})
            evaluate.run(params)
            report.run(params)
        return folder

    return run


def _write_inputs(project_root, predictions, spec):
    shutil.copytree(project_root / layout.CASE_LISTS, layout.CASE_LISTS)
    history = pd.DataFrame(
        {"epoch": [1, 2], "train_loss": [0.6, 0.5], "val_auroc": [0.7, 0.8], "learning_rate": 0.1}
    )
    save_bundle(layout.BUNDLE, {"w": torch.zeros(1)}, spec, history, torch.zeros(1))
    save_json(layout.INGEST_REPORT, INGEST)
    save_json(layout.LEAKAGE_REPORT, LEAKAGE)
    save_json(layout.ERROR_GROUPS, [])
    save_scores(Path(), predictions)
    splits = predictions.rename(columns={"y_true": "label"})[list(SPLITS_SCHEMA.columns)]
    save_table(layout.SPLITS, splits, SPLITS_SCHEMA)


@pytest.fixture
def render(tmp_path, monkeypatch, finish):
    """`render(separation, …)`: the page for logits so much apart, in a folder of the test's own."""

    def copy(separation=3.0, **which):
        shutil.copytree(finish(separation, **which), tmp_path, dirs_exist_ok=True)
        monkeypatch.chdir(tmp_path)
        return _page()

    return copy


@pytest.fixture
def render_again(change_params):
    """`render_again()`: the page once more, from files that the test has changed."""

    def run():
        report.run(change_params())
        return _page()

    return run


def _page():
    return layout.REPORT_PAGE.read_text(encoding="utf-8")


def draw_predictions(separation):
    """Five whole cases each of val and test, 21x21 patches, IDC+ in a disc."""
    rng = np.random.default_rng(5)
    column, row = (each.ravel() for each in np.meshgrid(np.arange(21), np.arange(21)))
    parts = []
    for number, subset in enumerate(np.repeat(["val", "test"], 5)):
        y_true = np.hypot(column - 10, row - 10) < 4 + number % 5
        noise = rng.normal(size=(3, 441))
        parts.append(
            pd.DataFrame(
                {
                    "row": 441 * number + np.arange(441),
                    "case": f"case{number}",
                    "x": (50 * column + 1).astype(np.int32),
                    "y": (50 * row + 1).astype(np.int32),
                    "split": subset,
                    "in_manifest": rng.random(441) < 0.5,
                    "sliver": False,
                    "mean_optical_density": rng.uniform(0.1, 0.6, 441),
                    "white_share": rng.random(441),
                    "y_true": y_true.astype(np.int8),
                    "logit": (separation * y_true + noise[0]).astype(np.float32),
                    "y_score_colour": np.clip(0.3 + 0.2 * y_true + 0.2 * noise[1], 0, 1),
                    "logit_test_resnet": (separation * y_true + 2 * noise[2]).astype(np.float32),
                }
            )
        )
    return pd.concat(parts, ignore_index=True).astype({"case": "str", "split": "str"})


def flat(page):
    return " ".join(page.split())


def test_report_when_rendered_then_every_picture_is_in_the_page_and_a_file(render):
    page = render()
    names = {path.stem for path in layout.FIGURES.iterdir()}
    slides = {f"slide_case{number}" for number in range(5, 10)}
    assert slides | {"roc", "pr", "reliability", "thresholds", "burden"} <= names
    assert {f"subgroups_{name}" for name in (*PRIMARY, "calibration")} <= names
    assert "agreement" not in names, "limits of agreement need 20 cases"
    assert page.count("data:image/png;base64,") == len(names)
    assert "limits of agreement need 20 or more" in page
    assert "No benchmark row: other cases" in page


def test_report_when_rendered_then_whole_cases_have_their_errors_and_reasons(render):
    page = render()
    section = page[page.index("<h2>Whole cases") : page.index("<h2>Other subsets")]
    errors = load_json(layout.EVALUATION)["burden"]["errors"]
    for name in ("score", "calibrated", "called", "constant"):
        error = errors[f"mae_{name}"]
        assert f"<td>{error['value']:.3f} <span" in section
    assert "not calibrated, it is the mean score (5 val cases: a line needs 10 or" in section
    assert "<td>2 IDC+ patches</td><td>0 of 5</td>" in section
    assert "0 without IDC: an AUROC needs 5 or more of each" in section
    assert "No diagnosis can be learnt here" in section


@pytest.mark.slow
def test_report_when_burdens_are_calibrated_then_says_how_and_by_how_much(render, render_again):
    render()
    evaluation = load_json(layout.EVALUATION)
    burden, gain = evaluation["burden"], {"value": -0.02, "low": -0.03, "high": -0.01}
    burden["calibration"] = {"slope": 1.25, "intercept": -0.5, "num_cases": 23, "reason": ""}
    burden["errors"]["mae_calibrated_minus_score"] = gain
    burden["any_idc"][0]["auroc"] = {"value": 0.75, "low": 0.6, "high": 0.9}
    save_json(layout.EVALUATION, evaluation)
    page = render_again()
    assert "fitted on 23 validation cases (slope 1.25, intercept -0.50)" in page
    assert "it changes the error by -0.020 <span" in page
    assert "<td>0.750 <span" in page


def test_report_when_rendered_then_natural_prevalence_and_manifest_never_share_a_table(render):
    page = render()
    metrics = load_json(layout.METRICS)
    tables = re.findall(r"<table>.*?</table>", page, flags=re.DOTALL)
    natural, manifest, context = (
        f"{metrics[f'{subset}/auprc']:.3f}" for subset in ("test", "test_manifest", "test_context")
    )
    assert len({natural, manifest, context}) == 3
    with_natural = [table for table in tables if natural in table]
    assert with_natural
    assert any(context in table for table in with_natural)
    assert not any(manifest in table for table in with_natural)


@pytest.mark.parametrize(
    ("separation", "warned", "says"),
    [(3.0, False, "beats"), (0.3, True, "is not shown to beat")],
)
def test_report_when_a_baseline_or_the_best_member_is_not_beaten_then_says_so(
    render, separation, warned, says
):
    page = render(separation)
    assert ("Not shown to beat colour" in page) is warned
    assert f"The fusion {says} its best single member, test_resnet" in page
    assert "No backbone is scored alone" not in page
    card = layout.MODEL_CARD.read_text(encoding="utf-8")
    assert "- colour: " in card
    assert "The threshold's 95 % interval" in card


def test_report_when_rendered_then_says_what_the_threshold_and_the_calibration_rest_on(render):
    page = render()
    point = load_json(layout.OPERATING_POINT)
    prior = f"would give an intercept of {point['prior_shift']:.3f} at slope 1"
    assert f"intercept {point['intercept']:.3f}. The change of prevalence alone" in flat(page)
    assert prior in flat(page)
    for name in ("threshold", "context_threshold"):
        low, high = (f"{point[f'{name}_{end}']:.3f}" for end in ("low", "high"))
        assert f"{low} to {high}" in page


@pytest.mark.slow
def test_report_when_no_backbone_is_scored_alone_then_says_so(render):
    assert "No backbone is scored alone" in render(without=("logit_test_resnet",))


@pytest.mark.slow
def test_report_when_a_metric_is_undefined_then_its_reason_stands_below_the_table(
    render, render_again
):
    assert "Left out" not in render()
    evaluation = load_json(layout.EVALUATION)
    left_out = {"test": {"ppv": "no patch is predicted IDC+"}}
    save_json(layout.EVALUATION, {**evaluation, "left_out": left_out})
    assert "Left out: Positive predictive value (no patch is predicted IDC+)." in render_again()


@pytest.mark.slow
def test_report_when_cases_are_many_and_the_published_ones_then_both_are_shown(
    render, render_again
):
    render()
    limit = {"value": 0.1, "low": 0.05, "high": 0.15}
    evaluation = load_json(layout.EVALUATION)
    evaluation["burden"]["agreement"] = {
        "num_cases": 20, "bias": limit, "lower_limit": limit, "upper_limit": limit,
    }  # fmt: skip
    evaluation["benchmark"] = benchmark_row(
        ["1"], ["1"], num_patches=7, prevalence=0.5, balanced_accuracy=Estimate(0.8, 0.7, 0.9)
    )
    save_json(layout.EVALUATION, evaluation)
    page = render_again()
    assert (layout.FIGURES / "agreement.png").exists()
    assert "Bland-Altman plot of burden" in page
    assert "No Bland-Altman plot" not in page
    literature = page[page.index("Published benchmark") : page.index("Fusion against members")]
    assert "7 patches (differs from the published 50,963)" in literature
    for value in ("0.842", "0.847", "0.868", "0.890", "0.800 <span"):
        assert f"<td>{value}" in literature


@pytest.mark.slow
def test_report_when_there_is_no_context_then_has_one_column_of_figures(render):
    assert "With context" in render()
    assert "With context" not in render(context="none")


def test_report_when_labels_were_corrected_then_says_how_many(render):
    page = render()
    assert "3 labels of the train set were corrected by" in page


@pytest.mark.slow
def test_report_when_methods_were_scored_then_failures_warn_and_the_ranking_is_the_order(
    render, render_again
):
    render()
    share = {"value": 0.4, "low": None, "high": None, "num_patches": 8}
    point = {name: {"test_resnet": share, "fused": share} for name in ("saliency", "grad_cam")}
    ranked = {
        "trained": point, "untrained": point, "baselines": {"random": share},
        "ranking": ["grad_cam", "saliency"],
        "thrown_off": ["test_resnet"],
        "ranked_by": ["fused"],
    }  # fmt: skip
    save_json(layout.EXPLAIN_SCORES, draw_scores(**ranked))
    page = render_again()
    assert "Saliency fails the sanity check</strong> for fused" in page
    assert "Mosaics throw test_resnet off</strong>" in page
    table = page[page.index("<th>Mosaic</th>") :]
    assert table.index("Grad-CAM") < table.index("Saliency") < table.index("random (no network)")
    assert "<td>0.30 <span" in table
    assert table.count("<strong>0.30 <span") == 3, "ROAD of each row beats the random map"
    assert "undefined" in table
    own = page[page.index("Every score of each backbone") : page.index("Properties of the maps")]
    assert "<th>test_resnet</th>" in own
    assert own.count("passes") == 2, "saliency fails for the fused maps alone"
    assert "Deletion &darr;" not in own, "measured for the fused maps alone"


@pytest.mark.slow
def test_report_when_mosaics_throw_a_backbone_off_then_shows_the_shares_of_the_others(
    render, render_again
):
    render()

    def share(value):
        return {"value": value, "low": None, "high": None, "num_patches": 8}

    by_source = {"test_resnet": share(0.77), "fused": share(0.11)}
    point = dict.fromkeys(("saliency", "grad_cam"), by_source)
    save_json(
        layout.EXPLAIN_SCORES,
        draw_scores(
            trained=point, untrained=point, baselines={"random": share(0.25)},
            ranking=["grad_cam", "saliency"], thrown_off=["other"], ranked_by=["test_resnet"],
        ),
    )  # fmt: skip
    page = render_again()
    table = page[page.index("<th>Mosaic, test_resnet</th>") :].split("</table>")[0]
    assert table.count("<td>0.77</td>") == 4, "trained and untrained, of both methods"
    assert "0.11" not in table


@pytest.mark.slow
def test_report_when_there_is_no_mosaic_or_no_score_then_said(render, render_again):
    assert "<code>explain.num_mosaics</code> is 0" in render()
    save_json(layout.EXPLAIN_SCORES, draw_scores(reason="no case has enough confident patches"))
    page = render_again()
    assert "Not measured here: no case has enough confident patches." in page
    assert "<th>Mosaic</th>" not in page


@pytest.mark.slow
def test_report_when_errors_are_grouped_then_their_traits_and_else_that_there_are_none(
    render, render_again
):
    assert render().count("There are none.") == 2
    save_json(layout.ERROR_GROUPS, [GROUP])
    save_figure(Figure(), layout.EXPLAIN / "error_groups_fp.png")
    page = render_again()
    assert page.count("There are none.") == 1
    assert "case7, 50 %" in page
    assert page.count('<img class="sheet"') == 1
    assert "rgb(180, 120, 171)" in page


@pytest.mark.slow
def test_report_when_weights_were_pretrained_then_page_and_card_name_their_licence(render):
    assert "weights: from scratch," in render()
    said = "a-lab/net, licence cc-by-4.0"
    assert f"weights: imagenet ({said})," in render(texture=True)
    card = layout.MODEL_CARD.read_text(encoding="utf-8")
    assert f"Starting weights: imagenet: test_resnet from {said}." in card


def test_report_when_there_is_a_texture_member_then_page_and_card_name_it(render):
    assert "texture member" not in render()
    page = render(texture=True)
    rows = re.findall(r"<tr><td>([^<]*)</td><td>[.\d]+</td><td>[+-]", page)
    assert rows == ["test resnet", "CNN without the texture member", "texture member", "colour"]
    assert "test_resnet + texture member at 32 px" in page
    assert "texture member has no map of its own" in page
    card = layout.MODEL_CARD.read_text(encoding="utf-8")
    assert "- CNN without the texture member: " in card
    assert "mean of the CNN's and of a texture member's" in card
