"""Whole batches of uint8 patches; resizing and scaling happen on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from idc.core.errors import InputError
from idc.data.batches.augment import Augmentation
from idc.data.subsets import LabelledRows

Batch = tuple[Tensor, Tensor]

_MIN_PER_PROCESS = 2


@dataclass(frozen=True)
class BatchPlan:
    """How training patches are put into batches, and which part of each a process gets."""

    batch_size: int
    """Patches of a whole batch."""
    seed: int
    """Seed of the order."""
    rank: int = 0
    """Which of `world_size` equal contiguous parts of each batch is this process's."""
    world_size: int = 1
    """How many processes share a batch."""

    @property
    def own_size(self) -> int:
        """Patches of this process's part."""
        return self.batch_size // self.world_size

    @property
    def positions(self) -> slice:
        """Where in each batch this process's part stands."""
        return slice(self.rank * self.own_size, (self.rank + 1) * self.own_size)


class TrainingBatches(Dataset[Batch]):
    """The batches of one epoch in a seeded order.

    Item i is this rank's part of global batch i: `(pixels uint8 (n, 50, 50, 3), labels float32
    (n,))`, n = batch_size / world_size. The parts of all ranks, put together
    in the order of ranks, are the batch that one process alone would get. The last batch of an
    epoch is dropped where it would be smaller: batch norms want equal batches.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        patches: LabelledRows,
        plan: BatchPlan,
        *,
        epoch: int,
        augmentation: Augmentation,
    ) -> None:
        """Order the batches.

        Args:
            pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
            patches: Which of them to learn from.
            plan: Size and order of batches, and which part of each is served.
            epoch: Number of the epoch, from 0.
            augmentation: Changes the patches.

        Raises:
            InputError: If a batch is larger than the training set or cannot be shared equally.
        """
        rows, labels = patches
        _check_batch_size(plan.batch_size, len(rows), plan.world_size)
        order = np.random.default_rng([plan.seed, epoch]).permutation(len(rows))
        num_batches = len(rows) // plan.batch_size
        self._positions = plan.positions
        batches = order[: num_batches * plan.batch_size].reshape(num_batches, plan.batch_size)
        self._batches = batches[:, self._positions]
        self._pixels, self._rows, self._labels = pixels, rows, labels
        self._augmentation = augmentation
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> Batch:
        if batch >= len(self):
            raise IndexError(batch)
        chosen = self._batches[batch]
        patches = self._augmentation(
            self._pixels[self._rows[chosen]],
            epoch=self._epoch,
            batch=batch,
            positions=self._positions,
        )
        labels = torch.from_numpy(self._labels[chosen].astype(np.float32))
        return torch.from_numpy(patches), labels


def _check_batch_size(batch_size: int, num_patches: int, world_size: int) -> None:
    if batch_size > num_patches:
        raise InputError(
            f"train.batch_size: {batch_size} is more than the {num_patches} patches of the "
            f"training set; set it to {num_patches} or less, or sample more patches"
        )
    if batch_size % world_size:
        raise InputError(
            f"train.batch_size: {batch_size} cannot be shared equally by {world_size} processes; "
            f"set it to a multiple of runtime.num_devices"
        )
    if batch_size // world_size < _MIN_PER_PROCESS:
        raise InputError(
            f"train.batch_size: {batch_size} leaves each of {world_size} processes one patch, "
            f"too few for batch norms; set it to {_MIN_PER_PROCESS * world_size} or more"
        )


class _Arrays(NamedTuple):
    """A batch on its way from a worker process, which goes through a pipe.

    Tensors would go through `/dev/shm`: where that has no room, as in a container, the worker loses
    the batch and the loader waits for it for ever.
    """

    patches: np.ndarray
    labels: np.ndarray

    def to_tensors(self) -> Batch:
        return torch.from_numpy(self.patches), torch.from_numpy(self.labels)

    def pin_memory(self) -> Batch:
        """Do what the loader's own thread asks of a batch that is no tensor."""
        patches, labels = self.to_tensors()
        return patches.pin_memory(), labels.pin_memory()


def _to_arrays(batch: Sequence[Tensor]) -> _Arrays:
    return _Arrays(*(tensor.numpy() for tensor in batch))


class BatchLoader:
    """The batches of an epoch as tensors, in order."""

    def __init__(self, loader: DataLoader[Batch]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield batch.to_tensors() if isinstance(batch, _Arrays) else batch


def create_loader(
    batches: TrainingBatches, *, num_workers: int, pin_memory: bool, first_batch: int = 0
) -> BatchLoader:
    """Serve whole batches in order, built in `num_workers` processes (0: in this one).

    Args:
        batches: The epoch.
        num_workers: Processes that build batches ahead.
        pin_memory: Serve page-locked tensors, which a GPU fetches without waiting.
        first_batch: Number of the batch to start with; those before it are not built, those after
            it are what they would be.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        collate_fn=_to_arrays if num_workers else None,
        sampler=range(first_batch, len(batches)),
        num_workers=num_workers,
        pin_memory=pin_memory,
        # one of its own: each new iterator draws a number, which must not come out of the stream
        # that dropout uses, or a run resumed within an epoch would go another way
        generator=torch.Generator(),
    )
    return BatchLoader(loader)
