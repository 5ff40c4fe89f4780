import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from idc.core.errors import InputError
from idc.evaluation.curves import pr_points, roc_points
from idc.evaluation.statistics.bootstrap import Estimate
from idc.figures import cases, curves, intervals, style, training

Y_TRUE, Y_SCORE = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.3, 0.4, 0.5, 0.8, 0.9])
HISTORY = pd.DataFrame(
    {"epoch": [1, 2, 3], "train_loss": [0.7, 0.5, 0.4], "val_auroc": [np.nan, 0.9, 0.8]}
)
BINS = pd.DataFrame(
    {
        "mean_score": [0.1, 0.6],
        "idc_share": [0.2, 0.5],
        "low": [0.1, np.nan],
        "high": [0.3, np.nan],
        "num_patches": [30, 10],
    }
)
THRESHOLDS = pd.DataFrame(
    {
        "threshold": [0.9, 0.1, 0.5],
        "sensitivity": [0.2, 1.0, 0.7],
        "specificity": [1.0, 0.1, 0.8],
        "ppv": [np.nan, 0.3, 0.6],
    }
)
CASES = pd.DataFrame(
    {"num_patches": [1053, 40], "burden": [0.1, 0.6], "mean_score": [0.2, 0.5]},
)
LEARNING = pd.DataFrame(
    {
        "series": ["fusion", "floor", "fusion", "floor"],
        "size": [2000, 1000, 1000, 2000],
        "value": [0.9, 0.8, 0.85, 0.82],
        "low": [0.85, np.nan, 0.8, np.nan],
        "high": [0.95, np.nan, 0.9, np.nan],
    }
)
SUBGROUPS = pd.DataFrame(
    {
        "family": ["stain", "stain", "size", "size"],
        "label": ["pale", "dark", "whole", "slivers"],
        "num_patches": [1500, 20, 1400, 120],
        "num_cases": [9, 2, 9, 3],
        "metric": ["auroc"] * 3 + ["calibration_slope"],
        "value": pd.array([0.9, None, 0.8, 1.1], "Float64"),
        "low": pd.array([0.85, None, 0.7, None], "Float64"),
        "high": pd.array([0.95, None, 0.9, None], "Float64"),
        "reason": ["", "2 of 3 cases needed", "", ""],
    }
)
TRUTH = np.array([[0.0, 1.0, np.nan], [0.0, 1.0, 1.0]])
DRAWINGS = {
    "reliability": lambda: curves.draw_reliability({"patch": BINS, "context": BINS}),
    "thresholds": lambda: curves.draw_thresholds(THRESHOLDS, Estimate(0.4, 0.3, 0.55)),
    "burden": lambda: cases.draw_burden(CASES, "mean_score"),
    "bland_altman": lambda: cases.draw_bland_altman(
        [0.2, 0.5],
        [0.1, 0.6],
        bias=Estimate(0.0, -0.1, 0.1),
        lower_limit=Estimate(-0.3, -0.4, -0.2),
        upper_limit=Estimate(0.3, 0.2, 0.4),
    ),
    "slide_maps": lambda: cases.draw_slide_maps("8914", TRUTH, TRUTH * 0.8, TRUTH * 0 - 1),
    "subgroups": lambda: intervals.draw_subgroups(SUBGROUPS, "auroc", Estimate(0.88, 0.8, 0.9)),
    "learning_curve": lambda: training.draw_learning_curve(LEARNING, "Patches", "AUROC"),
    "roc": lambda: curves.draw_roc({"test": roc_points(Y_TRUE, Y_SCORE)}),
    "pr": lambda: curves.draw_pr({"test": pr_points(Y_TRUE, Y_SCORE)}),
    "confusion": lambda: curves.draw_confusion([[5, 1], [0, 0]]),
    "training": lambda: training.draw_training(HISTORY),
    "intervals": lambda: intervals.draw_intervals(
        {"auroc": Estimate(0.9, 0.8, 1.0), "mcc": Estimate(0.1, -0.25, 0.4)}
    ),
}


def texts(figure):
    return [each.get_text() for axes in figure.axes for each in axes.texts]


