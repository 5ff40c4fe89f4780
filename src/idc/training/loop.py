"""Train the fusion CNN until the AUROC on the val cases stops rising, and keep the best epoch."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from idc.config import Params
from idc.data.augment import Augmentation
from idc.data.batches import TrainingBatches, create_loader, to_images
from idc.errors import InputError
from idc.evaluation.metrics import auroc
from idc.models.device import choose_autocast
from idc.models.fusion import FusionCNN
from idc.models.scoring import score_patches
from idc.progress import track
from idc.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochResult:
    """What one epoch reached; `epoch` counts from 1."""

    epoch: int
    train_loss: float
    val_auroc: float
    learning_rate: float


@dataclass(frozen=True)
class Patches:
    """Rows of the pixel store, int64 (n,), and their labels, int8 (n,)."""

    rows: np.ndarray
    labels: np.ndarray


@dataclass
class TrainedModel:
    """The weights of the best epoch and the history of all."""

    state: dict[str, Tensor]
    history: list[EpochResult] = field(default_factory=list)

    @property
    def best(self) -> EpochResult:
        """The first epoch with the highest val AUROC."""
        return max(self.history, key=lambda result: (result.val_auroc, -result.epoch))

    def history_table(self) -> pd.DataFrame:
        """Return one row per epoch."""
        return pd.DataFrame([asdict(result) for result in self.history])


def train_fusion(
    model: FusionCNN,
    pixels: np.ndarray,
    train: Patches,
    val: Patches,
    params: Params,
    *,
    class_weights: np.ndarray,
    device: torch.device,
    checkpoint: Checkpoint,
    on_epoch: Callable[[EpochResult, float], None],
) -> TrainedModel:
    """Train `model` in place and return the best epoch's weights.

    Args:
        model: Freshly created; moved to `device`.
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
        train: Patches to learn from.
        val: All pool patches of the val cases.
        params: Sections `model`, `augment`, `train` and `runtime`.
        class_weights: Loss weight of IDC- and IDC+, (2,).
        device: Where to compute.
        checkpoint: Where finished epochs are kept; training goes on from the last one there.
        on_epoch: Told of each finished epoch, with its training speed in patches per second.

    Raises:
        InputError: If the loss is no longer a number.
    """
    run = _Run(model, pixels, train, val, params, class_weights, device)
    run.restore(checkpoint.load())
    for epoch in range(len(run.trained.history), params.train.epochs):
        if run.epochs_without_gain() >= params.train.patience:
            log.info("no better val AUROC for %d epochs: stopping", params.train.patience)
            break
        result, speed = run.train_epoch(epoch)
        checkpoint.save(run.state())
        on_epoch(result, speed)
    return run.trained


class _Run:
    """Everything that changes while training."""

    def __init__(
        self,
        model: FusionCNN,
        pixels: np.ndarray,
        train: Patches,
        val: Patches,
        params: Params,
        class_weights: np.ndarray,
        device: torch.device,
    ) -> None:
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pixels, self.train, self.val, self.params = pixels, train, val, params
        self.device = device
        self.class_weights = torch.tensor(class_weights, dtype=torch.float32, device=device)
        self.augmentation = Augmentation(params.augment, params.train.seed)
        self.autocast = choose_autocast(params.train.precision, device)
        self.optimizer = AdamW(
            _decay_groups(model, params.train.weight_decay),
            lr=params.train.learning_rate,
            fused=device.type == "cuda",
        )
        self.schedule = OneCycleLR(
            self.optimizer,
            max_lr=params.train.learning_rate,
            total_steps=params.train.epochs * len(self._batches(0)) + 1,
            pct_start=params.train.warmup_share,
        )
        self.trained = TrainedModel(state={})

    def train_epoch(self, epoch: int) -> tuple[EpochResult, float]:
        """Learn from every training patch once, then score val."""
        start = time.monotonic()
        train_loss = self._learn(epoch)
        speed = len(self.train.rows) / (time.monotonic() - start)
        logits = score_patches(
            self.model,
            self.pixels,
            self.val.rows,
            size_px=self.params.model.size_px,
            batch_size=self.params.runtime.scoring_batch_size,
            device=self.device,
        )
        result = EpochResult(
            epoch=epoch + 1,
            train_loss=train_loss,
            val_auroc=auroc(self.val.labels, logits),
            learning_rate=float(self.schedule.get_last_lr()[0]),
        )
        self.trained.history.append(result)
        if self.trained.best is result:
            self.trained.state = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.model.state_dict().items()
            }
        log.info(
            "epoch %d of %d: train loss %.4f, val AUROC %.4f, %.0f patches/s",
            result.epoch, self.params.train.epochs, train_loss, result.val_auroc, speed,
        )  # fmt: skip
        return result, speed

    def _learn(self, epoch: int) -> float:
        self.model.train()
        batches = self._batches(epoch)
        loader = create_loader(
            batches,
            num_workers=self.params.runtime.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        total = torch.zeros((), device=self.device)
        what = f"epoch {epoch + 1}"
        for pixels, labels, _ in track(loader, total=len(batches), what=what):
            total += self._step(pixels, labels)
        # one read of the device per epoch: a read per step would make the CPU wait for the GPU
        train_loss = float(total) / len(batches)
        if not math.isfinite(train_loss):
            raise InputError(
                f"train: the loss is {train_loss} in epoch {epoch + 1}; lower train.learning_rate"
            )
        return train_loss

    def _step(self, pixels: Tensor, labels: Tensor) -> Tensor:
        images = to_images(pixels, size_px=self.params.model.size_px, device=self.device)
        labels = labels.to(self.device, non_blocking=True)
        with self.autocast:
            logits = self.model(images)
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits.float(), labels, reduction="none"
        )
        weights = self.class_weights[labels.long()]
        loss = (weights * losses).sum() / weights.sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def _batches(self, epoch: int) -> TrainingBatches:
        return TrainingBatches(
            self.pixels,
            self.train.rows,
            self.train.labels,
            batch_size=self.params.train.batch_size,
            augmentation=self.augmentation,
            seed=self.params.train.seed,
            epoch=epoch,
        )

    def epochs_without_gain(self) -> int:
        """Return how many epochs ago the best one was."""
        history = self.trained.history
        return history[-1].epoch - self.trained.best.epoch if history else 0

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {
                key: value
                for key, value in self.schedule.state_dict().items()
                if isinstance(value, int | float | list)
            },
            "random": torch.get_rng_state(),
            "best": self.trained.state,
            "history": [asdict(result) for result in self.trained.history],
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from a kept state; None starts from the beginning."""
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        history = [EpochResult(**result) for result in state["history"]]
        self.trained = TrainedModel(state["best"], history)
        log.info("going on after epoch %d", history[-1].epoch)


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay weight matrices only: shrinking biases and norms towards 0 helps nothing."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
