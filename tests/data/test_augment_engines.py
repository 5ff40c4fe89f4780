"""What both engines of the augmentation policy must do, and that they do the same."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from idc.core.config import AugmentConfig
from idc.data.batches.augment import Augmentation
from idc.data.batches.device_augment import DeviceAugmentation
from idc.data.batches.loader import BatchPlan, TrainingBatches, create_loader
from idc.data.ingest.archive import list_members
from idc.data.ingest.pixel_store import store_patches
from idc.data.subsets import LabelledRows
from idc.synthetic import draw_slide
from idc.synthetic.slide import cut_patches

FOLDER = os.environ.get("IDC_REAL_DATA")
SEED = 17
NUM_COMPARED = 10_000
OFF = {
    "d4": False, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
    "he_stain_prob": 0.0,
}  # fmt: skip
WHOLE = {
    "d4": True, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05,
    "he_stain_prob": 0.5,
}  # fmt: skip
INGREDIENTS = [{name: value} for name, value in WHOLE.items()]
ENGINES = ["albumentations", "device"]


def create_engine(name, changes, seed=SEED):
    """The engine as a function of numpy pixels."""
    config = AugmentConfig(**{**OFF, **changes})
    if name == "albumentations":
        return Augmentation(config, seed)
    augmentation = DeviceAugmentation(config, seed)

    def change(pixels, **where):
        return augmentation(torch.from_numpy(pixels), **where).numpy()

    return change


@pytest.fixture(params=ENGINES)
def engine(request):
    return lambda changes, seed=SEED: create_engine(request.param, changes, seed)


def draw_patches():
    rng = np.random.default_rng(1)
    slides = [draw_slide(rng, 60, burden=0.4, difficulty="real") for _ in range(6)]
    cut = [
        pixels
        for slide in slides
        for _, pixels, _ in cut_patches("1", slide, np.zeros_like(slide.layout.tissue))
    ]
    return np.stack([pixels for pixels in cut if pixels.shape == (50, 50, 3)])


def read_patches(folder):
    listing = list_members([Path(str(FOLDER)) / "idc_patches.zip"])
    store_patches(listing, folder / "pixels.npy", num_processes=1)
    stored = np.load(folder / "pixels.npy", mmap_mode="r")
    return np.array(stored[:: len(stored) // 500])


@pytest.fixture(
    scope="module",
    params=[
        "synthetic",
        pytest.param(
            "real",
            marks=[
                pytest.mark.real_data,
                pytest.mark.skipif(FOLDER is None, reason="IDC_REAL_DATA names no folder"),
            ],
        ),
    ],
)
def tissue(request, tmp_path_factory):
    """Coloured as tissue is, some hundreds of patches."""
    if request.param == "synthetic":
        return draw_patches()
    return read_patches(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (12, 50, 50, 3), dtype=np.uint8)


def statistics(engine, tissue):
    """Mean and SD of red, green and blue over augmented patches, (6,)."""
    count, total, squares = 0, np.zeros(3), np.zeros(3)
    for batch in range(NUM_COMPARED // 250):
        rows = np.arange(batch * 250, (batch + 1) * 250) % len(tissue)
        changed = engine(tissue[rows], epoch=0, batch=batch).reshape(-1, 3).astype(np.float64)
        count += len(changed)
        total += changed.sum(axis=0)
        squares += (changed**2).sum(axis=0)
    mean = total / count
    return np.concatenate([mean, np.sqrt(squares / count - mean**2)])


@pytest.mark.slow
@pytest.mark.parametrize("changes", [*INGREDIENTS, WHOLE], ids=[*WHOLE, "whole policy"])
def test_engines_when_compared_then_mean_and_sd_of_each_channel_agree_within_a_percent(
    tissue, changes
):
    wanted, got = (statistics(create_engine(name, changes), tissue) for name in ENGINES)
    np.testing.assert_allclose(got, wanted, rtol=0.01)


@pytest.mark.parametrize("changes", INGREDIENTS, ids=list(WHOLE))
def test_engine_when_one_ingredient_is_on_then_it_changes_the_pixels(engine, noise, changes):
    assert not np.array_equal(engine(changes)(noise, epoch=0, batch=0), noise)


def symmetries(patch):
    turned = [np.rot90(patch, times) for times in range(4)]
    return np.stack(turned + [view[:, ::-1] for view in turned])


def test_engine_when_d4_is_on_then_all_eight_symmetries_come_equally_often(engine, noise):
    views = symmetries(noise[0])
    changed = engine({"d4": True})(np.repeat(noise[:1], 4000, axis=0), epoch=0, batch=0)
    # ten pixels tell the eight apart; that the rest belongs to them is the next test
    marks, found = views[:, 0, :10].reshape(8, -1), changed[:, 0, :10].reshape(4000, -1)
    counts = (found[:, None] == marks).all(axis=2).sum(axis=0)
    assert counts.sum() == 4000
    assert ((counts - 500) ** 2 / 500).sum() < 24.3  # chi-squared, 7 degrees of freedom, p = .001


def test_engine_when_d4_is_on_then_each_patch_is_a_symmetry_of_itself(engine, noise):
    for before, after in zip(noise, engine({"d4": True})(noise, epoch=0, batch=0), strict=True):
        assert any(np.array_equal(after, view) for view in symmetries(before))


def test_engine_when_all_is_off_then_changes_nothing(engine, noise):
    np.testing.assert_array_equal(engine({})(noise, epoch=0, batch=0), noise)


def test_engine_when_done_then_leaves_its_input_as_it_was(engine, noise):
    before = noise.copy()
    engine(WHOLE)(noise, epoch=0, batch=0)
    np.testing.assert_array_equal(noise, before)


def test_engine_when_called_again_then_repeats_itself(engine, noise):
    augment = engine(WHOLE)
    first = augment(noise, epoch=1, batch=2)
    augment(noise, epoch=5, batch=0)
    np.testing.assert_array_equal(augment(noise, epoch=1, batch=2), first)


@pytest.mark.parametrize(("seed", "epoch", "batch"), [(18, 1, 2), (17, 2, 2), (17, 1, 3)])
def test_engine_when_seed_epoch_or_batch_differs_then_differs(engine, noise, seed, epoch, batch):
    first = engine({"brightness": 0.3})(noise, epoch=1, batch=2)
    other = engine({"brightness": 0.3}, seed)(noise, epoch=epoch, batch=batch)
    assert not np.array_equal(first, other)


def test_engine_when_patches_are_equal_then_each_position_changes_them_otherwise(engine, noise):
    changed = engine({"brightness": 0.3})(np.repeat(noise[:1], 6, axis=0), epoch=0, batch=0)
    assert len(np.unique(changed.reshape(6, -1), axis=0)) == 6


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_engine_when_a_batch_is_divided_then_the_parts_make_up_the_whole(engine, noise, parts):
    augment = engine(WHOLE)
    size = len(noise) // parts
    divided = [
        augment(noise[part], epoch=3, batch=4, positions=part)
        for part in (slice(start, start + size) for start in range(0, len(noise), size))
    ]
    np.testing.assert_array_equal(np.concatenate(divided), augment(noise, epoch=3, batch=4))


@pytest.mark.parametrize("positions", [slice(0, 5), slice(0, 24, 2), slice(-12, 0), slice(3, None)])
def test_engine_when_positions_do_not_fit_the_patches_then_refuses(engine, noise, positions):
    with pytest.raises(ValueError, match="positions in a batch"):
        engine(WHOLE)(noise, epoch=0, batch=0, positions=positions)


def serve(name, pixels, *, num_workers=0, first_batch=0, rank=0, world_size=1):
    """One epoch as a training loop gets it, each batch augmented by an engine."""
    config = AugmentConfig(**WHOLE)
    in_workers = name == "albumentations"
    batches = TrainingBatches(
        pixels, LabelledRows(np.arange(len(pixels)), np.arange(len(pixels)) % 2),
        BatchPlan(4, SEED, rank, world_size),
        epoch=2, augmentation=Augmentation(config, SEED) if in_workers else None,
    )  # fmt: skip
    loader = create_loader(
        batches, num_workers=num_workers, pin_memory=False, first_batch=first_batch
    )
    on_device = DeviceAugmentation(config, SEED)
    served = []
    for number, (patches, _) in enumerate(loader, first_batch):
        changed = patches if in_workers else on_device(
            patches, epoch=2, batch=number, positions=batches.positions
        )  # fmt: skip
        served.append(changed.numpy())
    return np.stack(served)


# four workers on two cores are what is tested
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("num_workers", [1, 4])
@pytest.mark.parametrize("name", ENGINES)
def test_epoch_when_workers_build_it_then_it_is_the_same(name, noise, num_workers):
    alone = serve(name, noise)
    np.testing.assert_array_equal(serve(name, noise, num_workers=num_workers), alone)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("name", ENGINES)
def test_epoch_when_started_in_its_middle_then_the_rest_is_the_same(name, noise, num_workers):
    rest = serve(name, noise, num_workers=num_workers, first_batch=1)
    np.testing.assert_array_equal(rest, serve(name, noise)[1:])


@pytest.mark.parametrize("name", ENGINES)
def test_epoch_when_ranks_share_it_then_their_parts_make_up_its_batches(name, noise):
    parts = [serve(name, noise, rank=rank, world_size=2) for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), serve(name, noise))
