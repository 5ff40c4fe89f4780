import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from idc.core.config import AugmentConfig
from idc.core.errors import InputError
from idc.data.batches.augment import Augmentation
from idc.data.batches.loader import BatchPlan, TrainingBatches, create_loader
from idc.data.images import to_images
from idc.data.subsets import LabelledRows

ROWS = np.arange(20, 31)
UNCHANGED = {
    "d4": False, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
    "he_stain_prob": 0.0,
}  # fmt: skip
NO_AUGMENTATION = Augmentation(AugmentConfig(**UNCHANGED), 17)


def batches(batch_size=4, epoch=0, augmentation=NO_AUGMENTATION, **how):
    numbered = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 50, 50, 3))
    plan = BatchPlan(batch_size, 17, **how)
    patches = LabelledRows(ROWS, (ROWS % 2).astype(np.int8))
    return TrainingBatches(numbered, patches, plan, epoch=epoch, augmentation=augmentation)


def rows_of(parts):
    return [int(row) for part in range(len(parts)) for row in parts[part][0][:, 0, 0, 0]]


def test_batches_when_the_last_is_short_then_drops_it():
    assert [len(batches()[part][1]) for part in range(len(batches()))] == [4, 4]


def test_batches_when_served_then_takes_no_patch_twice_and_only_its_rows():
    rows = rows_of(batches())
    assert len(set(rows)) == 8
    assert set(rows) <= set(ROWS)


def test_batches_when_served_then_labels_belong_to_their_patches():
    pixels, labels = batches()[1]
    assert labels.dtype == torch.float32
    assert (pixels[:, 0, 0, 0] % 2).tolist() == labels.tolist()


def test_batches_when_the_epoch_differs_then_the_order_differs():
    assert rows_of(batches(epoch=0)) != rows_of(batches(epoch=1))


def test_batches_when_augmented_then_only_the_pixels_are_others():
    policy = AugmentConfig(**{**UNCHANGED, "brightness": 0.9})
    plain, changed = batches()[0], batches(augmentation=Augmentation(policy, 17))[0]
    assert not torch.equal(plain[0], changed[0])
    assert torch.equal(plain[1], changed[1])


@pytest.mark.parametrize("world_size", [2, 4])
def test_batches_when_ranks_share_them_then_their_parts_make_up_the_whole(world_size):
    size = 2 * world_size
    ranks = [
        batches(batch_size=size, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for number, whole in enumerate(batches(batch_size=size)):
        for part, wanted in enumerate(whole):
            assert torch.equal(torch.cat([rank[number][part] for rank in ranks]), wanted)


def test_batches_when_a_batch_cannot_be_shared_equally_then_says_so():
    with pytest.raises(InputError, match=r"train\.batch_size: 4 cannot be shared equally by 3"):
        batches(rank=0, world_size=3)


def test_batches_when_a_process_would_get_a_single_patch_then_says_so():
    with pytest.raises(InputError, match=r"batch_size: 4 leaves each of 4 processes one patch.* 8"):
        batches(rank=0, world_size=4)


def test_batches_when_fewer_patches_than_a_batch_then_names_both_and_what_to_do():
    with pytest.raises(InputError, match=r"train\.batch_size: 64 .* 11 patches .* 11 or less"):
        batches(batch_size=64)


def test_batches_when_a_batch_takes_all_patches_then_serves_them_all_at_once():
    assert sorted(rows_of(batches(batch_size=11))) == ROWS.tolist()


@pytest.mark.parametrize("first_batch", [0, 1, 2])
def test_loader_when_started_at_a_batch_then_serves_it_and_those_after_it(first_batch):
    loader = create_loader(batches(), num_workers=0, pin_memory=False, first_batch=first_batch)
    served = [pixels[:, 0, 0, 0].tolist() for pixels, _ in loader]
    assert served == [batches()[i][0][:, 0, 0, 0].tolist() for i in range(first_batch, 2)]
    assert len(loader) == len(served)


def test_loader_when_started_in_the_middle_then_builds_no_batch_before_it():
    class Watched(TrainingBatches):
        def __getitem__(self, batch):
            built.append(batch)
            return super().__getitem__(batch)

    built = []
    labels = np.zeros(len(ROWS), np.int8)
    watched = Watched(
        np.zeros((40, 50, 50, 3), np.uint8), LabelledRows(ROWS, labels), BatchPlan(2, 17),
        epoch=0, augmentation=NO_AUGMENTATION,
    )  # fmt: skip
    list(create_loader(watched, num_workers=0, pin_memory=False, first_batch=3))
    assert built == [3, 4]


def test_loader_when_iterated_then_leaves_the_random_stream_of_dropout_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(create_loader(batches(), num_workers=0, pin_memory=False))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_when_a_gpu_fetches_from_it_then_its_batches_are_the_same_and_pinned(num_workers):
    served = list(create_loader(batches(), num_workers=num_workers, pin_memory=True))
    assert all(tensor.is_pinned() for batch in served for tensor in batch)
    for batch, wanted in zip(served, batches(), strict=True):
        assert all(torch.equal(*pair) for pair in zip(batch, wanted, strict=True))


@pytest.mark.slow
def test_loader_when_dev_shm_is_too_small_for_a_batch_then_its_workers_serve_all_the_same():
    small = "mount -t tmpfs -o size=512k tmpfs /dev/shm"
    if shutil.which("unshare") is None or not _succeeds("unshare", "-m", "sh", "-c", small):
        pytest.skip("needs to be allowed to mount a file system")
    served = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{small} && exec "$@"', "sh", sys.executable, "-c", SERVE],
        capture_output=True, text=True, timeout=300, check=True,
    ).stdout  # fmt: skip
    assert served.split() == ["True", *["200"] * 4]


SERVE = """
import shutil
import numpy as np
from idc.data.batches.loader import BatchPlan, TrainingBatches, create_loader
from idc.data.subsets import LabelledRows
from tests.data.test_batches import NO_AUGMENTATION
pixels = np.zeros((400, 50, 50, 3), np.uint8)
patches = LabelledRows(np.arange(400), np.zeros(400, np.int8))
whole = TrainingBatches(
    pixels, patches, BatchPlan(100, 17), epoch=0, augmentation=NO_AUGMENTATION
)
print(whole[0][0].nbytes > shutil.disk_usage("/dev/shm").total)
for served, labels in create_loader(whole, num_workers=2, pin_memory=False):
    print(len(served) + len(labels))
"""


def _succeeds(*command):
    return subprocess.run(command, capture_output=True).returncode == 0


def test_to_images_when_size_is_kept_then_scales_and_moves_channels_first():
    pixels = torch.zeros(2, 50, 50, 3, dtype=torch.uint8)
    pixels[1, 3, 7, 2] = 255
    images = to_images(pixels, size_px=50, device=torch.device("cpu"))
    assert images[1, 2, 3, 7] == 1.0
    assert images.sum() == 1.0


@pytest.mark.parametrize("size_px", [32, 96])
def test_to_images_when_resized_then_has_the_wanted_edge(size_px):
    pixels = torch.full((2, 50, 50, 3), 51, dtype=torch.uint8)
    images = to_images(pixels, size_px=size_px, device=torch.device("cpu"))
    torch.testing.assert_close(images, torch.full((2, 3, size_px, size_px), 0.2))
