import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from idc.errors import InputError
from idc.evaluation import plots
from idc.evaluation.bootstrap import Estimate
from idc.evaluation.curves import pr_points, roc_points

Y_TRUE, Y_SCORE = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.3, 0.4, 0.5, 0.8, 0.9])
HISTORY = pd.DataFrame(
    {"epoch": [1, 2, 3], "train_loss": [0.7, 0.5, 0.4], "val_auroc": [np.nan, 0.9, 0.8]}
)
DRAWINGS = {
    "roc": lambda: plots.draw_roc({"test": roc_points(Y_TRUE, Y_SCORE)}),
    "pr": lambda: plots.draw_pr({"test": pr_points(Y_TRUE, Y_SCORE)}),
    "confusion": lambda: plots.draw_confusion([[5, 1], [0, 0]]),
    "training": lambda: plots.draw_training(HISTORY),
    "intervals": lambda: plots.draw_intervals(
        {"auroc": Estimate(0.9, 0.8, 1.0), "mcc": Estimate(0.1, -0.25, 0.4)}
    ),
}


def texts(figure):
    return [each.get_text() for axes in figure.axes for each in axes.texts]


@pytest.mark.parametrize("name", DRAWINGS)
def test_pictures_have_the_same_bytes_each_time(tmp_path, name):
    for copy in ("a.png", "b.png"):
        plots.save_figure(DRAWINGS[name](), tmp_path / copy)
    first = (tmp_path / "a.png").read_bytes()
    assert first == (tmp_path / "b.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert b"Matplotlib" not in first


def test_curves_are_named_in_their_colour():
    figure = plots.draw_roc({name: roc_points(Y_TRUE, Y_SCORE) for name in ("gate", "test")})
    legend = figure.axes[0].get_legend()
    assert [each.get_text() for each in legend.get_texts()] == ["gate", "test"]
    assert [each.get_color() for each in legend.get_texts()] == list(plots.PALETTE[:2])


@pytest.mark.parametrize("step", [1, -1])
def test_pr_draws_the_prevalence_whichever_end_comes_first(step):
    figure = plots.draw_pr({"test": pr_points(Y_TRUE[:5], Y_SCORE[:5])[::step]})
    curve, prevalence = figure.axes[0].get_lines()
    assert list(prevalence.get_ydata()) == [0.4, 0.4]
    assert (np.diff(curve.get_xdata()) >= 0).all()


def test_confusion_says_counts_and_shares():
    assert texts(plots.draw_confusion([[1500, 500], [10, 30]])) == [
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
    assert texts(plots.draw_training(HISTORY)) == ["best: 0.900 in epoch 2"]
    unknown = HISTORY.assign(val_auroc=np.nan)
    assert texts(plots.draw_training(unknown)) == []


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
        lambda: plots.draw_roc({}),
        lambda: plots.draw_pr({}),
        lambda: plots.draw_intervals({}),
        lambda: plots.draw_training(HISTORY.iloc[:0]),
        lambda: plots.draw_confusion([[1, 2, 3]]),
    ],
)
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(InputError):
        draw()


def test_drawing_needs_no_pyplot():
    code = "import sys, idc.evaluation.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(plots.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
