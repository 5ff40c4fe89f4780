import pytest
import torch

from idc.core.errors import InputError
from idc.models.networks.device import choose_autocast, choose_device, use_bf16

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpus(monkeypatch):
    """`gpus(2)`: a machine with so many; returns the list of those that a process took."""

    def install(count):
        taken = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", taken.append)
        return taken

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return install


@pytest.fixture
def runtime(change_params):
    return lambda device: change_params(runtime={"device": device}).runtime


@pytest.mark.parametrize(("wanted", "expected"), [("auto", GPU), ("cuda", GPU), ("cpu", CPU)])
def test_choose_device_when_there_is_a_gpu_then_it_is_taken_unless_the_cpu_is_wanted(
    gpus, runtime, wanted, expected
):
    taken = gpus(1)
    assert choose_device(runtime(wanted)) == expected
    assert taken == ([0] if expected == GPU else [])


def test_choose_device_when_there_is_no_gpu_then_auto_is_the_cpu_and_cuda_an_error(gpus, runtime):
    gpus(0)
    assert choose_device(runtime("auto")) == CPU
    with pytest.raises(InputError, match=r"runtime\.device: cuda is not available here"):
        choose_device(runtime("cuda"))


def test_choose_device_when_torchrun_starts_more_processes_than_gpus_then_each_has_its_own_or_ends(
    gpus, runtime, monkeypatch
):
    taken = gpus(2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device(runtime("auto")) == torch.device("cuda", 1)
    assert taken == [1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match=r"runtime\.num_devices: .*there are 2"):
        choose_device(runtime("auto"))


@pytest.mark.parametrize(
    ("processor", "is_faster"),
    [
        ({"amx_bf16": True, "cpu_name": "Intel"}, True),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, True),
        ({"avx512_bf16": True, "cpu_name": "Intel"}, False),  # measured: slower than fp32
        ({}, False),
    ],
)
def test_use_bf16_when_auto_on_a_cpu_then_only_where_it_is_faster(
    monkeypatch, processor, is_faster
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor, raising=False)
    assert use_bf16("auto", CPU) == is_faster
    assert use_bf16("bf16", CPU)
    assert not use_bf16("fp32", CPU)


@pytest.mark.parametrize("is_supported", [True, False])
def test_use_bf16_when_auto_on_a_gpu_then_where_the_gpu_has_it_itself(monkeypatch, is_supported):
    asked = {}
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda **how: asked.update(how) or is_supported
    )
    assert use_bf16("auto", GPU) == is_supported
    assert asked == {"including_emulation": False}


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_choose_autocast_when_a_precision_is_given_then_products_are_computed_in_it(
    precision, dtype
):
    with choose_autocast(precision, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
