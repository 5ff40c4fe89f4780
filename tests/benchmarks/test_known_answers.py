import numpy as np
import pandas as pd
import pytest

from benchmarks.known_answers import (
    Space,
    area_iou,
    draw_cue_views,
    draw_nest_views,
    pointing_hits,
    relevance_mass,
)


def square(top, left, edge, value=1.0):
    heat = np.zeros((1, 50, 50), np.float32)
    heat[0, top : top + edge, left : left + edge] = value
    return heat


MASK = square(10, 10, 10) > 0


def test_measures_when_the_map_is_the_mask_then_all_are_1():
    heat = square(10, 10, 10)
    assert pointing_hits(heat, MASK) == relevance_mass(heat, MASK) == area_iou(heat, MASK) == 1


def test_measures_when_the_map_lies_elsewhere_then_all_are_0():
    heat = square(30, 30, 10)
    assert pointing_hits(heat, MASK) == relevance_mass(heat, MASK) == area_iou(heat, MASK) == 0


def test_measures_when_the_map_covers_half_then_they_are_what_a_hand_counts():
    heat = square(10, 15, 10)  # 50 of its 100 px inside
    assert relevance_mass(heat, MASK) == 0.5
    assert area_iou(heat, MASK) == pytest.approx(50 / 150)


def test_relevance_mass_when_evidence_speaks_against_then_it_does_not_count():
    heat = square(10, 10, 10) - square(30, 30, 10, value=5.0)
    assert relevance_mass(heat, MASK) == 1
    assert pointing_hits(heat, MASK) == 1


def test_pointing_hits_when_the_maximum_is_just_outside_then_the_tolerance_decides():
    for distance, hit in ((2, 1), (3, 0)):
        assert pointing_hits(square(15, 19 + distance, 1), MASK) == hit


def test_measures_when_the_map_is_flat_then_iou_is_that_of_chance_and_the_others_follow_area():
    flat = np.ones((1, 50, 50), np.float32)
    assert relevance_mass(flat, MASK) == pytest.approx(0.04)
    assert area_iou(flat, MASK) == pytest.approx(4 / (200 - 4))
    # 100 px, and what lies within 2 px of them
    assert 0.04 < pointing_hits(flat, MASK)[0] < 14**2 / 2500


def test_measures_when_the_map_is_empty_then_it_neither_points_nor_has_mass():
    empty = np.zeros((1, 50, 50), np.float32)
    assert pointing_hits(empty, MASK) == relevance_mass(empty, MASK) == 0


# --- views ---


@pytest.fixture
def space(tmp_path):
    """Two rows of three patches in each of two cases, the first column IDC+; masks come from it."""
    import cv2

    rows = [
        {"case": case, "x": 50 * column + 1, "y": 50 * row + 1, "label": int(column == 0)}
        for case in ("a", "b")
        for row in range(2)
        for column in range(3)
    ]
    index = pd.DataFrame(rows).assign(sliver=False)
    for row in index.itertuples():
        name = f"{row.case}_idx5_x{row.x}_y{row.y}_class{row.label}.png"
        for of, wanted in (("nests", True), ("cue", row.x == 51)):
            file = tmp_path / of / row.case / name
            file.parent.mkdir(parents=True, exist_ok=True)
            mask = np.full((50, 50), 255 * row.label if of == "nests" else 255, np.uint8)
            if wanted:
                cv2.imwrite(str(file), mask)
    pixels = np.zeros((len(index), 50, 50, 3), np.uint8)
    pixels[:] = (10 * np.arange(len(index)))[:, None, None, None]
    splits = pd.DataFrame({"row": index.index, "split": "test"})
    return Space(pixels, index, splits, tmp_path)


def test_draw_nest_views_when_patches_are_all_nest_then_windows_across_borders_are_drawn(space):
    views = draw_nest_views(space, 10, 17)
    # whole patches are all nest or none; of the two windows of a case one is 70 % nest
    assert set(views.rows) == {-1}
    assert sorted(views.case) == ["a", "b"]
    for pixels, mask in zip(views.pixels, views.masks, strict=True):
        assert mask.mean() == pytest.approx(0.3)
        assert mask[:, :15].all()
        left, right = np.unique(pixels[mask]), np.unique(pixels[~mask])
        assert right - left == 10  # the patch beside it


def test_draw_cue_views_when_drawn_then_only_idc_negative_patches_with_the_cue_in_turns(space):
    views = draw_cue_views(space, 3, 17)
    assert len(views) == 3
    assert set(views.case[:2]) == {"a", "b"}
    assert (space.index.loc[views.rows, "x"] == 51).all()
    assert (space.index.loc[views.rows, "label"] == 0).all()
    assert views.masks.all()
