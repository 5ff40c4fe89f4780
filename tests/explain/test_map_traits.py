import cv2
import numpy as np
import pytest

from idc.data.batches.augment import stain_presets
from idc.explain.scores.baseline_maps import BASELINE_MAPS, darkness_maps
from idc.explain.scores.map_traits import (
    add_noise,
    agreement,
    best_enrichment,
    enrichment,
    find_ground,
    haematoxylin,
    is_empty,
    mass_share,
    relative_change,
)


def stained(amount_haematoxylin, amount_eosin):
    """Patches with these amounts of the two stains, (patches, 50, 50) each."""
    stains = stain_presets()[0]
    density = np.stack([amount_haematoxylin, amount_eosin], axis=-1) @ stains
    return np.clip(255 * 10**-density, 0, 255).astype(np.uint8)


@pytest.fixture
def nucleus():
    """A pink patch with one blue nucleus in the first tenth, and white on the right."""
    blue, pink = np.zeros((1, 50, 50)), np.full((1, 50, 50), 0.3)
    blue[0, 10:20, 10:20] = 0.9
    pixels = stained(blue, pink)
    pixels[0, :, 40:] = 245
    return pixels


def test_haematoxylin_when_a_patch_is_stained_then_the_amount_comes_back():
    amount = np.linspace(0, 0.8, 2500).reshape(1, 50, 50)
    found = haematoxylin(stained(amount, np.full_like(amount, 0.2)))
    length = np.linalg.norm(stain_presets()[0][0])
    assert np.abs(found - amount * length).max() < 0.03


def test_ground_when_there_is_a_nucleus_and_white_then_each_is_found(nucleus):
    ground = find_ground(nucleus)
    expected = np.zeros((1, 50, 50), bool)
    expected[0, 10:20, 10:20] = True
    assert np.array_equal(ground.haematoxylin, expected)
    assert ground.white.mean() == pytest.approx(0.2)


def test_ground_when_all_is_white_then_nothing_is_rich():
    ground = find_ground(np.full((2, 50, 50, 3), 250, np.uint8))
    assert ground.white.all()
    assert not ground.haematoxylin.any()


def test_enrichment_when_all_mass_is_inside_then_it_is_one_over_the_area(nucleus):
    inside = find_ground(nucleus).haematoxylin
    assert enrichment(inside.astype(float), inside) == pytest.approx([25.0])
    assert enrichment(np.ones((1, 50, 50)), inside) == pytest.approx([1.0])
    assert best_enrichment(inside, 50) == pytest.approx([25.0])
    assert best_enrichment(inside, 2) == pytest.approx([4.0])


def test_mass_when_a_map_is_negative_or_empty_then_only_evidence_for_counts():
    left = np.zeros((3, 50, 50), bool)
    left[:, :, :25] = True
    maps = np.zeros((3, 50, 50))
    maps[0, :, 0], maps[0, :, 49] = 1.0, -5.0
    maps[1] = -1.0
    assert mass_share(maps, left)[0] == 1.0
    assert np.isnan(mass_share(maps, left)[1:]).all()
    assert list(is_empty(maps)) == [False, False, True]


def test_agreement_when_maps_are_the_same_then_1_and_reversed_minus_1():
    maps = np.random.default_rng(0).random((4, 50, 50))
    assert agreement([maps, 2 * maps]) == pytest.approx(np.ones(4))
    assert agreement([maps, -maps]) == pytest.approx(-np.ones(4))
    assert agreement([maps, maps, -maps]) == pytest.approx(np.full(4, -1 / 3))


def test_relative_change_when_a_map_doubles_then_1_and_of_an_empty_map_undefined():
    maps = np.ones((2, 50, 50))
    maps[1] = 0
    change = relative_change(maps, maps * 2)
    assert change[0] == pytest.approx(1.0)
    assert np.isnan(change[1])


def test_noise_when_added_then_small_and_seeded():
    pixels = np.full((2, 50, 50, 3), 128, np.uint8)
    noisy = add_noise(pixels, 1)
    assert np.array_equal(noisy, add_noise(pixels, 1))
    assert (noisy.astype(float) - 128).std() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("name", BASELINE_MAPS)
@pytest.mark.parametrize("edge", [50, 100])
def test_baseline_when_made_then_a_finite_map_of_the_pixels_size(name, edge):
    pixels = np.random.default_rng(0).integers(0, 255, (3, edge, edge, 3), dtype=np.uint8)
    maps = BASELINE_MAPS[name](pixels, 7)
    assert maps.shape == (3, edge, edge)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert np.array_equal(maps, BASELINE_MAPS[name](pixels, 7))


def test_darkness_when_a_pixel_is_darker_then_its_value_is_higher():
    pixels = np.full((1, 50, 50, 3), 200, np.uint8)
    cv2.rectangle(pixels[0], (5, 5), (9, 9), (30, 20, 60), -1)
    maps = darkness_maps(pixels, 0)
    assert maps[0, 7, 7] > 5 * maps[0, 30, 30]