@pytest.mark.parametrize("name", DRAWINGS)
def test_pictures_have_the_same_bytes_each_time(tmp_path, name):
    for copy in ("a.png", "b.png"):
        style.save_figure(DRAWINGS[name](), tmp_path / copy)
    first = (tmp_path / "a.png").read_bytes()
    assert first == (tmp_path / "b.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert b"Matplotlib" not in first


def test_curves_are_named_in_their_colour():
    figure = curves.draw_roc({name: roc_points(Y_TRUE, Y_SCORE) for name in ("gate", "test")})
    legend = figure.axes[0].get_legend()
    assert [each.get_text() for each in legend.get_texts()] == ["gate", "test"]
    assert [each.get_color() for each in legend.get_texts()] == list(style.PALETTE[:2])


@pytest.mark.parametrize("step", [1, -1])
def test_pr_draws_the_prevalence_whichever_end_comes_first(step):
    figure = curves.draw_pr({"test": pr_points(Y_TRUE[:5], Y_SCORE[:5])[::step]})
    curve, prevalence = figure.axes[0].get_lines()
    assert list(prevalence.get_ydata()) == [0.4, 0.4]
    assert (np.diff(curve.get_xdata()) >= 0).all()


def test_confusion_says_counts_and_shares():
    assert texts(curves.draw_confusion([[1500, 500], [10, 30]])) == [
        "1,500",
        "75.0% of IDC-",
        "500",
        "25.0% of IDC-",
        "10",
        "25.0% of IDC+",
        "30",
        "75.0% of IDC+",
    ]


def test_training_marks_the_best_epoch():
    assert texts(training.draw_training(HISTORY)) == ["best: 0.900 in epoch 2"]
    unknown = HISTORY.assign(val_auroc=np.nan)
    assert texts(training.draw_training(unknown)) == []


def test_intervals_show_whole_whiskers_first_metric_on_top():
    axes = DRAWINGS["intervals"]().axes[0]
    assert axes.get_xlim()[0] <= -0.25
    assert [each.get_text() for each in axes.get_yticklabels()] == [
        "Area under ROC curve",
        "Matthews correlation",
    ]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert axes.texts[0].get_text() == "0.900  (0.800 to 1.000)"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: curves.draw_roc({}),
        lambda: curves.draw_pr({}),
        lambda: intervals.draw_intervals({}),
        lambda: training.draw_training(HISTORY.iloc[:0]),
        lambda: curves.draw_confusion([[1, 2, 3]]),
        lambda: curves.draw_reliability({}),
        lambda: curves.draw_reliability({"patch": BINS.iloc[:0]}),
        lambda: curves.draw_thresholds(THRESHOLDS.iloc[:0], Estimate(0.5, 0.4, 0.6)),
        lambda: curves.draw_thresholds(THRESHOLDS[["threshold"]], Estimate(0.5, 0.4, 0.6)),
        lambda: cases.draw_burden(CASES.iloc[:0], "mean_score"),
        lambda: cases.draw_slide_maps("a", TRUTH, TRUTH, TRUTH.T),
        lambda: intervals.draw_subgroups(SUBGROUPS, "mcc", None),
        lambda: training.draw_learning_curve(LEARNING.iloc[:0], "Patches", "AUROC"),
        lambda: training.draw_learning_curve(LEARNING.assign(size=0), "Patches", "AUROC"),
    ],
)
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(InputError):
        draw()


def test_draw_reliability_when_an_interval_is_unknown_then_the_bin_is_drawn_all_the_same():
    upper, lower = curves.draw_reliability({"patch": BINS}).axes
    (points,) = [line for line in upper.get_lines() if line.get_marker() == "o"]
    assert points.get_xydata().tolist() == [[0.1, 0.2], [0.6, 0.5]]
    heights = [segment[1][1] for segment in lower.collections[0].get_segments()]
    assert heights == [30, 10]


def test_draw_thresholds_when_rows_are_unordered_then_curves_run_by_threshold():
    axes = DRAWINGS["thresholds"]().axes[0]
    frozen, *curves = axes.get_lines()
    assert frozen.get_xdata() == [0.4, 0.4]
    assert [curve.get_label() for curve in curves] == [
        "Sensitivity",
        "Specificity",
        "Precision (PPV)",
    ]
    assert curves[0].get_xydata().tolist() == [[0.1, 1.0], [0.5, 0.7], [0.9, 0.2]]
    (interval,) = axes.patches
    assert interval.get_x() == 0.3
    assert interval.get_width() == pytest.approx(0.25)
    assert texts(axes.figure) == ["frozen at 0.400"]


def test_draw_thresholds_when_the_interval_is_unknown_then_only_the_line_is_drawn():
    figure = curves.draw_thresholds(THRESHOLDS, Estimate(0.4, np.nan, np.nan))
    assert len(figure.axes[0].patches) == 0


