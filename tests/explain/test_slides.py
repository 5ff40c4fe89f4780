import numpy as np
import pandas as pd
import pytest

from idc.explain.panels.slides import choose_slides, draw_attribution_map, spread_scores


@pytest.fixture
def cases():
    """Case a has 21x21 patches, b 22x22, and c 30, which is no whole slide."""
    parts = []
    for case, edge in (("a", 21), ("b", 22), ("c", 5)):
        column, row = (each.ravel() for each in np.meshgrid(np.arange(edge), np.arange(edge)))
        parts.append(pd.DataFrame({"case": case, "x": 50 * column + 1, "y": 50 * row + 1}))
    return pd.concat(parts, ignore_index=True)


def test_choose_slides_then_takes_the_largest_complete_cases(cases):
    assert choose_slides(cases, 5) == ["b", "a"]
    assert choose_slides(cases, 1) == ["b"]
    assert choose_slides(cases, 0) == choose_slides(cases.head(0), 3) == []


def test_spread_scores_then_the_mean_of_a_patch_is_its_probability():
    maps = np.zeros((3, 50, 50), np.float32)
    maps[0, :5, :5] = 1.0  # all in the first block
    maps[1] = -1.0  # nothing speaks for IDC+
    maps[2, :, 25:] = 7.0
    spread = spread_scores(np.array([0.9, 0.2, 0.5]), maps)
    np.testing.assert_allclose(spread.mean(axis=(1, 2)), [0.9, 0.2, 0.5], rtol=1e-5)
    assert spread[0, 0, 0] == pytest.approx(90)
    np.testing.assert_allclose(spread[1], 0.2)
    np.testing.assert_allclose(spread[2, 0], [0] * 5 + [1.0] * 5)


def test_draw_attention_then_each_block_is_where_its_patch_does(cases):
    patches = cases[cases["case"] == "c"].iloc[1:].assign(y_score=0.5)
    spread = np.full((24, 10, 10), 0.5, np.float32)
    spread[0] = 1.0  # the patch at x 51, y 1
    figure = draw_attribution_map(
        patches, np.full((24, 50, 50, 3), 200, np.uint8), spread, "evidence"
    )
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    tissue, _, attention = pictures[:3]
    assert tissue.shape == (50, 50, 3)
    assert np.isnan(np.ma.filled(attention, np.nan)[:10, :10]).all()
    assert (attention[:10, 10:20] == 1.0).all()
    assert (attention[10:, :10] == 0.5).all()
