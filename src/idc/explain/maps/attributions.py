"""Maps of every pixel by captum: gradients, averaged gradients, and what covering does.

All are linear in what they explain: the map of a sum is the sum of the maps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Occlusion, Saliency
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

_BLUR_PX = 8.0  # standard deviation: nuclei vanish, the stain of the region stays
_NOISE_SHARE = 0.15  # of a patch's own range of values: 0.1 to 0.2 in Smilkov et al.
_SMOOTH_GRAD_SAMPLES = 10  # noisy copies: the noise left falls with their root, the cost rises
_INTEGRATED_GRADIENTS_STEPS = (
    16  # a third of captum's default: from a blurred patch the way is short
)
_WINDOW_PX = 8  # about a nucleus
_STRIDE_PX = 7  # the last of seven windows ends where the patch does


@dataclass(frozen=True)
class AttributionBudget:
    """How much is computed for a map, and how much at once."""

    batch_size: int
    """Images per pass through a network, at most."""
    seed: int
    """Seed of the noise."""


Attribute = Callable[[nn.Module, Tensor, AttributionBudget], Tensor]
"""Network (images to one number each), images float32 (batch, 3, height, width) in 0-1, budget ->
attributions of the same shape."""


@dataclass(frozen=True)
class PixelAttribution:
    """A method of captum, and how its three colour channels become one map."""

    attribute: Attribute
    reduce: Callable[[Tensor], Tensor]
    """(batch, 3, height, width) -> (batch, height, width)."""


def strongest_channel(attributions: Tensor) -> Tensor:
    """Return the largest absolute value of the channels (Simonyan et al. 2014)."""
    return attributions.abs().amax(dim=1)


def sum_of_channels(attributions: Tensor) -> Tensor:
    """Return the sum over the channels: what a pixel adds as a whole."""
    return attributions.sum(dim=1)


def mean_of_channels(attributions: Tensor) -> Tensor:
    """Return the mean over the channels, which a window covers together."""
    return attributions.mean(dim=1)


def saliency(network: nn.Module, images: Tensor, _budget: AttributionBudget) -> Tensor:
    """Return the gradient at the patch (Simonyan et al. 2014, arXiv:1312.6034)."""
    return Saliency(network).attribute(_variable(images), abs=False)  # type: ignore[no-any-return]


def input_x_gradient(network: nn.Module, images: Tensor, _budget: AttributionBudget) -> Tensor:
    """Return gradient times pixel: black counts as nothing (Shrikumar et al. 2016)."""
    return InputXGradient(network).attribute(_variable(images))  # type: ignore[no-any-return]


def smooth_grad(network: nn.Module, images: Tensor, budget: AttributionBudget) -> Tensor:
    """Return the mean gradient over noisy copies (Smilkov et al. 2017, arXiv:1706.03825).

    Every patch gets the same seeded noise, times its own range of values: a map does not depend on
    which patches are explained together.
    """
    tunnel = NoiseTunnel(Saliency(network))
    devices = [images.device] if images.device.type == "cuda" else []
    maps = []
    for image in images.split(1):  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices):
            torch.manual_seed(budget.seed)
            maps.append(
                tunnel.attribute(
                    image,
                    nt_type="smoothgrad",
                    nt_samples=_SMOOTH_GRAD_SAMPLES,
                    nt_samples_batch_size=min(_SMOOTH_GRAD_SAMPLES, budget.batch_size),
                    stdevs=_NOISE_SHARE * float(image.max() - image.min()),
                    abs=False,
                )
            )
    return torch.cat(maps)


def integrated_gradients(network: nn.Module, images: Tensor, budget: AttributionBudget) -> Tensor:
    """Return Integrated Gradients from the blurred patch (Sundararajan et al. 2017).

    The map sums to the difference that the blur makes. Neither black nor white is a neutral start:
    both are cues of a class (Sturmfels et al. 2020, doi:10.23915/distill.00022).
    """
    return IntegratedGradients(network).attribute(  # type: ignore[no-any-return]
        images,
        baselines=blur(images),
        n_steps=_INTEGRATED_GRADIENTS_STEPS,
        internal_batch_size=max(budget.batch_size, len(images)),
    )


def occlusion(network: nn.Module, images: Tensor, budget: AttributionBudget) -> Tensor:
    """Return by how much blurring a window of 8x8 px lowers the output (Zeiler & Fergus 2014).

    Windows stand 7 px apart; a pixel's value is the mean over the windows that cover it.
    """
    with torch.no_grad():
        return Occlusion(network).attribute(  # type: ignore[no-any-return]
            images,
            sliding_window_shapes=(3, _WINDOW_PX, _WINDOW_PX),
            strides=(3, _STRIDE_PX, _STRIDE_PX),
            baselines=blur(images),
            perturbations_per_eval=max(1, budget.batch_size // len(images)),
        )


def blur(images: Tensor) -> Tensor:
    """Return the images with what is smaller than a few nuclei blurred away, same shape."""
    reach = min(int(3 * _BLUR_PX), min(images.shape[-2:]) - 1)
    blurred: Tensor = gaussian_blur(images, [2 * reach + 1, 2 * reach + 1], [_BLUR_PX, _BLUR_PX])
    return blurred


def _variable(images: Tensor) -> Tensor:
    return images.detach().clone().requires_grad_()
