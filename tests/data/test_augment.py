import numpy as np

from idc.core.config import AugmentConfig
from idc.data.batches.augment import Augmentation, stain_presets

# what both engines do is tested in test_augment_engines.py


def test_augmentation_when_steps_are_several_then_they_do_not_draw_the_same_numbers():
    config = AugmentConfig(
        d4=False, brightness=0.3, contrast=0.0, saturation=0.0, hue=0.0, he_stain_prob=0.5
    )
    # stain gives grey pixels a colour, brightness does not; white ones it lets darken, stain not
    patches = np.full((400, 50, 50, 3), 60, np.uint8)
    patches[:, 25:] = 255
    changed = Augmentation(config, 17)(patches, epoch=0, batch=0)
    stained = np.ptp(changed[:, 0, 0], axis=1) > 0
    darkened = changed[:, -1, 0].mean(axis=1) < 255
    assert 0.4 < stained.mean() < 0.6
    assert 0.4 < darkened[stained].mean() < 0.6
    assert 0.4 < darkened[~stained].mean() < 0.6


def test_stain_presets_when_read_then_each_is_two_stains_of_about_unit_density():
    presets = stain_presets()
    assert presets.shape == (8, 2, 3)
    np.testing.assert_allclose(np.linalg.norm(presets, axis=2), 1, atol=0.06)
