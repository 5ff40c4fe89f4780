import numpy as np
import pytest

from idc.config import AugmentConfig
from idc.data.augment import Augmentation

OFF = {
    "d4": False, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
    "he_stain_prob": 0.0,
}  # fmt: skip


def augmentation(seed=17, **changes):
    return Augmentation(AugmentConfig(**{**OFF, **changes}), seed)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(40, 200, (6, 50, 50, 3), dtype=np.uint8)


def symmetries(patch):
    turned = [np.rot90(patch, times) for times in range(4)]
    return turned + [view[:, ::-1] for view in turned]


def test_augmentation_when_all_is_off_then_changes_nothing(pixels):
    np.testing.assert_array_equal(augmentation()(pixels, epoch=0, batch=0), pixels)


def test_augmentation_when_d4_is_on_then_gives_symmetries_of_each_patch(pixels):
    for before, after in zip(pixels, augmentation(d4=True)(pixels, epoch=0, batch=0), strict=True):
        assert any(np.array_equal(after, view) for view in symmetries(before))


def test_augmentation_when_called_again_then_repeats_itself(pixels):
    augment = augmentation(d4=True, brightness=0.2, hue=0.05)
    first = augment(pixels, epoch=1, batch=2)
    augment(pixels, epoch=5, batch=0)
    np.testing.assert_array_equal(augment(pixels, epoch=1, batch=2), first)


@pytest.mark.parametrize(("seed", "epoch", "batch"), [(18, 1, 2), (17, 2, 2), (17, 1, 3)])
def test_augmentation_when_seed_epoch_or_batch_differs_then_differs(pixels, seed, epoch, batch):
    first = augmentation(brightness=0.3)(pixels, epoch=1, batch=2)
    other = augmentation(seed, brightness=0.3)(pixels, epoch=epoch, batch=batch)
    assert not np.array_equal(first, other)


def test_augmentation_when_done_then_leaves_its_input_as_it_was(pixels):
    before = pixels.copy()
    augmentation(d4=True, brightness=0.3, he_stain_prob=1.0)(pixels, epoch=0, batch=0)
    np.testing.assert_array_equal(pixels, before)
