"""Train the fusion CNN until the AUROC on the val cases stops rising, and keep the best epoch."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from idc.core.config import TrainConfig
from idc.core.errors import InputError
from idc.core.files import replacing_file
from idc.core.progress import track
from idc.evaluation.statistics.metrics import auroc
from idc.models.networks.cpu_convolutions import adapt_convolutions
from idc.models.networks.device import describe_environment
from idc.models.networks.fusion import FusionCNN
from idc.training.checkpoint import Checkpoint
from idc.training.gradients import GradientAccumulator
from idc.training.optim import create_optimizer, create_schedule
from idc.training.sources import Batch, BatchSource

log = logging.getLogger(__name__)

_WARMUP_SHARE = (
    0.2  # of the steps: a shorter rise, .05, scored lower from scratch (docs/experiments.md)
)

BEST_WEIGHTS = "best_epoch.safetensors"
"""In the folder of the checkpoint, where training ended by a fault before one was due."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch reached; `epoch` counts from 1."""

    epoch: int
    train_loss: float
    val_auroc: float
    learning_rate: float


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
    source: BatchSource,
    config: TrainConfig,
    *,
    class_weights: np.ndarray,
    checkpoint: Checkpoint,
    on_epoch: Callable[[EpochResult, float], None],
) -> TrainedModel:
    """Train `model` in place and return the best epoch's weights.

    Dropout is seeded by (seed, step, rank) and batches by (seed, epoch, batch), so what a step does
    depends on its number alone: a training resumed from a checkpoint ends with the same weights as
    one that was not interrupted, bit for bit on one CPU with equal versions and thread count.

    Args:
        model: Freshly created; moved to the source's device.
        source: Serves training batches, and scores the val patches.
        config: Length, rates and arithmetic of the training.
        class_weights: Loss weight of IDC- and IDC+, (2,).
        checkpoint: Where states are kept; training goes on from the last whole one there.
        on_epoch: Called after each epoch, with its training speed in patches per second; after a
            resumption an epoch may come twice.

    Raises:
        InputError: If the loss or a weight is no longer a number; names the step.
    """
    run = _TrainingRun(model, source, config, class_weights, checkpoint)
    run.restore(checkpoint.load())
    while run.epoch < config.epochs:
        if run.epochs_without_gain() >= config.patience:
            log.info("no better val AUROC for %d epochs: stopping", config.patience)
            break
        on_epoch(*run.train_epoch())
    return run.trained


