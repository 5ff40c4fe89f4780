"""Self-supervised learning of the backbones, by SimCLR (Chen 2020, arXiv:2002.05709).

Two augmented views of a patch shall be embedded alike and unlike those of all other patches of
the batch; no label takes part.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from idc.core.config import Params
from idc.core.errors import InputError
from idc.core.files import replacing_file
from idc.core.progress import track
from idc.data.batches.device_augment import DeviceAugmentation
from idc.data.batches.loader import TrainingBatches, create_loader, to_images
from idc.models.networks.cpu_convolutions import adapt_convolutions
from idc.models.networks.device import choose_autocast
from idc.models.networks.fusion import FusionCNN
from idc.training.checkpoint import Checkpoint
from idc.training.optim import create_optimizer, create_schedule

log = logging.getLogger(__name__)

_NUM_PROJECTED = 128
_SMALLEST_CROP = 0.3  # share of the patch's area: smaller ones may show stroma of an IDC patch only


def pretrain_backbones(
    model: FusionCNN,
    pixels: np.ndarray,
    rows: np.ndarray,
    params: Params,
    *,
    device: torch.device,
    checkpoint: Checkpoint,
    kept: Path,
) -> None:
    """Train the backbones of `model` in place, or load what an earlier run kept.

    Every backbone learns on its own, through a projection that is thrown away (Chen 2020, 2.1).

    Args:
        model: Freshly created; moved to `device`.
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
        rows: Patches of the train cases, labelled or not; never of another subset.
        params: Sections `model`, `augment`, `pretrain`, `train` and `runtime`.
        device: Where to compute.
        checkpoint: Where states are kept while training.
        kept: File that receives the backbones' weights, or has them.

    Raises:
        InputError: If the loss is no longer a number, or there are fewer patches than a batch has.
    """
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not kept.exists():
        run = _Run(model, pixels, rows, params, device, checkpoint)
        run.restore(checkpoint.load())
        while run.epoch < params.pretrain.epochs:
            run.train_epoch()
        with replacing_file(kept) as partial:
            save_file(
                {name: t.contiguous().cpu() for name, t in model.backbones.state_dict().items()},
                partial,
            )
        checkpoint.remove()
    # always from the file, so that a run that pretrained and one that found it do the same
    model.backbones.load_state_dict(load_file(kept))


class _Run:
    """Everything that changes while pretraining."""

    def __init__(
        self,
        model: FusionCNN,
        pixels: np.ndarray,
        rows: np.ndarray,
        params: Params,
        device: torch.device,
        checkpoint: Checkpoint,
    ) -> None:
        self.pixels, self.rows, self.params = pixels, rows, params
        self.config, self.device, self.checkpoint = params.pretrain, device, checkpoint
        self.projections = nn.ModuleList(
            _create_projection(backbone.num_features) for backbone in model.branches
        ).to(device)
        self.network = nn.ModuleDict(
            {"backbones": model.backbones, "projections": self.projections}
        )
        self.model = model
        self.views = [DeviceAugmentation(params.augment, params.train.seed + v) for v in (0, 1)]
        self.loss = SelfSupervisedLoss(NTXentLoss(temperature=self.config.temperature))
        self.autocast = choose_autocast(params.train.precision, device)
        if device.type == "cpu":
            adapt_convolutions(model)
        self.num_batches = len(self._patches(0))
        self.optimizer = create_optimizer(
            self.network,
            params.train.model_copy(update={"backbone_rate_factor": 1.0}),
            learning_rate=self.config.learning_rate,
            device=device,
        )
        self.schedule = create_schedule(
            self.optimizer,
            num_steps=self.config.epochs * self.num_batches,
            warmup_share=params.train.warmup_share,
        )
        self.epoch, self.batch = 0, 0
        self.total = torch.zeros((), device=device)

    def train_epoch(self) -> None:
        """Learn from the rest of the epoch's batches."""
        self.network.train()
        loader = create_loader(
            self._patches(self.epoch),
            num_workers=self.params.runtime.num_workers,
            pin_memory=self.device.type == "cuda",
            first_batch=self.batch,
        )
        rest = self.num_batches - self.batch
        for patches, _, _ in track(loader, total=rest, what=f"pretraining {self.epoch + 1}"):
            self.total += self._step(patches.to(self.device, non_blocking=True))
            self.batch += 1
            if self.batch < self.num_batches and self.checkpoint.is_due():
                self._save()
        self._require_number(self.total)
        mean = float(self.total) / self.num_batches
        self.epoch, self.batch = self.epoch + 1, 0
        self.total.zero_()
        log.info("pretraining %d of %d: loss %.4f", self.epoch, self.config.epochs, mean)

    def _require_number(self, total: Tensor) -> None:
        if not torch.isfinite(total):
            raise InputError(
                f"train: the loss of the pretraining is {float(total)} in epoch {self.epoch + 1}: "
                "lower pretrain.learning_rate"
            )

    def _step(self, patches: Tensor) -> Tensor:
        views = [self._view(patches, view) for view in (0, 1)]
        with self.autocast:
            projected = [self._project(view) for view in views]
        loss = torch.stack(
            [self.loss(one.float(), other.float()) for one, other in zip(*projected, strict=True)]
        ).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def _project(self, images: Tensor) -> list[Tensor]:
        pairs = zip(self.model.embed(images), self.projections, strict=True)
        return [projection(embedding) for embedding, projection in pairs]

    def _view(self, patches: Tensor, view: int) -> Tensor:
        seed = [self.params.train.seed, self.epoch, self.batch, view]
        changed = self.views[view](patches, epoch=self.epoch, batch=self.batch, positions=None)
        images = to_images(changed, size_px=self.params.model.size_px, device=self.device)
        return _crop(images, np.random.default_rng(seed))

    def _patches(self, epoch: int) -> TrainingBatches:
        labels = np.zeros(len(self.rows), dtype=np.int8)  # none takes part
        return TrainingBatches(
            self.pixels, self.rows, labels,
            batch_size=self.config.batch_size, augmentation=None,
            seed=self.params.train.seed, epoch=epoch,
        )  # fmt: skip

    def _save(self) -> None:
        self._require_number(self.total)
        state = {
            "epoch": self.epoch,
            "batch": self.batch,
            "total": self.total.cpu(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.schedule.last_epoch,
        }
        self.checkpoint.save(state, self.epoch * self.num_batches + self.batch)

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from a kept state; None starts from the beginning."""
        if state is None:
            return
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.total.copy_(state["total"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["step"]
        log.info("pretraining goes on at epoch %d, batch %d", self.epoch + 1, self.batch + 1)


def _create_projection(num_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_features, num_features),
        nn.ReLU(inplace=True),
        nn.Linear(num_features, _NUM_PROJECTED),
    )


def _crop(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Show a random square of each image, enlarged to the image's size."""
    edge = np.sqrt(rng.uniform(_SMALLEST_CROP, 1.0, len(images)))
    shift = rng.uniform(-1.0, 1.0, (2, len(images))) * (1.0 - edge)
    zeros = np.zeros(len(images))
    affine = np.stack([[edge, zeros, shift[0]], [zeros, edge, shift[1]]]).transpose(2, 0, 1)
    grid = nn.functional.affine_grid(
        torch.from_numpy(affine.astype(np.float32)).to(images.device),
        list(images.shape),
        align_corners=False,
    )
    cropped = nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return cropped.contiguous(memory_format=torch.channels_last)
