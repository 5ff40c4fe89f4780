"""The stage evaluate on a table of predictions, without a network."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from idc.core import layout
from idc.core.errors import InputError
from idc.core.files import load_json
from idc.core.layout import BUNDLE, OPERATING_POINT
from idc.data.tables import SPLITS_SCHEMA, save_table
from idc.evaluation.statistics.metrics import METRICS, PRIMARY
from idc.evaluation.threshold.operating_point import OperatingPoint
from idc.models.bundle import save_bundle
from idc.models.spec import digest_bundle
from idc.stages import evaluate
from tests.random_networks import tiny_spec
from tests.score_tables import save_scores

SPEC = tiny_spec(aux_heads=True, class_weights=[1.0, 3.0], num_training_patches=[30, 10])


@pytest.fixture
def measure(tmp_path, monkeypatch, change_params, project_root):
    """`measure(predictions)`: the metrics of these predictions."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(project_root / layout.CASE_LISTS, layout.CASE_LISTS)
    weights = {"w": torch.zeros(1)}
    save_bundle(BUNDLE, weights, SPEC, pd.DataFrame({"epoch": [1]}), torch.zeros(1))

    def run(predictions, splits=None, **changes):
        save_scores(tmp_path, predictions)
        save_table(
            layout.SPLITS, list_splits(predictions) if splits is None else splits, SPLITS_SCHEMA
        )
        evaluate.run(change_params(**changes))
        return load_json(layout.METRICS)

    return run


def list_splits(predictions):
    return predictions.rename(columns={"y_true": "label"})[list(SPLITS_SCHEMA.columns)]


