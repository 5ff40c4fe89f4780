import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idc.data.quality import describe_pixels, flag_quality

NUM_PIXELS = 2500
WHITE, PINK = (240, 235, 245), (200, 140, 180)
BLUE_INK, GREEN_INK, BLACK_INK = (30, 60, 160), (20, 140, 60), (20, 20, 20)

# optical density of red, green, blue per unit of stain (Ruifrok & Johnston 2001)
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def make_tissue(seed=0):
    noise = np.random.default_rng(seed).normal(0, 20, (50, 50, 1))
    return np.clip(noise + PINK, 0, 255).astype(np.uint8)


def make_patch(num_pixels, colour, *, elsewhere=None):
    """Return tissue whose first pixels have one colour."""
    pixels = (make_tissue() if elsewhere is None else elsewhere).reshape(NUM_PIXELS, 3).copy()
    pixels[:num_pixels] = colour
    return pixels.reshape(50, 50, 3)


def make_checkerboard(contrast):
    fields = np.indices((50, 50)).sum(axis=0) % 2
    return np.repeat((120 + contrast * fields)[..., None], 3, axis=2).astype(np.uint8)


def flags_of(patch):
    return {name: bool(flag[0]) for name, flag in flag_quality(patch[None]).items()}


def test_flag_quality_when_tissue_is_sharp_and_clean_then_raises_no_flag():
    assert set(flags_of(make_tissue()).values()) == {False}


@pytest.mark.parametrize(
    ("num_white", "near_blank", "blank"),
    [
        (0, False, False),
        (1875, False, False),
        (1876, True, False),
        (2250, True, False),
        (2251, True, True),
        (2500, True, True),
    ],
)
def test_flag_quality_when_pixels_are_white_then_flags_over_75_and_over_90_percent(
    num_white, near_blank, blank
):
    flags = flags_of(make_patch(num_white, WHITE))
    assert (flags["near_blank"], flags["blank"]) == (near_blank, blank)


@pytest.mark.parametrize(
    ("colour", "white"),
    [((221, 221, 221), True), ((220, 255, 255), False), ((255, 220, 255), False)],
)
def test_flag_quality_when_a_channel_is_at_the_level_then_white_starts_above_it(colour, white):
    assert flags_of(make_patch(2500, colour))["blank"] == white


@pytest.mark.parametrize(("contrast", "blurred"), [(0, True), (3, True), (4, False), (40, False)])
def test_flag_quality_when_contrast_falls_then_flags_focus_under_variance_200(contrast, blurred):
    # the Laplacian of a checkerboard is four times its contrast: variances 0, 144, 256, 25,600
    assert flags_of(make_checkerboard(contrast))["out_of_focus"] == blurred


@pytest.mark.parametrize("sigma_px", [2, 4])
def test_flag_quality_when_tissue_is_blurred_then_flags_focus_alone(sigma_px):
    flags = flags_of(cv2.GaussianBlur(make_tissue(), (0, 0), sigma_px))
    assert [name for name, flag in flags.items() if flag] == ["out_of_focus"]


def test_flag_quality_when_near_blank_then_focus_is_not_judged():
    flat = make_patch(1876, WHITE, elsewhere=np.full((50, 50, 3), WHITE, np.uint8))
    assert flags_of(flat)["near_blank"]
    assert not flags_of(flat)["out_of_focus"]


@pytest.mark.parametrize(("num_marked", "marked"), [(0, False), (124, False), (125, True)])
@pytest.mark.parametrize("ink", [BLUE_INK, GREEN_INK, BLACK_INK], ids=["blue", "green", "black"])
def test_flag_quality_when_ink_covers_pixels_then_flags_from_5_percent(ink, num_marked, marked):
    assert flags_of(make_patch(num_marked, ink))["ink"] == marked


@pytest.mark.parametrize(
    ("colour", "marked"),
    [
        ((100, 116, 200), True),
        ((100, 115, 200), False),
        ((59, 59, 59), True),
        ((60, 59, 59), False),
        ((59, 60, 59), False),
        ((59, 59, 60), False),
    ],
)
def test_flag_quality_when_a_colour_is_at_the_level_then_ink_starts_beyond_it(colour, marked):
    assert flags_of(make_patch(2500, colour))["ink"] == marked


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 2.5), st.floats(0, 2.5))
def test_flag_quality_when_a_colour_is_of_haematoxylin_and_eosin_then_it_is_no_ink(
    haematoxylin, eosin
):
    density = haematoxylin * HAEMATOXYLIN + eosin * EOSIN
    assert not flags_of(make_patch(2500, np.round(255 * np.exp(-density))))["ink"]


def test_flag_quality_when_judged_in_a_chunk_then_neighbours_do_not_matter():
    patches = [make_checkerboard(3), np.full((50, 50, 3), 255, np.uint8), make_checkerboard(4)]
    patches += [make_patch(125, BLACK_INK), make_patch(124, BLACK_INK), make_tissue(1)]
    together = flag_quality(np.stack(patches))
    assert [
        {name: bool(flag[i]) for name, flag in together.items()} for i in range(len(patches))
    ] == [flags_of(patch) for patch in patches]


def test_describe_pixels_when_a_patch_has_one_colour_then_its_density_is_that_of_the_levels():
    patch = np.empty((1, 50, 50, 3), np.uint8)
    patch[:] = (51, 102, 204)
    described = describe_pixels(patch, np.array([0]))
    expected = -np.log10(np.array([51, 102, 204]) / 255).mean()
    assert described["mean_optical_density"].tolist() == pytest.approx([expected])
    assert described["white_share"].tolist() == [0.0]


def test_describe_pixels_when_a_patch_is_partly_white_then_its_density_is_that_of_the_tissue():
    stained = np.full((50, 50, 3), 102, np.uint8)
    half = make_patch(1250, WHITE, elsewhere=stained)
    described = describe_pixels(np.stack([stained, half]), np.array([0, 1]))
    assert described["white_share"].tolist() == [0.0, 0.5]
    assert described["mean_optical_density"].tolist() == pytest.approx([np.log10(2.5)] * 2)


def test_describe_pixels_when_all_is_white_or_black_then_density_is_finite():
    white, black = (np.full((50, 50, 3), level, np.uint8) for level in (255, 0))
    described = describe_pixels(np.stack([white, black]), np.array([0, 1]))
    assert described["mean_optical_density"].tolist() == pytest.approx([0.0, np.log10(255)])
    assert described["white_share"].tolist() == [1.0, 0.0]


def test_describe_pixels_when_white_is_judged_then_agrees_with_the_flags():
    patches = np.stack([make_patch(number, WHITE) for number in (1875, 1876, 2250, 2251)])
    share = describe_pixels(patches, np.arange(4))["white_share"]
    flags = flag_quality(patches)
    assert (share > 0.75).tolist() == flags["near_blank"].tolist()
    assert (share > 0.90).tolist() == flags["blank"].tolist()


def test_describe_pixels_when_rows_span_chunks_then_each_row_is_measured_in_its_order(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("idc.data.quality._ROWS_PER_CHUNK", 2)
    levels = np.array([20, 60, 100, 140, 180], np.uint8)
    np.save(tmp_path / "pixels.npy", np.broadcast_to(levels[:, None, None, None], (5, 50, 50, 3)))
    stored = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    rows = np.array([4, 0, 3, 3, 1])
    described = describe_pixels(stored, rows)
    assert described["mean_optical_density"].tolist() == pytest.approx(
        list(-np.log10(levels[rows] / 255)), rel=1e-6
    )
    assert describe_pixels(stored, rows[:0]).empty
