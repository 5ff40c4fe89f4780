import copy

import pytest
import torch
from torch import nn

from idc.models.device import choose_autocast, describe_environment, keep_depthwise_in_fp32

CPU = torch.device("cpu")


class _Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.pointwise = nn.Conv2d(8, 4, 1)

    def forward(self, images):
        return self.pointwise(self.depthwise(images))


def _pretend(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize(
    ("capabilities", "enabled"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": True, "amx_bf16": True}, True),
    ],
)
def test_auto_is_bf16_on_a_cpu_with_instructions_for_it_alone(monkeypatch, capabilities, enabled):
    _pretend(monkeypatch, **capabilities)
    with choose_autocast("auto", CPU):
        assert torch.is_autocast_enabled("cpu") == enabled


@pytest.mark.parametrize(
    ("capabilities", "named"), [({"avx512_bf16": True}, "AVX512_BF16"), ({"amx_bf16": True}, "AMX")]
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


def test_only_the_depthwise_convolution_leaves_autocast():
    model = _Separable()
    keep_depthwise_in_fp32(model)
    with choose_autocast("bf16", CPU):
        middle = model.depthwise(torch.rand(2, 8, 5, 5))
        assert middle.dtype == torch.float32
        assert model.pointwise(middle).dtype == torch.bfloat16


def test_leaving_autocast_changes_neither_names_nor_values():
    torch.manual_seed(0)
    model, images = _Separable(), torch.rand(2, 8, 5, 5)
    before, names = model(images), list(model.state_dict())
    keep_depthwise_in_fp32(model)
    assert torch.equal(model(images), before)
    assert list(model.state_dict()) == names


def test_a_copy_computes_with_its_own_weights():
    model = _Separable()
    keep_depthwise_in_fp32(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.depthwise.weight.zero_()
        twin.depthwise.bias.zero_()
    assert twin.depthwise(torch.rand(1, 8, 5, 5)).abs().max() == 0
    assert model.depthwise(torch.rand(1, 8, 5, 5)).abs().max() > 0