@pytest.fixture
def predictions():
    """Ten cases each of val and test; a tenth of test are slivers, all but one IDC-."""
    rng = np.random.default_rng(3)
    num_patches = 1000
    subset = np.repeat(["val", "test"], num_patches // 2)
    y_true = (rng.random(num_patches) < 0.3).astype(np.int8)
    sliver = (subset == "test") & (np.arange(num_patches) % 10 == 0)
    y_true[sliver] = 0
    y_true[990] = 1
    table = pd.DataFrame(
        {
            "row": np.arange(num_patches),
            "case": [f"{one}{i % 10}" for i, one in enumerate(subset)],
            "x": (np.arange(num_patches) * 50).astype(np.int32),
            "y": np.int32(1),
            "split": subset,
            "in_manifest": np.arange(num_patches) % 2 == 0,
            "sliver": sliver,
            "mean_optical_density": rng.uniform(0.1, 0.6, num_patches),
            "white_share": rng.random(num_patches),
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


def load_point():
    return OperatingPoint.load(OPERATING_POINT, model_digest=digest_bundle(BUNDLE))


@pytest.mark.parametrize("d4_average", [True, False])
def test_operating_point_when_written_then_says_how_the_logits_were_made(
    measure, predictions, d4_average
):
    measure(predictions, predict={"d4_average": d4_average})
    assert load_point().d4_average is d4_average


def test_operating_point_when_written_then_holds_the_rules_threshold_and_the_prior_shift(
    measure, predictions
):
    metrics = measure(predictions, evaluate={"threshold_rule": "sensitivity>=0.9"})
    point = load_point()
    assert point.threshold_rule == "sensitivity >= 0.9"
    assert 0 < point.threshold_low < point.threshold < point.threshold_high < 1
    assert 0.9 <= metrics["val/sensitivity"] < 0.92
    # in training the classes weigh alike
    share = metrics["val/prevalence"]
    assert point.prior_shift == pytest.approx(np.log(share / (1 - share)))


def test_run_when_all_is_well_then_every_metric_has_an_interval(measure, predictions):
    metrics = measure(predictions)
    names = dict.fromkeys(("val", "test", "test_manifest", "test_context"), METRICS)
    for subset, measured in {**names, "test_colour": PRIMARY}.items():
        for name in measured:
            low, value, high = (metrics[f"{subset}/{name}{end}"] for end in ("_low", "", "_high"))
            assert low <= value <= high, f"{subset}/{name}"
    assert len(pd.read_csv(layout.PLOTS / "reliability.csv")) == 15
    assert len(pd.read_csv(layout.PLOTS / "thresholds.csv")) > 100


def test_run_when_nothing_is_called_idc_then_leaves_out_ppv_and_logs_why(
    measure, predictions, caplog
):
    test = predictions["split"] == "test"
    low = predictions.assign(logit=predictions["logit"].where(~test, -20.0).astype("float32"))
    with caplog.at_level("INFO"):
        metrics = measure(low)
    assert "test/ppv" not in metrics
    assert "val/ppv" in metrics
    assert "test/ppv is left out: no patch is predicted IDC+" in caplog.text
    left_out = load_json(layout.EVALUATION)["left_out"]
    assert left_out["test"]["ppv"] == "no patch is predicted IDC+"
    assert "val" not in left_out


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (lambda table: table["y_true"] == 0, r"its \d+ patches lack a class"),
        (lambda table: table["case"].isin(["test2", "test4"]), "2 of 3 cases needed"),
    ],
)
def test_run_when_the_manifest_has_too_little_of_test_then_says_so_and_goes_on(
    measure, predictions, kept, reason
):
    metrics = measure(
        predictions.assign(in_manifest=predictions["in_manifest"] & kept(predictions))
    )
    assert not [name for name in metrics if name.startswith("test_manifest")]
    assert "test/auroc" in metrics
    left_out = load_json(layout.EVALUATION)["left_out"]["test_manifest"]
    assert re.fullmatch(reason, left_out["every metric"])


def test_run_when_no_case_is_complete_then_regions_have_a_reason(measure, predictions):
    metrics = measure(predictions)
    assert not [name for name in metrics if name.endswith("_regions")]
    places = load_json(layout.EVALUATION)["places"]
    for subset in ("test", "test_context"):
        for size in ("small", "large"):
            figure = places[subset][f"sensitivity_{size}_regions"]
            assert figure == {"reason": "no case is complete"}


def test_run_when_a_logit_is_nan_then_names_column_and_row(measure, predictions):
    measure(predictions)
    damaged = pd.read_parquet(layout.PREDICTIONS)
    damaged.loc[7, "logit"] = np.nan
    damaged.to_parquet(layout.PREDICTIONS, index=False)
    with pytest.raises(InputError, match=r"predictions\.parquet: logit: nan in row 7"):
        evaluate.run(None)


@pytest.mark.parametrize(("subset", "label"), [("val", 0), ("test", 1)])
def test_run_when_a_subset_is_of_one_class_then_names_it(measure, predictions, subset, label):
    of_subset = predictions["split"] == subset
    one = predictions.assign(y_true=predictions["y_true"].where(~of_subset, label).astype("int8"))
    sign = "-+"[label]
    with pytest.raises(InputError, match=rf"500 patches of {subset} are all IDC\{sign}"):
        measure(one)
    assert not OPERATING_POINT.exists()


def test_run_when_a_subset_is_empty_then_names_it(measure, predictions):
    with pytest.raises(InputError, match="0 patches of val are there"):
        measure(predictions[predictions["split"] == "test"])


def test_run_when_a_case_is_not_in_the_split_table_then_names_it(measure, predictions):
    splits = list_splits(predictions)
    with pytest.raises(InputError, match=r"has case test3 on test, data/splits\.csv has not"):
        measure(predictions, splits[splits["case"] != "test3"])


def test_run_when_a_case_is_in_another_subset_then_names_it(measure, predictions):
    splits = list_splits(predictions)
    moved = splits.assign(split=splits["split"].where(splits["case"] != "val2", "gate"))
    with pytest.raises(InputError, match="has case val2 on val"):
        measure(predictions, moved)


@pytest.fixture
def slides():
    """Five whole cases each of val and test, 21x21 patches with one IDC+ blob, noisy logits."""
    rng = np.random.default_rng(5)
    parts = []
    for number, subset in enumerate(np.repeat(["val", "test"], 5)):
        column, row = (each.ravel() for each in np.meshgrid(np.arange(21), np.arange(21)))
        centre = rng.integers(6, 15, 2)
        radius = 4 + number % 5
        y_true = np.hypot(column - centre[0], row - centre[1]) < radius
        part = pd.DataFrame(
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
                "logit": (2.0 * y_true - 1 + rng.normal(0, 1.5, 441)).astype(np.float32),
                "y_score_colour": np.clip(0.3 + 0.2 * y_true + rng.normal(0, 0.2, 441), 0, 1),
            }
        )
        noise = rng.normal(0, 2.5, 441)
        part["logit_resnet50"] = (2.0 * y_true - 1 + noise).astype(np.float32)
        parts.append(part)
    return pd.concat(parts, ignore_index=True).astype({"case": "str", "split": "str"})


def test_run_when_slides_are_whole_then_context_ranks_better_than_the_patch_alone(measure, slides):
    metrics = measure(slides)
    assert metrics["test_context/auroc"] > metrics["test/auroc"] + 0.05
    point = load_point()
    assert point.context == "gaussian"
    assert 0.3 < point.context_width < 4
    assert point.context_threshold_low < point.context_threshold < point.context_threshold_high
    assert 0 <= metrics["test_context/sensitivity_large_regions"] <= 1
    assert metrics["test_context/auroc_interior"] > metrics["test/auroc_interior"] + 0.05
    assert 0.5 < metrics["test/auroc_border"] < 1


