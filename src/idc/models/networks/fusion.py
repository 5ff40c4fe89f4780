"""The fusion CNN: pooled embeddings of several backbones, concatenated, one head, one logit."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from idc.core.config import ModelConfig
from idc.models.backbones.backbone import Backbone, create_backbone
from idc.models.networks.texture_member import TextureMember

CNN = "cnn"
"""Name of the logit that the fusion would give without its texture member."""


class FusionCNN(nn.Module):
    """Concatenate the embeddings of several backbones, then classify.

    With auxiliary heads each backbone also classifies for itself: it learns from a loss of its own
    (Lee 2015, deeply-supervised nets), and its score comes for free.

    A texture member, learnt apart, joins after the training (`join_texture`): then the logit is the
    mean of the backbones' and its own.

    Shape:
        images: (batch, 3, size_px, size_px) float32 in 0-1; each backbone normalises for itself.
        returns: (batch,) logits of IDC+.
    """

    def __init__(
        self,
        backbones: Sequence[Backbone],
        *,
        dropout: float,
        aux_heads: bool = False,
        freeze_backbones: bool = False,
        texture: TextureMember | None = None,
    ) -> None:
        """Build it, with a head for all members, among them `texture` where there is one."""
        super().__init__()
        self.backbones = nn.ModuleList(backbones)
        self._sizes = [backbone.num_features for backbone in self.branches]
        num_texture_features = 0 if texture is None else texture.num_features
        self.head = _create_head(sum(self._sizes) + num_texture_features, dropout)
        self.aux_heads = nn.ModuleList(
            _create_head(size, dropout) for size in self._sizes if aux_heads
        )
        self._frozen = freeze_backbones
        if freeze_backbones:
            self.backbones.requires_grad_(requires_grad=False)
        self.texture = texture

    @property
    def branches(self) -> list[Backbone]:
        """The backbones, typed."""
        return [module for module in self.backbones if isinstance(module, Backbone)]

    @property
    def members(self) -> list[Backbone | TextureMember]:
        """All that give an embedding, in its order: the backbones, then the texture member."""
        return [*self.branches, *([] if self.texture is None else [self.texture])]

    @property
    def scored_members(self) -> list[str]:
        """Names of the members with a logit of their own, as `classify_each` orders them."""
        names = [backbone.name for backbone in self.branches] if len(self.aux_heads) else []
        return names if self.texture is None else [*names, CNN, self.texture.name]

    @torch.no_grad()
    def join_texture(self, texture: TextureMember) -> None:
        """Let the logit become the mean of what it was and the texture member's.

        Args:
            texture: Learnt, on the network's device; it becomes a part of the network.
        """
        before = self._last_layer()
        joined = nn.Linear(before.in_features + texture.num_features, 1).to(before.weight)
        half = torch.full((1, texture.num_features), 0.5).to(before.weight)
        joined.weight.copy_(torch.cat([before.weight / 2, half], dim=1))
        joined.bias.copy_(before.bias / 2)
        self.head[-1] = joined
        self.texture = texture

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen backbones stay in evaluation mode, so their norms stay as well."""
        super().train(mode)
        if self._frozen:
            self.backbones.eval()
        return self

    def embed(self, images: Tensor) -> list[Tensor]:
        """Return the embedding (batch, num_features) of each member."""
        return [member(images) for member in self.members]

    def classify(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Return the logits (batch,) that the head gives to the concatenated embeddings."""
        logits: Tensor = self.head(torch.cat(list(embeddings), dim=1))
        return logits.squeeze(1)

    def classify_each(self, embedding: Tensor) -> Tensor:
        """Return the fused logit, then those of each member with a logit of its own.

        Args:
            embedding: The concatenated embeddings, (batch, all features).

        Returns:
            (batch, 1 + scored members), in the order of `scored_members`: with auxiliary heads each
            backbone; with a texture member the logit without it, then its own.
        """
        logits = [self.head(embedding)]
        of_backbones = embedding[:, : sum(self._sizes)]
        if len(self.aux_heads):
            parts = torch.split(of_backbones, self._sizes, dim=1)
            logits += [head(part) for head, part in zip(self.aux_heads, parts, strict=True)]
        if self.texture is not None:
            logits += [self._without_texture(of_backbones), embedding[:, sum(self._sizes) :]]
        return torch.cat(logits, dim=1)

    def _without_texture(self, of_backbones: Tensor) -> Tensor:
        """Undo the mean: return the logits (batch, 1) that the head gave before."""
        last = self._last_layer()
        weight = 2.0 * last.weight[:, : of_backbones.shape[1]]
        return nn.functional.linear(of_backbones, weight, 2.0 * last.bias)

    def _last_layer(self) -> nn.Linear:
        layer: nn.Linear = self.head[-1]  # type: ignore[assignment]
        return layer

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (batch,)."""
        return self.classify(self.embed(images))


class MemberLogits(nn.Module):
    """A fusion CNN whose output is the logit of every head, as `FusionCNN.classify_each`."""

    def __init__(self, model: FusionCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (batch, heads) of images (batch, 3, size_px, size_px)."""
        return self.model.classify_each(torch.cat(self.model.embed(images), dim=1))


class Embeddings(nn.Module):
    """A fusion CNN whose output is the concatenated embeddings of its members."""

    def __init__(self, model: FusionCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings (batch, all features) of images (batch, 3, size_px, size_px)."""
        return torch.cat(self.model.embed(images), dim=1)


class HeadLogits(nn.Module):
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
        [create_backbone(name, config.pretrained, config.size_px) for name in config.backbones],
        dropout=config.dropout,
        aux_heads=config.aux_heads,
        freeze_backbones=config.freeze_backbones,
    )


def _create_head(num_features: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(num_features, 1))
