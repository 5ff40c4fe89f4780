import pytest
import torch

from idc.models.networks.device import choose_autocast, describe_environment

CPU = torch.device("cpu")


def _pretend(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize(
    ("capabilities", "enabled"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "AMD EPYC"}, True),
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, False),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, True),
    ],
)
def test_auto_is_bf16_on_a_cpu_with_instructions_for_it_alone(monkeypatch, capabilities, enabled):
    _pretend(monkeypatch, **capabilities)
    with choose_autocast("auto", CPU):
        assert torch.is_autocast_enabled("cpu") == enabled


@pytest.mark.parametrize(
    ("capabilities", "named"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "AVX512_BF16"),
        ({"avx512_bf16": True, "amx_bf16": True}, "AMX"),
    ],
)
def test_the_environment_names_the_instructions_that_choose_the_arithmetic(
    monkeypatch, capabilities, named
):
    _pretend(monkeypatch)
    without = describe_environment(CPU)["device"]
    _pretend(monkeypatch, **capabilities)
    assert describe_environment(CPU)["device"] == f"{without} {named}"


@pytest.mark.parametrize(("precision", "enabled"), [("fp32", False), ("bf16", True)])
def test_what_is_asked_for_is_what_runs(monkeypatch, precision, enabled):
    _pretend(monkeypatch, amx_bf16=not enabled)
    with choose_autocast(precision, CPU):
        assert torch.is_autocast_enabled("cpu") == enabled


def test_an_older_torch_that_does_not_tell_computes_in_fp32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    with choose_autocast("auto", CPU):
        assert not torch.is_autocast_enabled("cpu")
