"""Networks with random weights, of timm's names, and what a model of them says of itself."""

from collections.abc import Sequence
from typing import Any

from idc.models.backbones.backbone import Backbone, create_backbone
from idc.models.networks.fusion import FusionCNN
from idc.models.spec import Architecture, ModelSpec

SIZE_PX = 32


def random_backbone(name: str, size_px: int = SIZE_PX) -> Backbone:
    return create_backbone(name, "none", size_px)


def random_fusion(names: Sequence[str], *, size_px: int = SIZE_PX, **options: Any) -> FusionCNN:
    """Build a fusion CNN; `options` are those of `FusionCNN`."""
    return FusionCNN([random_backbone(name, size_px) for name in names], **options)


def tiny_spec(names: Sequence[str] = ("test_resnet",), **changes: Any) -> ModelSpec:
    """Describe a fusion CNN from scratch; `changes` are fields of `ModelSpec`."""
    facts: dict[str, Any] = {
        "backbones": list(names),
        "architectures": [Architecture(name) for name in names],
        "pretrained": "none",
        "size_px": SIZE_PX,
        "dropout": 0.0,
        "aux_heads": False,
        "texture_member": False,
        "class_weights": [1.0, 1.0],
        "num_training_patches": [6, 6],
        "best_epoch": 1,
        "val_auroc": 0.5,
    }
    return ModelSpec(**(facts | changes))