class _TrainingRun:
    """Everything that changes while training."""

    def __init__(
        self,
        model: FusionCNN,
        source: BatchSource,
        config: TrainConfig,
        class_weights: np.ndarray,
        checkpoint: Checkpoint,
    ) -> None:
        self.source, self.config, self.checkpoint = source, config, checkpoint
        self.ranks, self.device = source.ranks, source.ranks.device
        device = self.device
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device.type == "cpu":
            adapt_convolutions(self.model)
        self.optimizer = create_optimizer(
            model, self.config, learning_rate=self.config.learning_rate, device=device
        )
        self.schedule = create_schedule(
            self.optimizer,
            num_steps=self.config.epochs * source.num_batches,
            warmup_share=_WARMUP_SHARE,
        )
        self.gradients = GradientAccumulator(model, source, config, class_weights)
        self.epoch, self.batch = 0, 0  # what comes next
        self.losses = torch.zeros(source.num_batches, device=device)
        self.trained = TrainedModel(state={})

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.epoch * self.source.num_batches + self.batch

    def train_epoch(self) -> tuple[EpochResult, float]:
        """Learn from the rest of the epoch's batches, then score val."""
        start, first_batch = time.monotonic(), self.batch
        self._learn()
        num_patches = (self.source.num_batches - first_batch) * self.source.plan.own_size
        speed = num_patches * self.ranks.world_size / max(time.monotonic() - start, 1e-9)
        self.ranks.share_buffers(self.model)
        result = EpochResult(
            epoch=self.epoch + 1,
            train_loss=self._mean_loss(),
            val_auroc=auroc(self.source.val_labels, self.source.score_val(self.model)),
            learning_rate=float(self.schedule.get_last_lr()[0]),
        )
        self.trained.history.append(result)
        if self.trained.best is result:
            self.trained.state = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.model.state_dict().items()
            }
        self.epoch, self.batch = self.epoch + 1, 0
        self._save_if_due()
        log.info(
            "epoch %d of %d: train loss %.4f, val AUROC %.4f, %.0f patches/s",
            result.epoch, self.config.epochs, result.train_loss, result.val_auroc, speed,
        )  # fmt: skip
        return result, speed

    def _learn(self) -> None:
        self.model.train()
        first = self.batch
        if self.ranks.several and self.step == 0:
            self.gradients.agree_on_micro_batches(
                lambda: next(iter(self.source.batches(0, 0))), seed=self._step_seed()
            )
        batches = self.source.batches(self.epoch, first)
        rest = self.source.num_batches - first
        for batch in track(batches, total=rest, what=f"epoch {self.epoch + 1}"):
            self.losses[self.batch] = self._learn_from(batch)
            self.batch += 1
            if self.batch < self.source.num_batches:
                self._save_if_due()
        self._require_numbers(self.ranks.sum(self.losses.clone()))

    def _learn_from(self, batch: Batch) -> Tensor:
        """Take one optimizer step and return its loss, still on the device."""
        loss = self.gradients.accumulate(batch, seed=self._step_seed())
        self.optimizer.step()
        self.schedule.step()
        return loss

    def _step_seed(self) -> int:
        entropy = [self.source.plan.seed, self.step, self.ranks.rank]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def _mean_loss(self) -> float:
        return float(self.ranks.sum(self.losses.mean())) / self.ranks.world_size

    def _require_numbers(self, losses: Tensor) -> None:
        """Read the losses so far: only here, since each read makes the CPU wait for the GPU."""
        wrong = torch.nonzero(~torch.isfinite(losses[: self.batch].cpu()))
        if len(wrong):
            batch = int(wrong[0])
            self._refuse(f"the loss is {float(losses[batch])}", batch + 1)

    def _refuse(self, what: str, batch: int) -> None:
        kept = self._keep_good_weights() if self.ranks.is_main else ""
        step = self.epoch * self.source.num_batches + batch
        raise InputError(
            f"train: {what} at step {step} (epoch {self.epoch + 1}, batch {batch}): "
            f"lower train.learning_rate{kept}"
        )

    def _keep_good_weights(self) -> str:
        """Say where the last good weights lie; write those of the best epoch if none do yet."""
        if self.checkpoint.exists():
            return f"; the last good weights are kept in {self.checkpoint.folder}"
        if not self.trained.history:
            return "; nothing is kept, for this is the first epoch"
        with replacing_file(self.checkpoint.folder / BEST_WEIGHTS) as partial:
            weights = {name: tensor.contiguous() for name, tensor in self.trained.state.items()}
            save_file(weights, partial)
        return (
            f"; the weights of epoch {self.trained.best.epoch} are kept in "
            f"{self.checkpoint.folder / BEST_WEIGHTS}"
        )

    def _save_if_due(self) -> None:
        if not self.ranks.is_main or not self.checkpoint.is_due():
            return
        self._require_numbers(self.losses)
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            self._refuse("a weight is no longer a number", self.batch)
        self.checkpoint.save(self.state(), self.step)

    def epochs_without_gain(self) -> int:
        """Return how many epochs ago the best one was."""
        history = self.trained.history
        return history[-1].epoch - self.trained.best.epoch if history else 0

    def _environment(self) -> dict[str, str]:
        return {**describe_environment(self.device), "processes": str(self.ranks.world_size)}

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, as tensors and plain values."""
        return {
            "environment": self._environment(),
            "epoch": self.epoch,
            "batch": self.batch,
            "losses": self.losses.cpu(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {
                key: value
                for key, value in self.schedule.state_dict().items()
                if key != "lr_lambdas"
            },
            "micro_batch_size": self.gradients.micro_batch_size,
            "best": self.trained.state,
            "history": [asdict(result) for result in self.trained.history],
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from a kept state; None starts from the beginning."""
        if state is None:
            return
        for what, now in self._environment().items():
            before = state["environment"].get(what)
            if before != now:
                log.warning("%s was %s, is %s: not resumed bit for bit", what, before, now)
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.losses.copy_(state["losses"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict({**state["schedule"], "lr_lambdas": [None]})
        self.gradients.micro_batch_size = state["micro_batch_size"]
        history = [EpochResult(**result) for result in state["history"]]
        self.trained = TrainedModel(state["best"], history)
        log.info("going on at epoch %d, batch %d", self.epoch + 1, self.batch + 1)
