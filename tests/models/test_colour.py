import numpy as np
import pytest

from idc.data.colour import colour_statistics
from idc.models.baselines.colour import fit_colour_baseline


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    base = np.array([90, 150])[np.arange(20) % 2][:, None, None, None]
    return (base + rng.integers(0, 40, (20, 50, 50, 3))).astype(np.uint8)


def test_colour_statistics_when_rows_are_chosen_then_are_mean_and_sd_per_channel(pixels):
    chosen = pixels[[7, 2]].astype(np.float64)
    expected = np.concatenate([chosen.mean(axis=(1, 2)), chosen.std(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(colour_statistics(pixels, np.array([7, 2])), expected, rtol=1e-5)


def test_fit_colour_baseline_when_brightness_shows_the_class_then_learns_it(pixels):
    labels = np.arange(20) % 2
    statistics = colour_statistics(pixels, np.arange(20))
    model = fit_colour_baseline(statistics[:10], labels[:10])
    assert model.predict(statistics[10:]).tolist() == labels[10:].tolist()
