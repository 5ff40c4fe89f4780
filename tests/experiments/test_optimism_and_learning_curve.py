"""What the experiments optimism and learning-curve say of results that are there."""

import numpy as np
import pandas as pd
import pytest
import yaml

from idc.core.files import save_json
from idc.core.layout import PARAMS
from idc.evaluation.compare import compare_scorings
from idc.evaluation.statistics.bootstrap import Bootstrap
from idc.evaluation.statistics.metrics import auroc
from idc.experiments.folds import RESULTS
from idc.experiments.learning_curve import (
    CurvePoint,
    describe_learning_curve,
    draw_points,
    format_learning_curve,
)
from idc.experiments.optimism import describe_optimism, format_optimism

NUM_FOLDS, NUM_CASES, NUM_PATCHES = 3, 9, 270
NUM_REPLICATES, SEED = 100, 17
TREES = 0.7  # share of the fused logit in that of the trees; the rest is noise
NOISE = np.random.default_rng(5).normal(size=NUM_PATCHES)


@pytest.fixture
def project(tmp_path, project_root):
    content = yaml.safe_load((project_root / PARAMS).read_text(encoding="utf-8"))
    content["evaluate"]["num_replicates"] = NUM_REPLICATES
    (tmp_path / PARAMS).write_text(yaml.safe_dump(content), encoding="utf-8")
    return tmp_path


def make_predictions(strength, split_unit="case"):
    """Always the same patches; the scores depend on the strength."""
    rng = np.random.default_rng(0)
    number = np.arange(NUM_PATCHES) % NUM_CASES
    y_true = (rng.random(NUM_PATCHES) < 0.4).astype(np.int8)
    logit = strength * y_true + rng.normal(size=NUM_PATCHES) - strength / 2
    fold = number % NUM_FOLDS if split_unit == "case" else rng.integers(0, NUM_FOLDS, NUM_PATCHES)
    return pd.DataFrame(
        {"case": [f"c{n}" for n in number], "x": 50 * np.arange(NUM_PATCHES) + 1, "y": 1,
         "y_true": y_true, "fold": fold, "y_pred": (logit > 0).astype(np.int8), "logit": logit}
    )  # fmt: skip


def write_result(project, name, strength, split_unit="case", **facts):
    folder = project / RESULTS / name
    folder.mkdir(parents=True)
    table = make_predictions(strength, split_unit)
    table["logit_trees"] = TREES * table["logit"] + (1 - TREES) * NOISE
    table.to_parquet(folder / "predictions.parquet", index=False)
    value = auroc(table["y_true"], table["logit"])
    figures = {"num_patches": NUM_PATCHES, "num_cases": NUM_CASES, "mean_fold_auroc": value}
    for metric in ("auroc", "balanced_accuracy"):
        ends = {"": value, "_low": value - 0.01, "_high": value + 0.01}
        figures |= {f"logit/{metric}{end}": number for end, number in ends.items()}
        figures |= {f"logit_trees/{metric}{end}": number for end, number in ends.items()}
    fold = {"num_training_patches": 80, "num_training_cases": 6, "share_touching_train": 0.0}
    sizes = table["fold"].value_counts()
    figures["folds"] = {
        str(k): {"num_patches": int(sizes[k]), **fold, **facts} for k in range(NUM_FOLDS)
    }
    save_json(folder / "metrics.json", figures)


def expected_difference(strength, other, share=1.0):
    """The first minus the second."""
    tables = [make_predictions(each) for each in (other, strength)]
    if share < 1:
        tables = [table.drop(columns="y_pred") for table in tables]
    return compare_scorings(
        *(table.assign(y_score=share * table["logit"] + (1 - share) * NOISE) for table in tables),
        Bootstrap(NUM_REPLICATES, SEED),
    )


def test_describe_optimism_when_the_leaking_way_looks_better_then_the_gap_is_above_zero(project):
    write_result(project, "o/case", 0.8)
    write_result(project, "o/patch", 2.0, "patch", num_training_cases=9, share_touching_train=0.5)
    content = describe_optimism(project, "o")
    expected = expected_difference(2.0, 0.8)
    assert content["optimism"] == {name: vars(each) for name, each in expected.items()}
    assert content["optimism"]["auroc"]["low"] > 0
    assert content["split_unit"]["patch"]["share_touching_train"] == pytest.approx(0.5)
    assert content["split_unit"]["case"]["share_touching_train"] == 0.0
    assert content["others"]["trees"]["optimism"] == vars(
        expected_difference(2.0, 0.8, TREES)["auroc"]
    )
    page = format_optimism("o", content)
    flattered = content["others"]["trees"]["optimism"]["value"]
    assert f" | +{flattered:.3f} [" in page.partition("| trees |")[2].partition("\n")[0]
    gap = content["optimism"]["auroc"]
    assert f"inflates AUROC by +{gap['value']:.3f} [+{gap['low']:.3f}, +{gap['high']:.3f}]" in page
    assert "the same 270 patches of 9 cases, each scored once out of 3 folds" in page
    assert "| training patches of a fold | 80 | 80 |" in page
    assert "| cases they come from | 6 | 9 |" in page
    assert "| tested patches that touch a training patch | 0.0 % | 50.0 % |" in page


LARGE, EQUAL, FEW = CurvePoint(80, None), CurvePoint(30, None), CurvePoint(30, 3)


def test_describe_learning_curve_when_points_are_done_then_each_is_set_against_the_largest(project):
    for point, strength, cases in ((LARGE, 2.0, 6), (EQUAL, 1.4, 6), (FEW, 0.9, 3)):
        write_result(project, f"l/{point.name}", strength, num_training_cases=cases)
    content = describe_learning_curve(project, "l", [LARGE, EQUAL, FEW])
    large, equal, few = content["points"]
    assert large["against_largest"] is None
    assert equal["against_largest"] == {
        name: vars(each) for name, each in expected_difference(1.4, 2.0).items()
    }
    assert (few["num_patches"], few["max_cases"], few["num_training_cases"]) == (30, 3, [3, 3, 3])
    (pair,) = content["more_cases"]
    assert (pair["num_cases"], pair["num_patches"]) == (3, 30)
    assert pair["auroc"] == vars(expected_difference(1.4, 0.9)["auroc"])
    trees = vars(expected_difference(1.4, 0.9, TREES)["auroc"])
    assert pair["others"]["trees"] == trees
    page = format_learning_curve("l", content)
    assert f"| 30 | all minus 3 | +{trees['value']:.3f} [" in page
    assert "the same 270 patches of 9 cases (folds 0, 1, 2)" in page
    assert "| 80 | all: 6 |" in page
    assert "| 30 | 3 |" in page
    value = pair["auroc"]["value"]
    assert f"| 30 | 3 | +{value:.3f} [" in page


def test_draw_points_when_points_are_done_then_each_number_of_cases_is_a_line(project):
    for point in (LARGE, EQUAL, FEW):
        write_result(project, f"l/{point.name}", 1.0)
    content = describe_learning_curve(project, "l", [LARGE, EQUAL, FEW])
    (axes,) = draw_points(content).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert {name: len(heights) for name, heights in lines.items()} == {
        "all train cases": 2, "3 cases": 1,
    }  # fmt: skip


def test_describe_learning_curve_when_the_first_point_alone_is_done_then_describes_that(project):
    write_result(project, f"l/{LARGE.name}", 1.0)
    content = describe_learning_curve(project, "l", [LARGE])
    assert content["more_cases"] == []
    assert "What more cases add" not in format_learning_curve("l", content)
