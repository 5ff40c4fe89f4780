import numpy as np
import pytest
import torch
from torch.nn import functional

from idc.core.errors import InputError
from idc.evaluation.statistics.metrics import auroc
from idc.models.baselines import plain_cnn as plain_cnn_module
from idc.models.baselines.fit import BASELINES, score_baseline
from idc.models.baselines.trees import FEATURES, tree_features
from idc.models.networks import atoms
from idc.models.texture import dictionary as dictionary_module
from idc.models.texture.dictionary import learn_dictionary

NUM_PATCHES = 160
LABELS = np.arange(NUM_PATCHES) % 2
TRAIN = np.arange(100)
SCORED = np.arange(100, NUM_PATCHES)


@pytest.fixture(scope="module")
def textures():
    """Stripes across (IDC-) and down (IDC+), of equal mean colour and equal values per patch."""
    rng = np.random.default_rng(0)
    pixels = np.empty((NUM_PATCHES, 50, 50, 3), np.uint8)
    for patch, label in enumerate(LABELS):
        wave = 30 * np.sign(np.sin((np.arange(50) + rng.integers(0, 8)) * np.pi / 4 + 0.1))
        stripes = np.broadcast_to(wave, (50, 50)) if label else np.broadcast_to(wave, (50, 50)).T
        level = rng.integers(100, 160, 3)
        noise = rng.normal(0, 12, (50, 50, 3))
        pixels[patch] = np.clip(level + stripes[..., None] + noise, 0, 255)
    return pixels


@pytest.fixture(autouse=True)
def _small_models(monkeypatch):
    monkeypatch.setattr(dictionary_module, "NUM_ATOMS", 24)
    monkeypatch.setattr(dictionary_module, "_WINDOWS", 2000)
    monkeypatch.setattr(plain_cnn_module, "_WIDTHS", (8, 8, 8, 8))
    monkeypatch.setattr(plain_cnn_module, "_BATCH_SIZE", 20)
    monkeypatch.setattr(plain_cnn_module, "_EPOCHS", 2)


def test_score_baseline_when_textures_have_equal_colour_then_dictionary_separates_them(textures):
    scores = score_baseline("dictionary", textures, TRAIN, LABELS[TRAIN], SCORED, 17)
    assert auroc(LABELS[SCORED], scores) > 0.99


@pytest.mark.parametrize("name", BASELINES)
def test_score_baseline_when_brightness_shows_the_class_then_learns_it(name, textures, monkeypatch):
    monkeypatch.setattr(plain_cnn_module, "_EPOCHS", 8)
    pixels = textures // 2 + np.where(LABELS == 1, 100, 0).astype(np.uint8)[:, None, None, None]
    scores = score_baseline(name, pixels, TRAIN, LABELS[TRAIN], SCORED, 17)
    assert auroc(LABELS[SCORED], scores) > 0.95


@pytest.mark.parametrize("name", BASELINES)
def test_score_baseline_when_score_rows_are_shuffled_then_scores_follow(name, textures):
    shuffled = np.random.default_rng(1).permutation(len(SCORED))
    straight = score_baseline(name, textures, TRAIN, LABELS[TRAIN], SCORED, 17)
    mixed = score_baseline(name, textures, TRAIN, LABELS[TRAIN], SCORED[shuffled], 17)
    assert straight.dtype == np.float64
    assert np.ptp(straight) > 1e-3
    np.testing.assert_allclose(mixed, straight[shuffled], rtol=1e-4)


@pytest.mark.parametrize("name", BASELINES)
def test_score_baseline_when_train_rows_are_shuffled_then_scores_stay(name, textures):
    shuffled = np.random.default_rng(1).permutation(TRAIN)
    straight = score_baseline(name, textures, TRAIN, LABELS[TRAIN], SCORED, 17)
    mixed = score_baseline(name, textures, shuffled, LABELS[shuffled], SCORED, 17)
    np.testing.assert_array_equal(mixed, straight)


@pytest.mark.parametrize("name", ["dictionary", "plain_cnn"])
def test_score_baseline_when_the_seed_differs_then_scores_do(name, textures):
    first = score_baseline(name, textures, TRAIN, LABELS[TRAIN], SCORED, 17)
    other = score_baseline(name, textures, TRAIN, LABELS[TRAIN], SCORED, 18)
    assert not np.allclose(first, other)


