"""Grad-CAM (Selvaraju et al. 2017) by pytorch-grad-cam, on layers of stride 16."""

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn

from idc.models.fusion import FusionCNN


class _IdcLogit:
    """The target: the logit of IDC+ itself, so that evidence against it shows as absence."""

    def __call__(self, output: Tensor) -> Tensor:
        return output


def grad_cams(model: FusionCNN, images: Tensor) -> dict[str, Tensor]:
    """Return one map per backbone and the fused one, their mean.

    Args:
        model: In evaluation mode, without in-place activations.
        images: float32 (batch, 3, height, width) in 0-1.

    Returns:
        By backbone name, and `fused`: float32 (batch, height, width), 0-1 per patch. A map is all
        zero where no location speaks for IDC+.
    """
    layers = {backbone.name: backbone.cam_layer() for backbone in model.branches}
    maps = {name: _grad_cam(model, layer, images) for name, layer in layers.items()}
    maps["fused"] = torch.stack(list(maps.values())).mean(dim=0)
    return maps


def _grad_cam(model: FusionCNN, layer: nn.Module, images: Tensor) -> Tensor:
    # the images must ask for gradients: with frozen backbones no activation would have any
    variable = images.detach().clone().requires_grad_()
    with torch.enable_grad(), GradCAM(model=model, target_layers=[layer]) as cam:
        heat = cam(input_tensor=variable, targets=[_IdcLogit()] * len(images))
    return torch.from_numpy(np.nan_to_num(heat).astype(np.float32))
