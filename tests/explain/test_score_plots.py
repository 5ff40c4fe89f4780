"""The picture of where methods point."""

import pytest

from idc.explain.scores.plots import draw_pointing


def share(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "num_patches": 8}


def scores(ranked_by):
    trained = {"a": share(0.6), "b": share(0.7), "fused": share(0.4)}
    untrained = {"a": share(0.21), "b": share(0.22), "fused": share(0.23)}
    return {
        "methods": {"grad_cam": "Grad-CAM"},
        "mosaics": {
            "trained": {"grad_cam": trained},
            "untrained": {"grad_cam": untrained},
            "baselines": {"random": share(0.25)},
            "ranking": ["grad_cam"],
            "ranked_by": ranked_by,
        },
    }


@pytest.mark.parametrize(
    ("ranked_by", "expected"),
    [(["fused"], [0.23, 0.25, 0.4]), (["a", "b"], [0.21, 0.22, 0.25, 0.6, 0.7])],
)
def test_draw_pointing_then_shows_the_maps_by_which_methods_are_ranked(ranked_by, expected):
    (axes,) = draw_pointing(scores(ranked_by)).axes
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert sorted(dots) == expected
    legend = " ".join(text.get_text() for text in axes.get_legend().get_texts())
    assert all(
        (f"this network, {source}," in legend) is (source != "fused") for source in ranked_by
    )
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "Grad-CAM",
        "random (no network)",
    ]
