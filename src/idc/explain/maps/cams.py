"""Class activation maps by pytorch-grad-cam, as they are before it stretches them to 0-1.

The library's `__call__` subtracts the least value of each map and divides by the largest: a map
that is high everywhere would come out blank or as noise. So its formulas are used, by
`get_cam_image`, and not its scaling.
"""

from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import AblationCAM, EigenCAM
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.find_layers import replace_layer_recursive
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction
from torch import Tensor, nn

from idc.core.errors import InputError


@dataclass(frozen=True)
class Cam:
    """A method of pytorch-grad-cam."""

    kind: type[BaseCAM]


class SignedEigenCAM(EigenCAM):  # type: ignore[misc]
    """EigenCAM (Muhammad & Yeasin 2020) with a sign that means something.

    A principal component has none of its own, so as it stands half of the maps would show what is
    *not* salient; as in Seg-Eigen-CAM (Chung & Ying 2025), the larger extreme is made positive.
    """

    def get_cam_image(
        self,
        _input_tensor: Tensor,
        _target_layer: nn.Module,
        _targets: list[Callable[[Tensor], Tensor]],
        activations: np.ndarray,
        _grads: np.ndarray | None,
        eigen_smooth: bool = False,  # noqa: ARG002  passed by name
    ) -> np.ndarray:
        """Return the projection on the first component, (batch, height, width)."""
        return np.asarray(get_2d_projection_with_sign_correction(activations))


class _ZeroAblation(AblationLayer):  # type: ignore[misc]
    """Sets a channel to 0, as Desai & Ramaswamy 2020 do.

    The library's own sets it to -10,000,000 where activations can be negative, as EfficientNet's.
    """

    def __call__(self, _: Tensor) -> Tensor:
        ablated: Tensor = self.activations
        for place in range(len(ablated)):
            ablated[place, self.indices[place]] = 0.0
        return ablated


class ZeroAblationCAM(AblationCAM):  # type: ignore[misc]
    """Ablation-CAM (Desai & Ramaswamy 2020) for outputs that may be negative.

    A channel's weight is the share of the output that vanishes with it; of a negative output, a
    share has the wrong sign.
    """

    def __init__(self, model: nn.Module, target_layers: list[nn.Module]) -> None:
        super().__init__(model, target_layers, ablation_layer=_ZeroAblation())

    def get_cam_weights(
        self,
        input_tensor: Tensor,
        target_layer: nn.Module,
        targets: list[Callable[[Tensor], Tensor]],
        activations: np.ndarray,
        grads: np.ndarray | None,
    ) -> np.ndarray:
        """Return the weight of each channel, (batch, channels); the layer is put back."""
        with torch.no_grad():
            outputs = self.model(input_tensor)
        pairs = zip(targets, outputs, strict=True)
        sign = np.array([float(target(output).sign()) for target, output in pairs])
        try:
            weights = super().get_cam_weights(
                input_tensor, target_layer, targets, activations, grads
            )
        finally:
            replace_layer_recursive(self.model, self.ablation_layer, target_layer)
        return np.asarray(weights * sign[:, None])


def draw_cam(
    kind: type[BaseCAM], network: nn.Module, layer: nn.Module, images: Tensor, *, sign: int
) -> tuple[Tensor, Tensor]:
    """Return rectified maps and the network's output.

    Args:
        kind: Class of pytorch-grad-cam.
        network: Images to one number each.
        layer: One of its modules, whose output is a feature map.
        images: float32 (batch, 3, height, width) in 0-1.
        sign: 1 explains the output, -1 its negative.

    Returns:
        Maps, float32 (batch, height, width) on the CPU, 0 or more: 0 where nothing speaks for what
        is explained; NaN where the feature map is not finite. Outputs, float32 (batch,).

    Raises:
        InputError: If the layer gives no feature map.
    """
    variable = images.detach().clone().requires_grad_()
    cam = kind(model=network, target_layers=[layer])
    recorded = cam.activations_and_grads
    # the network goes on with a copy: an in-place operation behind the layer would change what was
    # recorded
    copying = layer.register_forward_hook(lambda _module, _inputs, output: _copy(output))
    try:
        # not `with cam`, whose exit swallows an IndexError
        outputs = recorded(variable)
        if cam.uses_gradients:
            # the gradient of the images alone: parameters get none, nor must they want one
            torch.autograd.grad(sign * outputs.sum(), variable)
        activations = _only_feature_map(recorded.activations)
        gradients = _only_feature_map(recorded.gradients) if cam.uses_gradients else None
    finally:
        copying.remove()
        recorded.release()
    targets = [lambda output: sign * output] * len(images)
    with redirect_stderr(StringIO()):  # progress bars, one per patch
        coarse = cam.get_cam_image(
            variable, layer, targets, activations, gradients, eigen_smooth=False
        )
    maps = torch.from_numpy(np.asarray(coarse, np.float32)).clamp_min(0.0)
    # EigenCAM takes NaN for 0
    maps[~np.isfinite(activations).all(axis=(1, 2, 3))] = torch.nan
    resized = nn.functional.interpolate(
        maps[:, None], size=images.shape[-2:], mode="bilinear", align_corners=False
    )
    return resized[:, 0], outputs.detach().cpu()


def _copy(output: Any) -> Any:  # noqa: ANN401  (a layer may return anything)
    return output.clone() if isinstance(output, Tensor) else output


def _only_feature_map(recorded: list[Tensor]) -> np.ndarray:
    if len(recorded) != 1 or not isinstance(recorded[0], Tensor) or recorded[0].ndim != 4:
        raise InputError(
            "explain.cam_layers: the layer gives no feature map (batch, channels, height, width) "
            "once per pass; name one that does, such as a stage of the network"
        )
    return recorded[0].numpy()
