"""The optimizer and its rate schedule."""

import math

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from idc.core.config import TrainConfig


def create_optimizer(
    model: nn.Module, config: TrainConfig, *, learning_rate: float, device: torch.device
) -> AdamW:
    """Return a fused AdamW (Loshchilov & Hutter 2019) over the parameters that learn.

    Weight matrices decay, biases and norms do not: shrinking those towards 0 helps nothing.
    Parameters below a module named `backbones` get `backbone_rate_factor` of the rate.

    Args:
        model: Its parameters' names tell backbones from heads.
        config: Decay and rate factor.
        learning_rate: Peak rate of everything that is no backbone.
        device: Where the parameters are.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = ("backbones" in name.split("."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return AdamW(
        [
            {
                "params": parameters,
                "lr": learning_rate * (config.backbone_rate_factor if of_backbone else 1.0),
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (of_backbone, decays), parameters in groups.items()
        ],
        fused=device.type in ("cpu", "cuda"),
    )


def create_schedule(optimizer: Optimizer, *, num_steps: int, warmup_share: float) -> LambdaLR:
    """Return a linear warm-up to each group's peak rate, then half a cosine down to 0.

    Args:
        optimizer: Its groups' rates are the peaks.
        num_steps: Optimizer steps in all.
        warmup_share: Share of the steps that rise, in 0-1.
    """
    num_warmup = max(1, round(num_steps * warmup_share))

    def share_of_peak(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, share_of_peak)
