import pytest
import torch

from idc.training import sources
from idc.training.sources import count_workers

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def cores(monkeypatch):
    """`cores(4)`: so many may be used."""
    return lambda number: monkeypatch.setattr(sources, "count_cores", lambda: number)


def test_count_workers_when_on_a_cpu_then_none_takes_cores_from_the_training(cores):
    cores(64)
    assert count_workers(CPU) == 0


@pytest.mark.parametrize(
    ("num_cores", "world_size", "expected"),
    [(1, 1, 1), (4, 1, 4), (64, 1, 8), (16, 4, 4), (64, 4, 8), (2, 4, 1)],
)
def test_count_workers_when_on_gpus_then_each_gets_its_share_of_the_cores_up_to_a_limit(
    cores, num_cores, world_size, expected
):
    cores(num_cores)
    assert count_workers(GPU, world_size) == expected
