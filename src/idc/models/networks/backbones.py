"""timm backbones: creation, weights, and where their stride-16 feature maps are."""

import os
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from idc.core.errors import InputError
from idc.models.networks.weights_file import load_weights_file, match_tensors, tensor_shapes

_CAM_STRIDE = 16  # at stride 32 a 64-px image ends as a 2x2 map, on which a CAM means nothing


class Backbone(nn.Module):
    """One timm network without its classifier, with its own normalisation.

    Shape:
        images: (batch, 3, size_px, size_px) float32 in 0-1.
        returns: (batch, num_features) pooled embedding.
    """

    net: Any  # timm's own attributes are untyped
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, pretrained: str) -> None:
        super().__init__()
        self.name = name
        self.net = _create_net(name, pretrained)
        self.num_features: int = self.net.num_features
        if self.num_features != getattr(self.net, "head_hidden_size", self.num_features):
            # some timm networks (MobileNetV3) pool, then widen once more
            self.num_features = self.net.head_hidden_size
        facts = self.net.pretrained_cfg
        self.register_buffer("mean", torch.tensor(facts["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(facts["std"]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled embedding of each image."""
        embedding: Tensor = self.net((images - self.mean) / self.std)
        return embedding

    def cam_layer(self) -> nn.Module:
        """Return the deepest layer of stride 16 or less, whose maps a CAM reads."""
        stages = [stage for stage in self.net.feature_info if stage["reduction"] <= _CAM_STRIDE]
        layer: nn.Module = self.net.get_submodule(stages[-1]["module"])
        return layer


def require_weights(names: tuple[str, ...], pretrained: str) -> None:
    """Check that the pretrained weights of every backbone can be had and fit, without loading them.

    Raises:
        InputError: Naming the backbone, or the file, and the ways out.
    """
    if pretrained == "none":
        return
    for name in names:
        _require_name(name)
        if pretrained == "imagenet":
            _require_hub_weights(name)
        else:
            match_tensors(name, _weights_file(name, pretrained), _expected_shapes(name))


def _expected_shapes(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # shapes alone: nothing is drawn
        return tensor_shapes(timm.create_model(name, pretrained=False, num_classes=0))


def _create_net(name: str, pretrained: str) -> nn.Module:
    _require_name(name)
    if pretrained == "none":
        return timm.create_model(name, pretrained=False, num_classes=0)  # type: ignore[no-any-return]
    if pretrained != "imagenet":
        path = _weights_file(name, pretrained)
        net: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
        load_weights_file(net, name, path)
        return net
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)  # type: ignore[no-any-return]
    except (OSError, RuntimeError) as error:
        raise _no_weights(name, error) from None


def _require_name(name: str) -> None:
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:8]}*")[:5]) or "timm.list_models() has them"
        raise InputError(f"timm has no {name!r}", "model.backbones", f"near it: {near}")


def _weights_file(name: str, folder: str) -> Path:
    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(
            f"{path} does not exist",
            "model.pretrained",
            f"put the weights of {name} there, or set model.pretrained to imagenet or none",
        )
    return path


def _require_hub_weights(name: str) -> None:
    from huggingface_hub import file_exists, try_to_load_from_cache

    repository = timm.get_pretrained_cfg(name).hf_hub_id
    if repository is None:
        raise InputError(f"timm has no ImageNet weights for {name}", "model.pretrained", "use none")
    if isinstance(try_to_load_from_cache(repository, "model.safetensors"), str):
        return
    try:
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            raise OSError("HF_HUB_OFFLINE is set")
        found = file_exists(repository, "model.safetensors")
    except Exception as error:  # what is raised depends on the HTTP client the hub's library uses
        raise _no_weights(name, error) from None
    if not found:
        raise _no_weights(name, OSError(f"{repository} has no model.safetensors"))


def _no_weights(name: str, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"the ImageNet weights of {name} cannot be fetched ({reason})",
        "model.pretrained",
        "connect to the network once, or set model.pretrained to a folder with "
        f"{name}.safetensors, or to none (training from scratch)",
    )
