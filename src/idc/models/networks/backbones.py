"""timm backbones, and where their stride-16 feature maps are."""

from typing import Any

import torch
from torch import Tensor, nn

from idc.models.weights.sources import create_net

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
        self.net = create_net(name, pretrained)
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
