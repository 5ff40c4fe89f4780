import numpy as np
import pytest
from matplotlib.colors import to_rgb

from idc.explain.panels.sheets import COLOURS, Column, draw_sheet


@pytest.fixture
def signed():
    """Evidence for IDC+ above, against it below; nothing known of the second patch."""
    heat = np.ones((2, 50, 50), np.float32)
    heat[0, 25:] = -1.0
    heat[1] = np.nan
    return heat


def mosaic_of(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def test_sheet_then_colours_tell_for_and_against_and_an_unknown_map_is_blank(signed):
    pixels = np.full((2, 50, 50, 3), 100, np.uint8)
    column = Column("Integrated Gradients", signed, "for")
    mosaic = mosaic_of(draw_sheet("IDC+: fused", ["one", "two"], pixels, [column]))
    assert mosaic.shape == (192, 192, 3)
    assert (mosaic[:90, :90] == 100).all(), "the patch itself comes first"
    for row, meaning in ((20, "for"), (70, "against")):
        colour = 0.8 * 255 * np.array(to_rgb(COLOURS[meaning])) + 0.2 * 100
        np.testing.assert_allclose(mosaic[row, 140], colour, atol=1)
    assert (mosaic[96:186, 96:186] == 255).all()


def test_sheet_when_a_map_is_empty_then_shows_the_grey_patch():
    pixels = np.full((1, 50, 50, 3), (90, 120, 150), np.uint8)
    column = Column("Grad-CAM", np.zeros((1, 50, 50), np.float32), "for")
    assert (mosaic_of(draw_sheet("", [""], pixels, [column]))[:90, 96:186] == 120).all()


def test_sheet_then_says_what_its_colours_mean(signed):
    pixels = np.zeros((2, 50, 50, 3), np.uint8)

    def texts(meaning, heat):
        figure = draw_sheet("", ["", ""], pixels, [Column("m", heat, meaning)])
        return {text.get_text() for text in figure.axes[0].texts}

    assert {"evidence for IDC+", "evidence against IDC+"} <= texts("for", signed)
    assert "evidence against IDC+" not in texts("for", np.abs(signed))
    assert "matters, for or against" in texts("neither", np.abs(signed))
