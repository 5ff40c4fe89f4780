"""Processes that train together: which of them this one is, and what they exchange.

`torchrun` starts them and tells each through the environment (RANK, WORLD_SIZE, LOCAL_RANK).
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from idc.core.errors import InputError
from idc.core.processes import count_cores


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together, and its device; alone it is rank 0 of 1."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process tracks, logs and writes."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, on each of them."""
        if self.several:
            dist.all_reduce(values)
        return values

    def interleave(self, part: np.ndarray) -> np.ndarray:
        """Put the parts `whole[rank::world_size]` of all processes together, on each of them."""
        if not self.several:
            return part
        parts: list[np.ndarray] = [part] * self.world_size
        dist.all_gather_object(parts, part)
        whole = np.empty((sum(map(len, parts)), *part.shape[1:]), dtype=part.dtype)
        for rank, values in enumerate(parts):
            whole[rank :: self.world_size] = values
        return whole

    def least(self, value: int) -> int:
        """Return the smallest of all processes' values, on each of them."""
        if not self.several:
            return value
        values: list[int] = [value] * self.world_size
        dist.all_gather_object(values, value)
        return min(values)

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the leader's buffers: each has seen other patches in its norms."""
        if self.several:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def wait(self) -> None:
        """Wait until every process has come this far."""
        if self.several:
            dist.barrier()


def under_torchrun() -> bool:
    """Say whether torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def init_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone where it started none."""
    if not under_torchrun() or os.environ["WORLD_SIZE"] == "1":
        yield Ranks(device)
        return
    ranks = Ranks(device, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    # torchrun ends all when one dies, so nobody waits in vain while the leader works alone
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=24)
    )
    yield ranks
    # not after an error: the others would not join in, and this process must end for torchrun to
    # end them
    dist.destroy_process_group()


def start_ranks(num_devices: int) -> None:
    """Run this very stage again under torchrun, in `num_devices` processes of this machine.

    Raises:
        InputError: If one of them fails; it has said why.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_devices}"]
    threads = max(1, count_cores() // num_devices)  # torchrun alone would give each process one
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    done = subprocess.run([sys.executable, *torchrun, "-m", "idc", "train"], env=environment)
    if done.returncode:
        raise InputError(f"one of the {num_devices} processes failed: its reason stands above")
