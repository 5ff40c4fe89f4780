"""Which device and arithmetic a network runs in."""

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

from idc.core.config import Precision, RuntimeConfig
from idc.core.errors import InputError


def choose_device(runtime: RuntimeConfig) -> torch.device:
    """Return the GPU where there is one and it is wanted, else the CPU; set the CPU threads.

    Raises:
        InputError: If a GPU is asked for and none is there, or fewer than processes under torchrun.
    """
    if runtime.num_threads is not None:
        torch.set_num_threads(runtime.num_threads)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))  # set by torchrun
    available = torch.cuda.is_available()
    if runtime.device == "cuda" and not available:
        raise InputError("runtime.device: cuda is not available here; use auto or cpu")
    if not available or runtime.device == "cpu":
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"runtime.num_devices: process {local_rank + 1} has no GPU of its own, there are "
            f"{torch.cuda.device_count()}; lower it, or set runtime.device to cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def use_bf16(precision: Precision, device: torch.device) -> bool:
    """Say whether to compute in bf16.

    `auto` does so where the device is faster in it: on such a GPU, and on a CPU with AMX, or of AMD
    with AVX-512 BF16. Other CPUs have the latter too, but there it has been seen to be slower than
    fp32.
    """
    return precision == "bf16" or (precision == "auto" and _is_faster_in_bf16(device))


def choose_autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the autocast context of the training step."""
    enabled = use_bf16(precision, device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def describe_environment(device: torch.device) -> dict[str, str]:
    """Return what the last bits of a training and its scores depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "torch": str(torch.__version__),
        "timm": version("timm"),
        "numpy": version("numpy"),
        "onnxruntime": version("onnxruntime"),
        "threads": str(torch.get_num_threads()),
    }


def _is_faster_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _bf16_instructions() is not None


def _bf16_instructions() -> str | None:
    """Return the instructions of this CPU that multiply in bf16 faster than in fp32."""
    # older releases of torch do not tell
    tell = getattr(torch.cpu, "get_capabilities", dict)
    has: dict[str, Any] = tell()
    if has.get("amx_bf16"):
        return "AMX"
    amd = str(has.get("cpu_name", "")).startswith("AMD")
    return "AVX512_BF16" if amd and has.get("avx512_bf16") else None


def _cpu_name() -> str:
    """Return the processor's model and instruction sets, which choose the kernels."""
    parts = [platform.processor() or platform.machine(), torch.backends.cpu.get_cpu_capability()]
    return " ".join([*parts, *filter(None, [_bf16_instructions()])])
