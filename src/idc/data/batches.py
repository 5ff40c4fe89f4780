"""Whole batches of uint8 patches; resizing and scaling happen on the device."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from idc.data.augment import Augmentation


class TrainingBatches(Dataset[tuple[Tensor, Tensor]]):
    """The batches of one epoch in a seeded order, augmented.

    Item i is `(pixels uint8 (batch, 50, 50, 3), labels float32 (batch,))`. The last batch of an
    epoch is dropped where it would be smaller: batch norms want equal batches.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        rows: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        augmentation: Augmentation,
        seed: int,
        epoch: int,
    ) -> None:
        order = np.random.default_rng([seed, epoch]).permutation(len(rows))
        batch_size = min(batch_size, len(rows))
        num_batches = len(rows) // batch_size
        self._batches = order[: num_batches * batch_size].reshape(num_batches, batch_size)
        self._pixels, self._rows, self._labels = pixels, rows, labels
        self._augmentation = augmentation
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor]:
        if batch >= len(self):
            raise IndexError(batch)
        chosen = self._batches[batch]
        patches = self._pixels[self._rows[chosen]]
        augmented = self._augmentation(patches, epoch=self._epoch, batch=batch)
        labels = torch.from_numpy(self._labels[chosen].astype(np.float32))
        return torch.from_numpy(augmented), labels


def create_loader(
    batches: Dataset[tuple[Tensor, Tensor]], *, num_workers: int, pin_memory: bool
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Serve whole batches in order, built in `num_workers` processes (0: in this one)."""
    return DataLoader(
        batches, batch_size=None, shuffle=False, num_workers=num_workers, pin_memory=pin_memory
    )


def to_images(pixels: Tensor, *, size_px: int, device: torch.device) -> Tensor:
    """Move uint8 patches to the device and make them images.

    Args:
        pixels: uint8 (batch, 50, 50, 3).
        size_px: Edge length of the images, by bilinear interpolation.
        device: Where the images live.

    Returns:
        float32 (batch, 3, size_px, size_px) in 0-1, in channels_last memory.
    """
    moved = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255.0
    if size_px != moved.shape[-1]:
        moved = nn.functional.interpolate(
            moved, size=(size_px, size_px), mode="bilinear", align_corners=False
        )
    return moved.contiguous(memory_format=torch.channels_last)
