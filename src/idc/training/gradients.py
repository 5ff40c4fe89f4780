"""The gradients of a batch, in micro-batches that fit into memory, shared by all processes."""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from idc.core.config import TrainConfig
from idc.core.errors import InputError
from idc.models.networks.device import choose_autocast
from idc.models.networks.fusion import FusionCNN
from idc.training.sources import Batch, BatchSource

log = logging.getLogger(__name__)

_AUX_WEIGHT = 0.3  # of each backbone's own loss beside the fusion's, as in GoogLeNet (Szegedy 2015)
_MIN_MICRO_BATCH = 2  # a batch norm over one patch has no variance


class GradientAccumulator:
    """Forward and backward pass of whole batches, whatever part of one fits into memory."""

    def __init__(
        self,
        model: FusionCNN,
        source: BatchSource,
        config: TrainConfig,
        class_weights: np.ndarray,
    ) -> None:
        """Prepare to train `model`.

        Args:
            model: Whose parameters get the gradients.
            source: Gives the batches; the first micro-batches are as large as this process's part.
            config: Arithmetic.
            class_weights: Loss weight of IDC- and IDC+, (2,).
        """
        self.model, self.ranks, self.device = model, source.ranks, source.ranks.device
        device, network = self.device, source.network(model)
        self.class_weights = torch.tensor(class_weights, dtype=torch.float32, device=device)
        self.head_weights = torch.tensor(
            [1.0] + [_AUX_WEIGHT] * len(model.scored_members), device=device
        )
        self.autocast = choose_autocast(config.precision, device)
        self.exchange = DistributedDataParallel(network) if self.ranks.several else None
        self.network = self.exchange or network
        self.batch_size = self.micro_batch_size = source.plan.own_size

    def accumulate(self, batch: Batch, *, seed: int) -> Tensor:
        """Set the model's gradients to those of a batch and return the fused head's mean loss.

        Where memory runs out, micro-batches are halved and the batch begun again; the loss stays on
        the device.

        Args:
            batch: Of this process.
            seed: Of dropout.

        Raises:
            InputError: If not even the smallest micro-batch fits.
            torch.OutOfMemoryError: If there are other processes, which wait for these gradients.
        """
        while True:
            try:
                return self._accumulate(self.network, batch, seed)
            except torch.OutOfMemoryError:
                if self.ranks.several:
                    raise
            # not above: there the error still holds what the failed step had allocated
            self._halve_micro_batch()

    def agree_on_micro_batches(self, draw_batch: Callable[[], Batch], *, seed: int) -> None:
        """Find micro-batches that fit on every process, before gradients are first exchanged.

        One process that ran out of memory in the middle of a step would leave the others waiting.

        Args:
            draw_batch: Returns a batch as large as those to come.
            seed: Of dropout.
        """
        assert self.exchange is not None
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with self.exchange.no_sync():
            while True:
                try:
                    # the module itself: the wrapper shares buffers even in a forward pass alone
                    self._accumulate(self.exchange.module, draw_batch(), seed)
                    break
                except torch.OutOfMemoryError:
                    pass
                self._halve_micro_batch()
        self.model.zero_grad(set_to_none=True)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        self.micro_batch_size = self.ranks.least(self.micro_batch_size)

    def _accumulate(self, network: nn.Module, batch: Batch, seed: int) -> Tensor:
        """Add up the gradients of all micro-batches.

        Every patch counts 1 / batch size, whatever the micro-batch or process it is in.
        """
        torch.manual_seed(seed)
        self.model.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        num_patches = len(batch[0])
        # equal but for one patch: a batch norm has no variance over a short rest of one
        num_parts = math.ceil(num_patches / self.micro_batch_size)
        parts = list(zip(*(torch.tensor_split(t, num_parts) for t in batch), strict=True))
        for number, (part, labels) in enumerate(parts, start=1):
            with self._gradient_exchange(last=number == len(parts)):
                with self.autocast:
                    logits = network(part)
                losses = self._losses(logits.float(), labels) / num_patches
                (losses * self.head_weights).sum().backward()  # type: ignore[no-untyped-call]
            total += losses[0].detach()
        return total

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the summed, class-weighted cross-entropy of each head, (heads,)."""
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits, labels[:, None].expand_as(logits), reduction="none"
        )
        return (self.class_weights[labels.long()][:, None] * losses).sum(dim=0)

    def _gradient_exchange(self, *, last: bool) -> AbstractContextManager[None]:
        """Let the processes exchange gradients once a step, at its last micro-batch."""
        if last or self.exchange is None:
            return nullcontext()
        return self.exchange.no_sync()

    def _halve_micro_batch(self) -> None:
        if self.micro_batch_size <= _MIN_MICRO_BATCH:
            raise InputError(
                f"train: not even {self.micro_batch_size} patches at a time fit into memory: "
                "lower model.size_px"
            )
        self.micro_batch_size = max(_MIN_MICRO_BATCH, math.ceil(self.micro_batch_size / 2))
        self.model.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "out of memory: going on with micro-batches of %d; a step still learns from %d patches"
            " (batch norms see one micro-batch at a time)",
            self.micro_batch_size, self.batch_size,
        )  # fmt: skip
