"""Convolutions of the training step that a CPU computes faster in another form, same weights.

oneDNN is optimised for large maps. Where the last stages of a backbone have shrunk small patches to
a few pixels, its backward pass reaches a tenth of the speed of a matrix product, and that of a
depthwise convolution in bf16 takes up to thirty times as long as in fp32. With these forms five
training steps at 32 px in batches of 32 take 0.94 s, 1.33 s with timm's own (fp32, two cores of an
Intel Xeon); docs/log.md has more measurements. The kernels of a GPU need none of this.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW_PIXELS = 4  # up to so many pixels of a map a pointwise convolution is faster as a product


def adapt_convolutions(model: nn.Module) -> None:
    """Give a model's convolutions their faster forms for training on a CPU, in place.

    Parameters and their names stay, and outputs differ by rounding alone.

    Args:
        model: Takes maps (batch, channels, height, width) in channels_last.
    """
    for module in model.modules():
        if type(module) is not nn.Conv2d:
            continue
        if module.groups == module.in_channels > 1:
            module.__class__ = _DepthwiseConvolution  # the optimizer keeps its weights
        elif module.groups == 1 and _is_square(module):
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
            if several or not _is_square(self) or _output_edge(self, input) != 1:
                return super().forward(input)
            pixels, weight = _seen(self, input)
            product = (pixels * weight.squeeze(1)).sum((2, 3), keepdim=True)
            return product if self.bias is None else product + self.bias[:, None, None]


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
