"""A timm backbone with its normalisation, and where its feature maps are."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from idc.core.config import short_name
from idc.models.backbones.architecture import build_net, find_architecture
from idc.models.backbones.sources import NONE, create_net
from idc.models.spec import Architecture

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

    def __init__(self, name: str, architecture: Architecture, net: nn.Module) -> None:
        """Take a network for images of its size.

        Args:
            name: What tables, metrics and reports call it.
            architecture: What built the network.
            net: timm's network without its classifier.
        """
        super().__init__()
        self.name = name
        self.architecture = architecture
        self.net = net
        self.num_features: int = self.net.num_features
        if self.num_features != getattr(self.net, "head_hidden_size", self.num_features):
            # some timm networks (MobileNetV3) pool, then widen once more
            self.num_features = self.net.head_hidden_size
        facts = self.net.pretrained_cfg
        self.register_buffer("mean", torch.tensor(facts["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(facts["std"]).view(1, 3, 1, 1))
        # None where the network has no tokens
        self._num_prefix_tokens: int | None = getattr(self.net, "num_prefix_tokens", None)
        has_channels_last = str(getattr(self.net, "output_fmt", "NCHW")) == "NHWC"
        self._maps: nn.Module | None = None
        if self._num_prefix_tokens is not None or has_channels_last:
            self._maps = nn.Identity()
            self.last_mapped_layer().register_forward_hook(self._pass_through_maps)

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled embedding of each image."""
        embedding: Tensor = self.net((images - self.mean) / self.std)
        return embedding

    def last_mapped_layer(self) -> nn.Module:
        """Return the deepest layer of stride 16 or less from whose output a CAM is read.

        Of a transformer that pools by a class token it is the last but one block: the output of the
        last holds nothing of the other tokens that the answer depends on.
        """
        known = list(self.net.feature_info)
        # patches of 32 px have no other layer
        stages = [stage for stage in known if stage["reduction"] <= _CAM_STRIDE] or known
        chosen = stages[-2 if self._num_prefix_tokens is not None else -1]
        layer: nn.Module = self.net.get_submodule(chosen["module"])
        return layer

    def cam_layer(self) -> nn.Module:
        """Return the module whose output is the map that a CAM reads, (batch, channels, h, w)."""
        return self.last_mapped_layer() if self._maps is None else self._maps

    def _pass_through_maps(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:  # noqa: ANN401
        """Let the layer's output be for a moment what convolutional networks have: a map."""
        assert self._maps is not None
        if self._num_prefix_tokens is None:
            maps: Tensor = self._maps(output.permute(0, 3, 1, 2))
            return maps.permute(0, 2, 3, 1)
        prefix = output[:, : self._num_prefix_tokens]
        tokens = output[:, self._num_prefix_tokens :].transpose(1, 2)
        edge = math.isqrt(tokens.shape[2])  # patches are square, and so are mosaics of them
        maps = self._maps(tokens.reshape(*tokens.shape[:2], edge, edge))
        return torch.cat([prefix, maps.flatten(2).transpose(1, 2)], dim=1)


def create_backbone(name: str, pretrained: str, size_px: int) -> Backbone:
    """Build a backbone with its pretrained weights.

    Args:
        name: As in `model.backbones`.
        pretrained: As `model.pretrained`.
        size_px: Edge length of its images.

    Raises:
        InputError: If it is unknown, cannot take such images, or its weights cannot be had.
    """
    architecture = find_architecture(name)
    if pretrained == NONE:
        net = build_net(architecture, size_px)
    else:
        net = create_net(name, architecture, pretrained, size_px)
    return Backbone(short_name(name), architecture, net)


def rebuild_backbone(name: str, architecture: Architecture, size_px: int) -> Backbone:
    """Build a backbone whose weights are loaded afterwards, without asking where it came from.

    Raises:
        InputError: If this version of timm cannot build it.
    """
    return Backbone(name, architecture, build_net(architecture, size_px))
