"""Where the loop's batches come from: images, or embeddings of frozen backbones computed once."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from idc.core.config import AugmentConfig
from idc.core.files import replacing_file
from idc.core.processes import count_cores
from idc.core.progress import track
from idc.data.batches.augment import Augmentation
from idc.data.batches.loader import BatchPlan, TrainingBatches, create_loader
from idc.data.images import to_images
from idc.data.subsets import LabelledRows
from idc.models.networks.fusion import Embeddings, FusionCNN, HeadLogits, MemberLogits
from idc.models.scoring.inference import Scorer, create_scorer
from idc.models.scoring.patches import PatchScorer
from idc.training.ranks import Ranks

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]
"""Inputs on the device, and labels, 0 or 1, float32 (batch,)."""


FROZEN_VIEWS = 4
"""Augmented views of each patch that frozen backbones embed; each costs an epoch's forward pass."""

_MAX_WORKERS = 8
"""Processes that augment for one GPU: a core gives 6,100 patches/s, with stain 3,900 (docs/log.md,
"one augmentation policy"), so these some 30,000. Not measured on a GPU: `make bench-gpu` does."""


def count_workers(device: torch.device, world_size: int = 1) -> int:
    """Return how many processes augment the training patches of one that trains.

    On a CPU none: they would take cores from the training, which asks for far fewer patches than
    the training process itself augments. No number of them changes a result.

    Args:
        device: What the process trains on.
        world_size: How many processes train together and share the cores.
    """
    if device.type == "cpu":
        return 0
    return min(_MAX_WORKERS, max(1, count_cores() // world_size))


@dataclass(frozen=True)
class TrainingData:
    """The pixel store, and its patches to learn from and to score after each epoch."""

    pixels: np.ndarray
    """uint8 (patches, 50, 50, 3), may be memory-mapped."""
    train: LabelledRows
    val: LabelledRows


class BatchSource(Protocol):
    """What the loop learns from and scores val with."""

    num_batches: int
    """Batches in an epoch."""
    plan: BatchPlan
    """How patches are put into batches, and this process's part of each."""
    ranks: Ranks
    """This process among those that share the batches."""
    val_labels: np.ndarray
    """0 or 1 of all pool patches of the val cases, int8 (patches,)."""

    def network(self, model: FusionCNN) -> nn.Module:
        """Return what turns this source's inputs into logits (batch, heads)."""

    def batches(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        """Yield the epoch's batches from this one on."""

    def score_val(self, model: FusionCNN) -> np.ndarray:
        """Return the fusion logit of every val patch, float32 (patches,), on every process."""


class ImageSource:
    """Augmented images of the training patches.

    Args:
        data: Patches to learn from and to score.
        size_px: Edge length of the images.
        policy: How they are augmented.
        batches: Size and order of batches; the seed is that of augmentation and dropout too.
        scoring_batch_size: Patches per pass where no gradient is needed.
        ranks: This process among those that train together; its device is where images live.

    Raises:
        InputError: If a batch is larger than the training set, or cannot be shared equally.
    """

    def __init__(
        self,
        data: TrainingData,
        size_px: int,
        policy: AugmentConfig,
        batches: BatchPlan,
        scoring_batch_size: int,
        ranks: Ranks,
    ) -> None:
        self.data, self.size_px, self.policy, self.ranks = data, size_px, policy, ranks
        self.plan = replace(batches, rank=ranks.rank, world_size=ranks.world_size)
        self.device, self._scoring_batch_size = ranks.device, scoring_batch_size
        self.val_labels = data.val.labels
        self.num_workers = count_workers(ranks.device, ranks.world_size)
        self._augmentation = Augmentation(policy, batches.seed)
        self.num_batches = len(self._epoch(0))

    def network(self, model: FusionCNN) -> nn.Module:
        """Return the whole fusion CNN, with the logit of every head."""
        return MemberLogits(model)

    def batches(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        """Yield images (batch, 3, size_px, size_px) in 0-1, and labels."""
        loader = create_loader(
            self._epoch(epoch),
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            first_batch=first_batch,
        )
        for patches, labels in loader:
            yield (
                to_images(patches, size_px=self.size_px, device=self.device),
                labels.to(self.device, non_blocking=True),
            )

    def score_val(self, model: FusionCNN) -> np.ndarray:
        """Score each process's part of the val patches and put the parts together."""
        part = self.scorer(model).score(self.data.pixels, self.own_val_rows)
        return self.ranks.interleave(part)

    def scorer(self, model: FusionCNN) -> PatchScorer[FusionCNN]:
        """Return what scores patches by `model` as it is now."""
        return PatchScorer(model, self.size_px, self._scoring_batch_size, self.device)

    @property
    def own_val_rows(self) -> np.ndarray:
        """This process's part of the val patches."""
        return self.data.val.rows[self.ranks.rank :: self.ranks.world_size]

    def _epoch(self, epoch: int) -> TrainingBatches:
        return TrainingBatches(
            self.data.pixels,
            self.data.train,
            self.plan,
            epoch=epoch,
            augmentation=self._augmentation,
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
        self.num_batches, self.plan = images.num_batches, images.plan
        self.ranks, self.val_labels = images.ranks, images.val_labels
        self._folder = None if folder is None else folder / self._digest()
        self._val: Tensor | None = None
        self._embedder: Scorer | None = None

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
                source.data.pixels, source.own_val_rows, "embedding val"
            )
            self._val = torch.cat([self._embed(batch) for batch in images])
        model.eval()
        logits: Tensor = model.classify_each(self._val)[:, 0]
        return self.ranks.interleave(logits.float().cpu().numpy())

    def _view(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a view's embeddings (batches, batch, features) and labels (batches, batch)."""
        assert self._folder is not None
        embeddings = self._folder / f"view-{view}-embeddings.npy"
        labels = self._folder / f"view-{view}-labels.npy"
        if not embeddings.exists():  # written last
            self._save_view(view, embeddings, labels)
        return np.load(embeddings, mmap_mode="r"), np.load(labels)

    def _save_view(self, view: int, embeddings_path: Path, labels_path: Path) -> None:
        shape = (self.num_batches, self.plan.own_size)
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

    @torch.no_grad()
    def _embed(self, images: Tensor) -> Tensor:
        """Embed as fast as patches are scored: frozen backbones are converted once."""
        if self._embedder is None:
            self._model.backbones.eval()
            source = self._images
            num_views = self._views * self.num_batches * self.plan.own_size
            self._embedder = create_scorer(
                Embeddings(self._model),
                source.device,
                source.size_px,
                num_images=num_views + len(source.own_val_rows),
            )
        # a copy, for no gradient can be computed from what is made in inference mode
        return self._embedder(images).clone()

    def _digest(self) -> str:
        """Name everything that shapes the embeddings: weights, patches, order and augmentation."""
        source = self._images
        digest = hashlib.sha256()
        for tensor in self._model.backbones.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        rows, labels = source.data.train
        for values in (rows, labels):
            digest.update(np.ascontiguousarray(values).tobytes())
        pixels = np.ascontiguousarray(source.data.pixels[rows[:: max(1, len(rows) // 64)]])
        digest.update(pixels.tobytes())
        backbones = tuple(backbone.name for backbone in self._model.branches)
        facts = source.size_px, backbones, source.policy.model_dump(), source.plan
        digest.update(repr(facts).encode())
        return digest.hexdigest()[:16]
