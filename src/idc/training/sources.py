"""Where the loop's batches come from: images, or embeddings of frozen backbones computed once."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from idc.core.config import Params
from idc.core.files import replacing_file
from idc.core.progress import track
from idc.data.batches.device_augment import DeviceAugmentation
from idc.data.batches.loader import TrainingBatches, create_loader, to_images
from idc.models.networks.fusion import FusionCNN, HeadLogits, MemberLogits
from idc.models.scoring.patches import PatchScorer
from idc.training.ranks import Ranks

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]
"""Inputs on the device, and labels, 0 or 1, float32 (batch,)."""


FROZEN_VIEWS = 4
"""Augmented views of each patch that frozen backbones embed; each costs an epoch's forward pass."""


@dataclass(frozen=True)
class TrainingPatches:
    """Rows of the pixel store, int64 (patches,), and labels, 0 or 1, int8 (patches,)."""

    rows: np.ndarray
    labels: np.ndarray


class BatchSource(Protocol):
    """What the loop learns from and scores val with."""

    num_batches: int
    """Batches in an epoch."""
    batch_size: int
    """Patches of a batch that this process learns from."""

    def network(self, model: FusionCNN) -> nn.Module:
        """Return what turns this source's inputs into logits (batch, heads)."""

    def batches(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        """Yield the epoch's batches from this one on."""

    def score_val(self, model: FusionCNN) -> np.ndarray:
        """Return the fusion logit of every val patch, float32 (patches,), on every process."""


class ImageSource:
    """Augmented images of the training patches.

    Args:
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
        train: Patches to learn from.
        val_rows: Patches to score, int64.
        params: Sections `model`, `augment`, `train`, `runtime` and `seeds`.
        device: Where images live.
        ranks: This process among those that train together.

    Raises:
        InputError: If a batch is larger than the training set, or cannot be shared equally.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        train: TrainingPatches,
        val_rows: np.ndarray,
        params: Params,
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        self.pixels, self.train, self.val_rows = pixels, train, val_rows
        self.params, self.device, self.ranks = params, device, ranks or Ranks()
        self._augmentation = DeviceAugmentation(params.augment, params.seeds.training)
        self.num_batches = len(self._epoch(0))
        self.batch_size = params.train.batch_size // self.ranks.world_size

    def network(self, model: FusionCNN) -> nn.Module:
        """Return the whole fusion CNN, with the logit of every head."""
        return MemberLogits(model)

    def batches(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        """Yield images (batch, 3, size_px, size_px) in 0-1, and labels."""
        loader = create_loader(
            self._epoch(epoch),
            num_workers=0,  # only gathers rows; the device resizes and augments
            pin_memory=self.device.type == "cuda",
            first_batch=first_batch,
        )
        start = self.ranks.rank * self.batch_size
        positions = slice(start, start + self.batch_size)
        for batch, (patches, labels) in enumerate(loader, start=first_batch):
            moved = patches.to(self.device, non_blocking=True)
            moved = self._augmentation(moved, epoch=epoch, batch=batch, positions=positions)
            yield (
                to_images(moved, size_px=self.params.model.size_px, device=self.device),
                labels.to(self.device, non_blocking=True),
            )

    def score_val(self, model: FusionCNN) -> np.ndarray:
        """Score each process's part of the val patches and put the parts together."""
        return self.ranks.interleave(self.scorer(model).score(self.pixels, self.own_val_rows))

    def scorer(self, model: FusionCNN) -> PatchScorer[FusionCNN]:
        """Return what scores patches by `model` as it is now."""
        size_px, batch_size = self.params.model.size_px, self.params.runtime.scoring_batch_size
        return PatchScorer(model, size_px, batch_size, self.device)

    @property
    def own_val_rows(self) -> np.ndarray:
        """This process's part of the val patches."""
        return self.val_rows[self.ranks.rank :: self.ranks.world_size]

    def _epoch(self, epoch: int) -> TrainingBatches:
        return TrainingBatches(
            self.pixels,
            self.train.rows,
            self.train.labels,
            batch_size=self.params.train.batch_size,
            augmentation=None,
            seed=self.params.seeds.training,
            epoch=epoch,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )


class EmbeddingSource:
    """Embeddings of the same images by frozen backbones, computed once and kept in files.

    Epoch e repeats the batches of epoch e mod `FROZEN_VIEWS`, so there are only so many.
    The logits are those of the whole network: its frozen part always gives the same embedding.

    Args:
        images: The images to embed.
        model: With frozen backbones, on the images' device.
        folder: Where embeddings are kept, under a name that tells the weights and the images; None
            computes them anew each time.
    """

    def __init__(self, images: ImageSource, model: FusionCNN, folder: Path | None) -> None:
        self._images, self._model = images, model
        self._views = FROZEN_VIEWS
        self.num_batches, self.batch_size = images.num_batches, images.batch_size
        self._folder = None if folder is None else folder / self._digest()
        self._val: Tensor | None = None

    def network(self, model: FusionCNN) -> nn.Module:
        """Return the heads, with the logit of each."""
        return HeadLogits(model)

    def batches(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        """Return batches of embeddings (batch, all features) and labels.

        Embeddings to be kept are computed before this returns, with a progress of their own.
        """
        view = epoch % self._views
        if self._folder is None:
            images = self._images.batches(view, first_batch)
            return ((self._embed(batch), labels) for batch, labels in images)
        return self._kept_batches(self._view(view), first_batch)

    def _kept_batches(
        self, kept: tuple[np.ndarray, np.ndarray], first_batch: int
    ) -> Iterator[Batch]:
        for batch in range(first_batch, self.num_batches):
            embeddings, labels = (
                torch.from_numpy(np.array(values[batch])).to(self._images.device) for values in kept
            )
            yield embeddings, labels

    @torch.no_grad()
    def score_val(self, model: FusionCNN) -> np.ndarray:
        """Score the embeddings of the val patches, computed at the first call."""
        if self._val is None:
            source = self._images
            images = source.scorer(model).images(
                source.pixels, source.own_val_rows, "embedding val"
            )
            self._val = torch.cat([self._embed(batch) for batch in images])
        model.eval()
        logits: Tensor = model.classify_each(self._val)[:, 0]
        return self._images.ranks.interleave(logits.float().cpu().numpy())

    def _view(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a view's embeddings (batches, batch, features) and labels (batches, batch)."""
        assert self._folder is not None
        embeddings = self._folder / f"view-{view}-embeddings.npy"
        labels = self._folder / f"view-{view}-labels.npy"
        if not embeddings.exists():  # written last
            self._save_view(view, embeddings, labels)
        return np.load(embeddings, mmap_mode="r"), np.load(labels)

    def _save_view(self, view: int, embeddings_path: Path, labels_path: Path) -> None:
        shape = (self.num_batches, self.batch_size)
        num_features = sum(backbone.num_features for backbone in self._model.branches)
        labels = np.empty(shape, dtype=np.float32)
        with replacing_file(embeddings_path) as partial:
            embeddings = np.lib.format.open_memmap(
                partial, mode="w+", dtype=np.float32, shape=(*shape, num_features)
            )
            what = f"embedding view {view + 1} of {self._views}"
            batches = track(self._images.batches(view, 0), total=self.num_batches, what=what)
            for batch, (images, batch_labels) in enumerate(batches):
                embeddings[batch] = self._embed(images).cpu().numpy()
                labels[batch] = batch_labels.cpu()
            embeddings.flush()
            with replacing_file(labels_path) as partial_labels, partial_labels.open("wb") as file:
                np.save(file, labels)

    @torch.no_grad()  # not inference_mode, whose tensors no gradient can be computed from
    def _embed(self, images: Tensor) -> Tensor:
        self._model.backbones.eval()
        return torch.cat(self._model.embed(images), dim=1).float()

    def _digest(self) -> str:
        """Name everything that shapes the embeddings: weights, patches, order and augmentation."""
        source = self._images
        digest = hashlib.sha256()
        for tensor in self._model.backbones.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        for values in (source.train.rows, source.train.labels):
            digest.update(np.ascontiguousarray(values).tobytes())
        pixels = np.ascontiguousarray(
            source.pixels[source.train.rows[:: max(1, len(source.train.rows) // 64)]]
        )
        digest.update(pixels.tobytes())
        params = source.params
        facts = (
            params.model.size_px, params.model.backbones,
            params.augment.model_dump(), params.train.batch_size, params.seeds.training,
            source.ranks.rank, source.ranks.world_size,
        )  # fmt: skip
        digest.update(repr(facts).encode())
        return digest.hexdigest()[:16]