def test_run_when_context_is_none_then_reports_and_keeps_no_such_figure(measure, slides):
    metrics = measure(slides, evaluate={"context": "none"})
    assert not [name for name in metrics if name.startswith("test_context")]
    assert load_point().context_threshold is None


def test_run_when_the_manifest_differs_then_context_figures_are_equal(measure, slides):
    first = measure(slides)
    other = measure(slides.assign(in_manifest=~slides["in_manifest"]))
    same = [name for name in first if name.startswith("test_context")]
    assert len(same) > 45
    assert all(first[name] == other[name] for name in same)
    assert first["test_manifest/auroc"] != other["test_manifest/auroc"]


def test_run_when_done_then_the_evaluation_says_what_the_fusion_adds_and_where(measure, slides):
    metrics = measure(slides)
    found = load_json(layout.EVALUATION)
    assert set(found["ablation"]["differences"]) == {"resnet50", "colour"}
    assert "beats its best single member, resnet50" in found["ablation"]["text"]
    gain = metrics["test/auroc"] - metrics["test_resnet50/auroc"]
    assert metrics["fusion_minus_resnet50/auroc"] == pytest.approx(gain)
    assert {row["family"] for row in found["subgroups"]} == {
        "case_burden", "stain", "white_share", "size", "border",
    }  # fmt: skip
    slivers = [row for row in found["subgroups"] if row["group"] == "sliver"]
    assert all(row["value"] is None and row["reason"] == "no patches" for row in slivers)
    assert found["benchmark"] == {"text": "no benchmark row: other cases"}


def test_run_when_done_then_cases_are_measured_beside_a_constant(measure, slides):
    measure(slides)
    burden = load_json(layout.EVALUATION)["burden"]
    val = slides[slides["split"] == "val"]
    assert burden["constant"] == pytest.approx(val.groupby("case")["y_true"].mean().mean())
    assert burden["errors"]["mae_score_difference"]["value"] < 0
    assert burden["calibration"]["reason"] == "5 val cases: a line needs 10 or more"
    assert burden["errors"]["mae_calibrated_minus_score"]["value"] == 0
    assert [row["num_without"] for row in burden["any_idc"]] == [0, 0]
    assert burden["any_idc"][0]["auroc"]["reason"].startswith("0 without IDC")
    assert "limits of agreement need 20" in burden["agreement"]["reason"]
    assert len(burden["worst_by_burden"]) == 5
    assert [row["case"] for row in burden["complete"]] == [f"case{n}" for n in range(5, 10)]
    better = [row["dice_context"] > row["dice_patch"] for row in burden["complete"]]
    assert sum(better) >= 4
    laid = pd.read_csv(layout.CASES / "slides.csv")
    assert len(laid) == 5 * 441
    assert {"y_score", "context_y_score"} <= set(laid)


def test_run_when_the_test_cases_are_the_published_ones_then_there_is_a_benchmark_row(
    measure, slides
):
    published = (layout.CASE_LISTS / "benchmark162/test.txt").read_text().split()
    test = slides["split"] == "test"
    names = [published[i % len(published)] for i in range(len(slides))]
    slides["case"] = np.where(test, names, slides["case"])
    slides["x"] = np.where(test, 50 * np.arange(len(slides)) + 1, slides["x"]).astype(np.int32)
    measure(slides)
    row = load_json(layout.EVALUATION)["benchmark"]
    assert "the published 49 test cases; 2,205 patches (differs from" in row["text"]
    assert [each["balanced_accuracy"] for each in row["rows"]] == [0.842, 0.847, 0.868, 0.890]


def test_run_when_there_is_a_texture_member_then_it_and_the_cnn_are_members(measure, slides):
    noise = np.random.default_rng(7).normal(0, 2.0, (2, len(slides)))
    halves = [(2.0 * slides["y_true"] - 1 + each).astype(np.float32) for each in noise]
    metrics = measure(slides.assign(logit_cnn=halves[0], logit_texture=halves[1]))
    ablation = load_json(layout.EVALUATION)["ablation"]
    assert ablation["members"] == [
        {"name": "resnet50", "title": "resnet50"},
        {"name": "cnn", "title": "CNN without the texture member"},
        {"name": "texture", "title": "texture member"},
    ]
    for name in ("cnn", "texture"):
        gain = metrics["test/auroc"] - metrics[f"test_{name}/auroc"]
        assert metrics[f"fusion_minus_{name}/auroc"] == pytest.approx(gain)
