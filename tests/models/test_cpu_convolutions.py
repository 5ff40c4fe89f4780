import copy
import itertools
from pathlib import Path

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from idc.core.config import ModelConfig, load_params
from idc.models.networks.cpu_convolutions import adapt_convolutions
from idc.models.networks.device import choose_autocast
from idc.models.networks.fusion import create_fusion
from idc.models.scoring.inference import create_scorer

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
        assert (type(adapted) is nn.Conv2d) == (groups == 1 and padding >= kernel)
        images = torch.randn(3, 8, edge, edge, dtype=torch.float64)
        images = images.contiguous(memory_format=torch.channels_last)
        expected = _gradients(plain, images)
        for ours, theirs in zip(_gradients(adapted, images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        compared += 1
    assert compared > 50


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 8])
def test_every_geometry_of_tensorflow_gives_the_same_output_and_gradients(groups, bias):
    torch.manual_seed(0)
    for kernel, stride, edge in itertools.product([1, 3, 5, 7], [1, 2, 3], [1, 2, 3, 4, 7, 8]):
        plain = Conv2dSame(8, 8, kernel, stride=stride, groups=groups, bias=bias).double()
        adapted = copy.deepcopy(plain)
        adapt_convolutions(adapted)
        assert (type(adapted) is Conv2dSame) == (groups == 1)
        images = torch.randn(3, 8, edge, edge, dtype=torch.float64)
        images = images.contiguous(memory_format=torch.channels_last)
        expected = _gradients(plain, images)
        for ours, theirs in zip(_gradients(adapted, images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


_OTHERS = {
    "same": nn.Conv2d(8, 8, 3, padding="same"),
    "reflect": nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "dilated": nn.Conv2d(8, 8, 3, padding=2, dilation=2),
    "oblong": nn.Conv2d(8, 8, (1, 3)),
    "padded to the whole kernel": nn.Conv2d(8, 8, 1, padding=1),
    "groups": nn.Conv2d(8, 8, 3, groups=2),
}


@pytest.mark.parametrize("name", _OTHERS)
def test_other_convolutions_keep_their_form(name):
    layer = copy.deepcopy(_OTHERS[name])
    adapt_convolutions(layer)
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize(
    "depthwise",
    [
        nn.Conv2d(8, 8, 3, padding="same", groups=8),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Conv2d(8, 8, (1, 3), groups=8),
        nn.Conv2d(8, 16, 3, groups=8),
    ],
)
def test_every_depthwise_convolution_leaves_autocast(depthwise):
    adapted, images = copy.deepcopy(depthwise), torch.randn(2, 8, 3, 3)
    adapt_convolutions(adapted)
    with choose_autocast("bf16", CPU):
        output = adapted(images)
    assert output.dtype == torch.float32
    assert torch.equal(output, depthwise(images))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 8])
def test_maps_that_are_not_square_are_computed_as_before(kernel, groups):
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, kernel, padding=kernel // 2, groups=groups)
    adapted = copy.deepcopy(plain)
    adapt_convolutions(adapted)
    images = torch.randn(2, 8, 1, 4)
    assert torch.equal(adapted(images), plain(images))


@pytest.mark.parametrize("groups", [1, 8])
def test_a_map_smaller_than_the_kernel_is_refused_as_before(groups):
    layer = nn.Conv2d(8, 8, 5, padding=1, groups=groups)
    adapt_convolutions(layer)
    with pytest.raises(RuntimeError, match="Kernel size"):
        layer(torch.randn(2, 8, 2, 2))


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
    duplicate = copy.deepcopy(model)
    with torch.no_grad():
        duplicate.depthwise.weight.zero_()
        duplicate.depthwise.bias.zero_()
    assert duplicate.depthwise(torch.rand(1, 8, 5, 5)).abs().max() == 0
    assert model.depthwise(torch.rand(1, 8, 5, 5)).abs().max() > 0


@pytest.mark.parametrize(
    ("backbone", "size_px"),
    [
        pytest.param("densenet121", 32, marks=pytest.mark.slow),
        # kernels of 5x5 on maps of 2x2, and TensorFlow's padding
        ("tf_efficientnet_lite0", 64),
        ("tf_efficientnet_lite0", 32),
    ],
)
def test_a_network_in_training_is_scored_by_onnx_runtime_like_any_other(backbone, size_px, caplog):
    torch.manual_seed(0)
    config = load_params(Path("params.yaml")).model.model_copy(update={"backbones": (backbone,)})
    model = create_fusion(_from_scratch(config, size_px)).eval()
    model = model.to(memory_format=torch.channels_last)
    plain = create_scorer(model, CPU, size_px, num_images=10_000)
    adapt_convolutions(model)
    adapted = create_scorer(model, CPU, size_px, num_images=10_000)
    images = torch.rand(33, 3, size_px, size_px)
    assert "plain torch" not in caplog.text
    torch.testing.assert_close(adapted(images), plain(images), rtol=0, atol=1e-3)
