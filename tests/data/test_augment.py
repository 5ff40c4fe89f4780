import numpy as np
import pytest

from idc.core.config import AugmentConfig
from idc.data.batches.augment import Augmentation, stain_presets
from idc.data.batches.loader import BatchPlan, TrainingBatches, create_loader
from idc.data.subsets import LabelledRows

SEED = 17
OFF = {
    "d4": False, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
    "he_stain_prob": 0.0,
}  # fmt: skip
WHOLE = {
    "d4": True, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05,
    "he_stain_prob": 0.5,
}  # fmt: skip
INGREDIENTS = [{name: value} for name, value in WHOLE.items()]


def create(changes, seed=SEED):
    return Augmentation(AugmentConfig(**{**OFF, **changes}), seed)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (12, 50, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("changes", INGREDIENTS, ids=list(WHOLE))
def test_augmentation_when_one_ingredient_is_on_then_it_changes_the_pixels(noise, changes):
    assert not np.array_equal(create(changes)(noise, epoch=0, batch=0), noise)


def symmetries(patch):
    turned = [np.rot90(patch, times) for times in range(4)]
    return np.stack(turned + [view[:, ::-1] for view in turned])


def test_augmentation_when_d4_is_on_then_all_eight_symmetries_come_equally_often(noise):
    views = symmetries(noise[0])
    changed = create({"d4": True})(np.repeat(noise[:1], 4000, axis=0), epoch=0, batch=0)
    # ten pixels tell the eight apart; that the rest belongs to them is the next test
    marks, found = views[:, 0, :10].reshape(8, -1), changed[:, 0, :10].reshape(4000, -1)
    counts = (found[:, None] == marks).all(axis=2).sum(axis=0)
    assert counts.sum() == 4000
    assert ((counts - 500) ** 2 / 500).sum() < 24.3  # chi-squared, 7 degrees of freedom, p = .001


def test_augmentation_when_d4_is_on_then_each_patch_is_a_symmetry_of_itself(noise):
    for before, after in zip(noise, create({"d4": True})(noise, epoch=0, batch=0), strict=True):
        assert any(np.array_equal(after, view) for view in symmetries(before))


def halves(num_patches):
    """Patches of which one half is grey 50, the other 150."""
    patches = np.full((num_patches, 50, 50, 3), 50, np.uint8)
    patches[:, 25:] = 150
    return patches


def brightness_of(patches):
    return patches.mean(axis=(1, 2, 3)) / 100


def contrast_of(patches):
    return np.ptp(patches.reshape(len(patches), -1), axis=1) / 100


@pytest.mark.parametrize(
    ("name", "factor_of"), [("brightness", brightness_of), ("contrast", contrast_of)]
)
def test_augmentation_when_a_factor_is_drawn_then_it_is_uniform_around_one(name, factor_of):
    factors = factor_of(create({name: 0.2})(halves(2000), epoch=0, batch=0))
    # grey levels are whole numbers, so a factor reads up to .01 too low or too high
    assert [factors.min(), factors.max()] == pytest.approx([0.8, 1.2], abs=0.015)
    assert factors.mean() == pytest.approx(1, abs=0.015)  # its standard error is .0026
    assert factors.std() == pytest.approx(0.4 / np.sqrt(12), rel=0.05)


def test_augmentation_when_steps_are_several_then_they_do_not_draw_the_same_numbers():
    # stain gives grey pixels a colour, brightness does not; white ones it lets darken, stain not
    patches = np.full((400, 50, 50, 3), 60, np.uint8)
    patches[:, 25:] = 255
    changed = create({"brightness": 0.3, "he_stain_prob": 0.5})(patches, epoch=0, batch=0)
    stained = np.ptp(changed[:, 0, 0], axis=1) > 0
    darkened = changed[:, -1, 0].mean(axis=1) < 255
    assert 0.4 < stained.mean() < 0.6
    assert 0.4 < darkened[stained].mean() < 0.6
    assert 0.4 < darkened[~stained].mean() < 0.6


def test_augmentation_when_all_is_off_then_changes_nothing(noise):
    np.testing.assert_array_equal(create({})(noise, epoch=0, batch=0), noise)


def test_augmentation_when_done_then_leaves_its_input_as_it_was(noise):
    before = noise.copy()
    create(WHOLE)(noise, epoch=0, batch=0)
    np.testing.assert_array_equal(noise, before)


def test_augmentation_when_called_again_then_repeats_itself(noise):
    augment = create(WHOLE)
    first = augment(noise, epoch=1, batch=2)
    augment(noise, epoch=5, batch=0)
    np.testing.assert_array_equal(augment(noise, epoch=1, batch=2), first)


@pytest.mark.parametrize(("seed", "epoch", "batch"), [(18, 1, 2), (17, 2, 2), (17, 1, 3)])
def test_augmentation_when_seed_epoch_or_batch_differs_then_differs(noise, seed, epoch, batch):
    first = create({"brightness": 0.3})(noise, epoch=1, batch=2)
    other = create({"brightness": 0.3}, seed)(noise, epoch=epoch, batch=batch)
    assert not np.array_equal(first, other)


def test_augmentation_when_patches_are_equal_then_each_position_changes_them_otherwise(noise):
    changed = create({"brightness": 0.3})(np.repeat(noise[:1], 6, axis=0), epoch=0, batch=0)
    assert len(np.unique(changed.reshape(6, -1), axis=0)) == 6


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_augmentation_when_a_batch_is_divided_then_the_parts_make_up_the_whole(noise, parts):
    augment = create(WHOLE)
    size = len(noise) // parts
    divided = [
        augment(noise[part], epoch=3, batch=4, positions=part)
        for part in (slice(start, start + size) for start in range(0, len(noise), size))
    ]
    np.testing.assert_array_equal(np.concatenate(divided), augment(noise, epoch=3, batch=4))


@pytest.mark.parametrize("positions", [slice(0, 5), slice(0, 24, 2), slice(-12, 0), slice(3, None)])
def test_augmentation_when_positions_do_not_fit_the_patches_then_rejects_them(noise, positions):
    with pytest.raises(ValueError, match="positions in a batch"):
        create(WHOLE)(noise, epoch=0, batch=0, positions=positions)


def serve(pixels, *, num_workers=0, first_batch=0, rank=0, world_size=1):
    """One epoch as a training loop gets it."""
    patches = LabelledRows(np.arange(len(pixels)), np.arange(len(pixels)) % 2)
    plan = BatchPlan(4, SEED, rank, world_size)
    batches = TrainingBatches(pixels, patches, plan, epoch=2, augmentation=create(WHOLE))
    loader = create_loader(
        batches, num_workers=num_workers, pin_memory=False, first_batch=first_batch
    )
    return np.stack([patches.numpy() for patches, _ in loader])


# four workers on two cores are what is tested
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("num_workers", [1, 4])
def test_epoch_when_workers_build_it_then_it_is_the_same(noise, num_workers):
    np.testing.assert_array_equal(serve(noise, num_workers=num_workers), serve(noise))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epoch_when_started_in_its_middle_then_the_rest_is_the_same(noise, num_workers):
    rest = serve(noise, num_workers=num_workers, first_batch=1)
    np.testing.assert_array_equal(rest, serve(noise)[1:])


def test_epoch_when_ranks_share_it_then_their_parts_make_up_its_batches(noise):
    parts = [serve(noise, rank=rank, world_size=2) for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), serve(noise))


def test_stain_presets_when_read_then_each_is_two_stains_of_about_unit_density():
    presets = stain_presets()
    assert presets.shape == (8, 2, 3)
    np.testing.assert_allclose(np.linalg.norm(presets, axis=2), 1, atol=0.06)
