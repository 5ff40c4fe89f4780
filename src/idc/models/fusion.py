"""The fusion CNN: pooled embeddings of several backbones, concatenated, one head, one logit."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from idc.config import ModelConfig
from idc.models.backbones import Backbone


class FusionCNN(nn.Module):
    """Concatenate the embeddings of several backbones, then classify.

    Shape:
        images: (batch, 3, size_px, size_px) float32 in 0-1; each backbone normalises for itself.
        returns: (batch,) logits of IDC+.
    """

    def __init__(self, backbones: Sequence[str], *, pretrained: str, dropout: float) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(Backbone(name, pretrained) for name in backbones)
        num_features = sum(backbone.num_features for backbone in self.branches)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(num_features, 1))

    @property
    def branches(self) -> list[Backbone]:
        """The backbones, typed."""
        return [module for module in self.backbones if isinstance(module, Backbone)]

    def embed(self, images: Tensor) -> list[Tensor]:
        """Return the pooled embedding (batch, num_features) of each backbone."""
        return [backbone(images) for backbone in self.branches]

    def classify(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Return the logits (batch,) that the head gives to the concatenated embeddings."""
        logits: Tensor = self.head(torch.cat(list(embeddings), dim=1))
        return logits.squeeze(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (batch,)."""
        return self.classify(self.embed(images))


def create_fusion(config: ModelConfig) -> FusionCNN:
    """Build the network that `params.yaml` asks for, with its pretrained weights.

    Raises:
        InputError: If a backbone is unknown or its weights cannot be had.
    """
    return FusionCNN(config.backbones, pretrained=config.pretrained, dropout=config.dropout)
