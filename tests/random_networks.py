"""Networks with random weights, of timm's names."""

from collections.abc import Sequence
from typing import Any

from idc.models.backbones.backbone import Backbone, create_backbone
from idc.models.networks.fusion import FusionCNN

SIZE_PX = 32


def random_backbone(name: str, size_px: int = SIZE_PX) -> Backbone:
    return create_backbone(name, "none", size_px)


def random_fusion(names: Sequence[str], *, size_px: int = SIZE_PX, **options: Any) -> FusionCNN:
    """Build a fusion CNN; `options` are those of `FusionCNN`."""
    return FusionCNN([random_backbone(name, size_px) for name in names], **options)