@pytest.mark.parametrize(
    ("name", "rows", "labels", "scored", "said"),
    [
        ("forest", TRAIN, LABELS[TRAIN], SCORED, "no baseline 'forest': choose of trees"),
        ("trees", TRAIN, LABELS[:5], SCORED, "100 training rows but 5 labels"),
        ("trees", TRAIN, np.zeros(100, int), SCORED, "labels 0 and 1"),
        ("trees", TRAIN, LABELS[TRAIN], SCORED[:0], "no score rows"),
        ("trees", TRAIN, LABELS[TRAIN], SCORED + 1, "the store holds 160 patches"),
    ],
)
def test_score_baseline_when_input_is_wrong_then_says_what(
    name, rows, labels, scored, said, textures
):
    with pytest.raises(InputError, match=said):
        score_baseline(name, textures, rows, labels, scored, 17)


def test_tree_features_when_computed_then_are_38_named_finite_numbers(textures):
    pixels = np.concatenate([textures[:3], np.full((2, 50, 50, 3), [[[[0]]], [[[255]]]], np.uint8)])
    features = tree_features(pixels, np.arange(5))
    assert len(set(FEATURES)) == 38
    assert features.shape == (5, 38)
    assert np.isfinite(features).all()


def test_tree_features_when_patch_is_known_then_names_fit_the_numbers(textures):
    features = dict(zip(FEATURES, tree_features(textures, np.array([1]))[0], strict=True))
    patch = textures[1].astype(np.float64)
    assert features["green_mean"] == pytest.approx(patch[..., 1].mean(), rel=1e-4)
    assert features["blue_sd"] == pytest.approx(patch[..., 2].std(), rel=1e-4)
    assert features["red_q50"] == pytest.approx(np.median(patch[..., 0]), abs=1)
    assert features["value_mean"] == pytest.approx(patch.max(axis=-1).mean() / 255, rel=1e-4)
    assert features["coherence"] > 0.8


def test_tree_features_when_patch_is_pure_haematoxylin_then_eosin_is_nothing():
    stain = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
    colour = np.round(256 * 10 ** (-0.8 * stain) - 1)
    pixels = np.broadcast_to(colour, (1, 50, 50, 3)).astype(np.uint8)
    features = dict(zip(FEATURES, tree_features(pixels, np.array([0]))[0], strict=True))
    assert features["haematoxylin_mean"] == pytest.approx(0.8, abs=0.01)
    assert features["eosin_mean"] == pytest.approx(0.0, abs=0.01)


def test_encode_when_computed_by_convolution_then_equals_the_recipe_window_by_window(textures):
    dictionary = learn_dictionary(textures, TRAIN, 17, num_atoms=6)
    patch = textures[0].astype(np.float64)
    places = range(0, 45, 2)
    windows = np.array([patch[i : i + 6, j : j + 6].ravel() for i in places for j in places])
    normal = (windows - windows.mean(1, keepdims=True)) / np.sqrt(windows.var(1) + 10)[:, None]
    filters = dictionary.filters.permute(0, 2, 3, 1).reshape(6, -1).numpy()
    answers = normal @ filters.T - dictionary.offsets.numpy()
    active = np.maximum(np.stack([answers, -answers]) - atoms._SOFT_THRESHOLD, 0)
    expected = np.sqrt(active.mean(axis=1)).ravel()
    encoded = dictionary.encode(textures, np.array([0]))[0]
    np.testing.assert_allclose(encoded, expected, rtol=1e-3, atol=1e-4)


def test_encode_when_computed_then_every_bit_is_that_of_the_formula(textures):
    dictionary = learn_dictionary(textures, TRAIN, 17, num_atoms=6)
    rows = np.arange(11)
    expected = []
    for chunk in np.split(rows, [8]):
        images = torch.from_numpy(textures[chunk]).permute(0, 3, 1, 2).float()
        mean, square = (
            functional.avg_pool2d(plane.mean(dim=1, keepdim=True), 6, stride=2)
            for plane in (images - 128.0, (images - 128.0) ** 2)
        )
        contrast = torch.sqrt((square - mean**2).clamp_min(0.0) + 10.0)
        response = functional.conv2d(images, dictionary.filters, stride=2) / contrast
        shrunk = functional.softshrink(response - dictionary.offsets[:, None, None], 0.5)
        balance, activity = shrunk.mean(dim=(2, 3)), shrunk.abs().mean(dim=(2, 3))
        both = torch.cat([activity + balance, activity - balance], dim=1) / 2
        expected.append(both.clamp_min(0.0).sqrt())
    encoded = dictionary.encode(textures, rows)
    np.testing.assert_array_equal(encoded, torch.cat(expected).numpy())


def test_encode_when_contrast_is_absent_then_is_finite(textures):
    even = np.full((1, 50, 50, 3), 255, np.uint8)
    encoded = learn_dictionary(textures, TRAIN, 17, num_atoms=6).encode(even, np.array([0]))
    assert np.isfinite(encoded).all()
