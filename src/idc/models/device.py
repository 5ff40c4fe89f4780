"""Which device and arithmetic a network runs in."""

from typing import Literal

import torch

from idc.config import RuntimeConfig
from idc.errors import InputError


def choose_device(runtime: RuntimeConfig) -> torch.device:
    """Return the GPU where there is one and it is wanted, else the CPU; set the CPU threads.

    Raises:
        InputError: If a GPU is asked for and none is there.
    """
    if runtime.num_threads is not None:
        torch.set_num_threads(runtime.num_threads)
    available = torch.cuda.is_available()
    if runtime.device == "cuda" and not available:
        raise InputError("runtime.device: cuda is not available here; use auto or cpu")
    return torch.device("cuda" if available and runtime.device != "cpu" else "cpu")


def choose_autocast(
    precision: Literal["auto", "fp32", "bf16"], device: torch.device
) -> torch.autocast:
    """Return the autocast context of the training step.

    `auto` is bf16 on a GPU that computes in it; on CPUs without bf16 matrix units it is slower
    than fp32.
    """
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    enabled = precision == "bf16" or (precision == "auto" and able)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