def test_draw_burden_when_cases_differ_in_size_then_areas_and_their_key_do_too():
    axes = DRAWINGS["burden"]().axes[0]
    dots, *key = axes.collections
    assert dots.get_offsets().tolist() == [[0.1, 0.2], [0.6, 0.5]]
    assert dots.get_sizes()[0] > 5 * dots.get_sizes()[1]
    assert [each.get_label() for each in key] == ["200 patches", "1,000 patches"]
    assert key[0].get_sizes() < key[1].get_sizes() < dots.get_sizes()[0]


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, [1]), (9, [1, 5]), (465, [40, 200]), (1000, [200, 1000])]
)
def test_burden_key_when_the_largest_case_is_known_then_names_round_sizes(largest, sizes):
    table = CASES.assign(num_patches=[largest, 1])
    key = cases.draw_burden(table, "mean_score").axes[0].get_legend()
    assert [each.get_text() for each in key.get_texts()] == [f"{n:,} patches" for n in sizes]


def test_draw_bland_altman_when_drawn_then_dots_are_errors_at_means():
    axes = DRAWINGS["bland_altman"]().axes[0]
    (dots,) = [line for line in axes.get_lines() if line.get_marker() == "o"]
    np.testing.assert_allclose(dots.get_xydata(), [[0.15, 0.1], [0.55, -0.1]])
    assert [text.split("\n")[0] for text in texts(axes.figure)] == [
        "upper limit +0.300",
        "bias +0.000",
        "lower limit -0.300",
    ]


def test_draw_slide_maps_when_a_place_is_empty_then_it_is_empty_in_all_three():
    images = [axes.images[0] for axes in DRAWINGS["slide_maps"]().axes if axes.images]
    assert len(images) == 3
    for image in images:
        assert np.ma.getmaskarray(image.get_array()).tolist() == np.isnan(TRUTH).tolist()


def test_draw_slide_maps_when_a_case_is_tall_then_the_bar_is_below_its_patches():
    tall = np.zeros((90, 20))
    axes = cases.draw_slide_maps("8914", tall, tall, tall).axes[0]
    (bar,) = axes.get_lines()
    assert list(bar.get_xdata()) == [-0.5, 9.5]
    assert min(bar.get_ydata()) > 89.5
    assert axes.get_ylim()[0] > max(bar.get_ydata())


def test_draw_subgroups_when_a_value_is_absent_then_the_reason_stands_in_its_place():
    axes = DRAWINGS["subgroups"]().axes[0]
    assert texts(axes.figure) == [
        "0.900  (0.850 to 0.950)",
        "1,500 patches, 9 cases",
        "2 of 3 cases needed  (20 patches, 2 cases)",
        "0.800  (0.700 to 0.900)",
        "1,400 patches, 9 cases",
        "all patches 0.880",
    ]
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == [0.9, 0.8]
    assert [each.get_text() for each in axes.get_yticklabels()] == [
        "Stain of the patch",
        "pale",
        "dark",
        "Size of the patch",
        "whole",
    ]


def test_draw_subgroups_when_there_is_no_interval_then_the_value_stands_alone():
    figure = intervals.draw_subgroups(SUBGROUPS, "calibration_slope", None)
    assert texts(figure) == ["1.100", "120 patches, 3 cases"]


def test_draw_learning_curve_when_two_sizes_are_nearly_the_same_then_their_labels_do_not_overlap():
    points = LEARNING.iloc[:3].assign(size=[3172, 3200, 6400])
    (axes,) = training.draw_learning_curve(points, "Patches", "AUROC").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["3,172", "6,400"]


def test_draw_learning_curve_when_series_share_sizes_then_they_stand_beside_each_other():
    axes = DRAWINGS["learning_curve"]().axes[0]
    fusion, floor = axes.get_lines()
    assert (fusion.get_label(), floor.get_label()) == ("fusion", "floor")
    assert list(fusion.get_ydata()) == [0.85, 0.9]
    assert (fusion.get_xdata() < floor.get_xdata()).all()
    np.testing.assert_allclose(fusion.get_xdata(), [1000, 2000], rtol=0.03)
    assert [each.get_text() for each in axes.get_xticklabels()] == ["1,000", "2,000"]


@pytest.mark.slow
def test_drawing_needs_no_pyplot():
    imports = "import sys; from idc.figures import cases, curves, intervals, training"
    code = f"{imports}; sys.exit('matplotlib.pyplot' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(style.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_draw_intervals_when_a_log_loss_is_above_one_then_the_axis_reaches_it():
    figure = intervals.draw_intervals({"log_loss": Estimate(1.23, 0.9, 1.67)})
    assert figure.axes[0].get_xlim()[1] >= 1.67
