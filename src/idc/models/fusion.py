"""The fusion CNN: pooled embeddings of several backbones, concatenated, one head, one logit."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from idc.config import ModelConfig
from idc.models.backbones import Backbone


class FusionCNN(nn.Module):
    """Concatenate the embeddings of several backbones, then classify.

    With auxiliary heads each backbone also classifies for itself: it learns from a loss of its own
    (Lee 2015, deeply-supervised nets), and its score comes for free.

    Shape:
        images: (batch, 3, size_px, size_px) float32 in 0-1; each backbone normalises for itself.
        returns: (batch,) logits of IDC+.
    """

    def __init__(
        self,
        backbones: Sequence[str],
        *,
        pretrained: str,
        dropout: float,
        stem_stride: int = 2,
        aux_heads: bool = False,
        freeze_backbones: bool = False,
    ) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(
            Backbone(name, pretrained, stem_stride=stem_stride) for name in backbones
        )
        self._sizes = [backbone.num_features for backbone in self.branches]
        self.head = _create_head(sum(self._sizes), dropout)
        self.aux_heads = nn.ModuleList(
            _create_head(size, dropout) for size in self._sizes if aux_heads
        )
        self._frozen = freeze_backbones
        if freeze_backbones:
            self.backbones.requires_grad_(requires_grad=False)

    @property
    def branches(self) -> list[Backbone]:
        """The backbones, typed."""
        return [module for module in self.backbones if isinstance(module, Backbone)]

    @property
    def scored_backbones(self) -> list[str]:
        """Names of the backbones with a head of their own, as `classify_each` orders them."""
        return [backbone.name for backbone in self.branches] if len(self.aux_heads) else []

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen backbones stay in evaluation mode, so their norms stay as well."""
        super().train(mode)
        if self._frozen:
            self.backbones.eval()
        return self

    def embed(self, images: Tensor) -> list[Tensor]:
        """Return the pooled embedding (batch, num_features) of each backbone."""
        return [backbone(images) for backbone in self.branches]

    def classify(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Return the logits (batch,) that the head gives to the concatenated embeddings."""
        logits: Tensor = self.head(torch.cat(list(embeddings), dim=1))
        return logits.squeeze(1)

    def classify_each(self, embedding: Tensor) -> Tensor:
        """Return the logits of the fusion head, then of each auxiliary head.

        Args:
            embedding: The concatenated embeddings, (batch, all features).

        Returns:
            (batch, 1), or (batch, 1 + backbones) with auxiliary heads.
        """
        logits = [self.head(embedding)]
        if len(self.aux_heads):
            parts = torch.split(embedding, self._sizes, dim=1)
            logits += [head(part) for head, part in zip(self.aux_heads, parts, strict=True)]
        return torch.cat(logits, dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (batch,)."""
        return self.classify(self.embed(images))


class EachLogit(nn.Module):
    """A fusion CNN whose output is the logit of every head, as `FusionCNN.classify_each`."""

    def __init__(self, model: FusionCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (batch, heads) of images (batch, 3, size_px, size_px)."""
        return self.model.classify_each(torch.cat(self.model.embed(images), dim=1))


class EachHead(nn.Module):
    """The heads alone, for embeddings computed before."""

    def __init__(self, model: FusionCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the logits (batch, heads) of concatenated embeddings (batch, features)."""
        return self.model.classify_each(embedding)


def create_fusion(config: ModelConfig) -> FusionCNN:
    """Build the network that `params.yaml` asks for, with its pretrained weights.

    Raises:
        InputError: If a backbone is unknown or its weights cannot be had.
    """
    return FusionCNN(
        config.backbones,
        pretrained=config.pretrained,
        dropout=config.dropout,
        stem_stride=config.stem_stride,
        aux_heads=config.aux_heads,
        freeze_backbones=config.freeze_backbones,
    )


def _create_head(num_features: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(num_features, 1))
