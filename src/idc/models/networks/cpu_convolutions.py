"""Convolutions of the training step that a CPU computes faster in another form, same weights.

oneDNN is optimised for large maps. Where the last stages of a backbone have shrunk small patches to
a few pixels, its backward pass reaches a tenth of the speed of a matrix product, and that of a
depthwise convolution in bf16 takes up to thirty times as long as in fp32. The gradient of depthwise
weights is fast for kernels of up to three columns: that of 5x5 takes two to five times as long as
its two parts of 5x3 and 5x2. docs/log.md has the measurements. The kernels of a GPU need none of
this.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

_FEW_PIXELS = 4  # up to so many pixels of a map a pointwise convolution is faster as a product
_FAST_WIDTH = 3  # up to so many columns of a depthwise kernel get their gradient fast


def adapt_convolutions(model: nn.Module) -> None:
    """Give a model's convolutions their faster forms for training on a CPU, in place.

    Parameters and their names stay, and outputs differ by rounding alone.

    Args:
        model: Takes maps (batch, channels, height, width) in channels_last.
    """
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or type(module) not in (nn.Conv2d, Conv2dSame):
            continue
        if module.groups == module.in_channels > 1:  # the optimizer keeps its weights
            is_plain = type(module) is nn.Conv2d
            module.__class__ = _DepthwiseConvolution if is_plain else _DepthwiseSameConvolution
        elif module.groups == 1 and type(module) is nn.Conv2d and _is_square(module):
            module.__class__ = _DenseConvolution


class _DenseConvolution(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        edge, stride = _output_edge(self, input), self.stride[0]
        # rows in the order of channels_last, so that they are read as they lie in memory
        if edge == 1:
            pixels, weight = _seen(self, input)
            rows = pixels.permute(0, 2, 3, 1).flatten(1)[:, None, None]
        elif self.kernel_size[0] == 1 and self.padding[0] == 0 and 0 < edge**2 <= _FEW_PIXELS:
            weight = self.weight
            rows = input[:, :, ::stride, ::stride].permute(0, 2, 3, 1)
        else:
            return super().forward(input)
        product = F.linear(rows, weight.permute(0, 2, 3, 1).flatten(1), self.bias)
        return product.permute(0, 3, 1, 2)


class _DepthwiseConvolution(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            input = input.to(self.weight.dtype)
            several = self.out_channels != self.in_channels
            if several or not _is_square(self):
                return super().forward(input)
            edge = _output_edge(self, input)
            if edge > 1 and _learns(self):
                return _convolve_depthwise(self, input, int(self.padding[0]))
            if edge != 1:
                return super().forward(input)
            pixels, weight = _seen(self, input)
            product = (pixels * weight.squeeze(1)).sum((2, 3), keepdim=True)
            return product if self.bias is None else product + self.bias[:, None, None]


class _DepthwiseSameConvolution(Conv2dSame):  # type: ignore[misc]
    """TensorFlow's padding, which depends on the map and may be larger at its end.

    To pad alike on all sides, by `stride` more than at the beginning, and to drop what comes first
    spares two copies of the map.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            x = x.to(self.weight.dtype)
            height, width = x.shape[-2:]
            is_plain = self.out_channels == self.in_channels and _is_square(self)
            if not is_plain or height != width or not _learns(self):
                forward: Tensor = super().forward(x)
                return forward
            kernel, stride = self.kernel_size[0], self.stride[0]
            edge = -(-height // stride)
            missing = max(0, (edge - 1) * stride + kernel - height)
            if missing % 2 == 0:
                return _convolve_depthwise(self, x, missing // 2)
            output = _convolve_depthwise(self, x, missing // 2 + stride)[:, :, 1:, 1:]
            return output[:, :, :edge, :edge].contiguous(memory_format=torch.channels_last)


def _learns(layer: nn.Conv2d) -> bool:
    """Say whether a gradient will be needed; a network that is scored, or exported, stays plain."""
    return torch.is_grad_enabled() and layer.weight.requires_grad


def _convolve_depthwise(layer: nn.Conv2d, images: Tensor, padding: int) -> Tensor:
    """Convolve square maps so that the gradient of the kernel is fast."""
    stride, weight = layer.stride[0], layer.weight
    margin = _unseen_margin(images.shape[-1], weight.shape[-1], stride, padding)
    if margin > 0:
        weight = weight[:, :, margin:-margin, margin:-margin]
        padding -= margin
    is_slow = weight.shape[-1] > _FAST_WIDTH or images.shape[-1] < _FAST_WIDTH
    if is_slow and weight.shape[-1] >= _FAST_WIDTH:
        output: Tensor = _ByColumns.apply(images, weight, stride, padding)
        return output if layer.bias is None else output + layer.bias[:, None, None]
    return F.conv2d(images, weight, layer.bias, stride, padding, groups=layer.in_channels)


def _unseen_margin(edge: int, kernel: int, stride: int, padding: int) -> int:
    """Return how many rows on each side of a kernel lie on the padding wherever it is laid."""
    last = (edge + 2 * padding - kernel) // stride * stride  # where it is laid last
    before = padding - last
    after = kernel - padding - edge
    return max(0, min(before, after))


class _ByColumns(torch.autograd.Function):
    """A depthwise convolution; the gradient of its kernel comes in parts of three columns."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:  # noqa: ANN401  torch's
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:  # noqa: ANN401  torch's
        images, weight = ctx.saved_tensors
        stride, padding, groups = ctx.stride, ctx.padding, len(weight)
        of_images = None
        if ctx.needs_input_grad[0]:
            of_images = conv2d_input(  # type: ignore[no-untyped-call]
                images.shape, weight, gradient, stride, padding, groups=groups
            )
        kernel, across = weight.shape[-1], (gradient.shape[-1] - 1) * stride
        missing = across + kernel - padding - images.shape[-1]  # rows below the map
        of_weight = torch.empty_like(weight)
        for start in range(0, kernel, _FAST_WIDTH):
            width = min(_FAST_WIDTH, kernel - start)
            right = start + across + width - padding - images.shape[-1]
            # what these columns of the kernel see: a negative pad cuts off
            seen = F.pad(images, (padding - start, right, padding, missing))
            of_weight[..., start : start + width] = conv2d_weight(  # type: ignore[no-untyped-call]
                seen.contiguous(memory_format=torch.channels_last),
                (groups, 1, kernel, width),
                gradient,
                stride,
                groups=groups,
            )
        return of_images, of_weight, None, None


def _is_square(layer: nn.Conv2d) -> bool:
    """Tell whether a convolution is square, undilated, and padded by zeros alike on all sides."""
    return (
        layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.dilation == (1, 1)
        and all(len(set(pair)) == 1 for pair in (layer.kernel_size, layer.stride, layer.padding))
        and layer.padding[0] < layer.kernel_size[0]
    )


def _output_edge(layer: nn.Conv2d, images: Tensor) -> int:
    """Return the edge of the output for square maps, 0 for others, which keep their form."""
    height, width = images.shape[-2:]
    padded = height + 2 * int(layer.padding[0])
    if height != width or padded < layer.kernel_size[0]:
        return 0
    return (padded - layer.kernel_size[0]) // layer.stride[0] + 1


def _seen(layer: nn.Conv2d, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels that the one pixel of the output sees, and their weights.

    The rest of the kernel lies on the padding.
    """
    first = int(layer.padding[0])
    edge = min(images.shape[-1], layer.kernel_size[0] - first)
    pixels = images[:, :, :edge, :edge]
    return pixels, layer.weight[:, :, first : first + edge, first : first + edge]
