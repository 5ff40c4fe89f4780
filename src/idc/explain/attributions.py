"""Vanilla saliency: how fast the IDC+ logit changes with each pixel (Simonyan et al. 2014)."""

import torch
from torch import Tensor

from idc.models.fusion import FusionCNN


def saliency_maps(model: FusionCNN, images: Tensor) -> dict[str, Tensor]:
    """Return one map per backbone and the fused one.

    A backbone's map takes the gradient through that backbone only: the other embeddings are
    constants. The fused map takes it through all.

    Args:
        model: In evaluation mode, without in-place activations (see `prepare_for_gradients`).
        images: float32 (batch, 3, height, width) in 0-1.

    Returns:
        By backbone name, and `fused`: float32 (batch, height, width), 0-1 per patch.
    """
    names = [backbone.name for backbone in model.branches]
    maps = {name: _saliency(model, images, place) for place, name in enumerate(names)}
    maps["fused"] = _saliency(model, images, None)
    return maps


def prepare_for_gradients(model: FusionCNN) -> None:
    """Switch in-place activations off: DenseNet's overwrite what the backward pass needs."""
    model.eval()
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]


def _saliency(model: FusionCNN, images: Tensor, only: int | None) -> Tensor:
    with torch.enable_grad():
        variable = images.detach().clone().requires_grad_()
        embeddings = [
            embedding if only in (None, place) else embedding.detach()
            for place, embedding in enumerate(model.embed(variable))
        ]
        (gradient,) = torch.autograd.grad(model.classify(embeddings).sum(), variable)
    strength = gradient.abs().amax(dim=1)
    # the 99th percentile instead of the maximum: one hot pixel would darken the whole map
    top = strength.flatten(1).quantile(0.99, dim=1)
    return (strength / top.clamp_min(1e-12)[:, None, None]).clamp(0, 1).cpu()
