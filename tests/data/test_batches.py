import numpy as np
import pytest
import torch

from idc.config import AugmentConfig
from idc.data.augment import Augmentation
from idc.data.batches import TrainingBatches, to_images

PLAIN = AugmentConfig(
    d4=False, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, he_stain_prob=0.0
)
ROWS = np.arange(20, 31)


def batches(batch_size=4, epoch=0):
    numbered = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 50, 50, 3))
    return TrainingBatches(
        numbered, ROWS, (ROWS % 2).astype(np.int8),
        batch_size=batch_size, augmentation=Augmentation(PLAIN, 17), seed=17, epoch=epoch,
    )  # fmt: skip


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
    assert (pixels[:, 0, 0, 0] % 2).tolist() == labels.tolist()


def test_batches_when_the_epoch_differs_then_the_order_differs():
    assert rows_of(batches(epoch=0)) != rows_of(batches(epoch=1))


def test_batches_when_fewer_patches_than_a_batch_then_serves_them_all_at_once():
    assert sorted(rows_of(batches(batch_size=64))) == ROWS.tolist()


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
