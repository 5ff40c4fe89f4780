import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from idc.config import ModelConfig, load_params
from idc.models.cpu_convolutions import adapt_convolutions
from idc.models.device import choose_autocast
from idc.models.fusion import create_fusion
from idc.models.inference import create_scorer

CPU = torch.device("cpu")
GEOMETRIES = list(itertools.product([1, 3, 5, 7], [1, 2], [0, 1, 2, 3], [1, 2, 3, 4, 7]))


class _Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.pointwise = nn.Conv2d(8, 4, 1)

    def forward(self, images):
        return self.pointwise(self.depthwise(images))


def _gradients(layer, images):
    images = images.clone().requires_grad_()
    output = layer(images)
    # unequal weights, or a transposed output would pass
    (output * torch.linspace(-1, 1, output.numel()).reshape(output.shape)).sum().backward()
    return output.detach(), images.grad, *(parameter.grad for parameter in layer.parameters())


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_every_geometry_gives_the_same_output_and_gradients(groups, bias):
    torch.manual_seed(0)
    compared = 0
    for kernel, stride, padding, edge in GEOMETRIES:
        if edge + 2 * padding < kernel:
            continue
        plain = nn.Conv2d(
            8, 8, kernel, stride=stride, padding=padding, groups=groups, bias=bias
        ).double()
        adapted = copy.deepcopy(plain)
        adapt_convolutions(adapted)
        assert type(adapted) is not nn.Conv2d
        images = torch.randn(3, 8, edge, edge, dtype=torch.float64)
        images = images.contiguous(memory_format=torch.channels_last)
        # the depthwise form computes in fp32
        tolerance = 1e-10 if groups == 1 else 1e-4
        expected = _gradients(plain, images)
        if groups > 1:
            adapted = adapted.float()
        for ours, theirs in zip(_gradients(adapted, images), expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)
        compared += 1
    assert compared > 50


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        nn.Conv2d(8, 8, (1, 3)),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 16, 3, groups=8),
    ],
)
def test_other_convolutions_keep_their_form(layer):
    adapt_convolutions(layer)
    assert type(layer) is nn.Conv2d


def test_maps_that_are_not_square_are_computed_as_before():
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 3, padding=1)
    adapted = copy.deepcopy(plain)
    adapt_convolutions(adapted)
    images = torch.randn(2, 8, 1, 4)
    assert torch.equal(adapted(images), plain(images))


@pytest.mark.parametrize("size_px", [32, 64])
def test_the_backbones_compute_the_same(size_px):
    torch.manual_seed(0)
    plain = create_fusion(_from_scratch(load_params(Path("params.yaml")).model, size_px)).eval()
    plain = plain.to(memory_format=torch.channels_last)
    adapted = copy.deepcopy(plain)
    adapt_convolutions(adapted)
    images = torch.rand(4, 3, size_px, size_px).contiguous(memory_format=torch.channels_last)
    for one, other in zip(plain.branches, adapted.branches, strict=True):
        expected = one(images).detach()
        assert (other(images) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert list(plain.state_dict()) == list(adapted.state_dict())


def _from_scratch(config: ModelConfig, size_px: int) -> ModelConfig:
    return config.model_copy(
        update={"pretrained": "none", "size_px": size_px, "texture_member": False}
    )


def test_only_the_depthwise_convolution_leaves_autocast():
    model = _Separable()
    adapt_convolutions(model)
    with choose_autocast("bf16", CPU):
        middle = model.depthwise(torch.rand(2, 8, 5, 5))
        assert middle.dtype == torch.float32
        assert model.pointwise(middle).dtype == torch.bfloat16


def test_a_copy_computes_with_its_own_weights():
    model = _Separable()
    adapt_convolutions(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.depthwise.weight.zero_()
        twin.depthwise.bias.zero_()
    assert twin.depthwise(torch.rand(1, 8, 5, 5)).abs().max() == 0
    assert model.depthwise(torch.rand(1, 8, 5, 5)).abs().max() > 0


def test_a_network_in_training_is_scored_by_onnx_runtime_like_any_other(caplog):
    torch.manual_seed(0)
    model = create_fusion(_from_scratch(load_params(Path("params.yaml")).model, 32)).eval()
    model = model.to(memory_format=torch.channels_last)
    plain = create_scorer(model, CPU, 32, num_images=10_000)
    adapt_convolutions(model)
    adapted = create_scorer(model, CPU, 32, num_images=10_000)
    images = torch.rand(33, 3, 32, 32)
    assert "plain torch" not in caplog.text
    torch.testing.assert_close(adapted(images), plain(images), rtol=0, atol=1e-3)
