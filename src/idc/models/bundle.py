"""A trained model as a folder: safetensors and JSON, no pickle.

`model.safetensors` (weights and normalisation), `profile.safetensors` (mean training embedding),
`spec.json` (how to rebuild the network), `history.csv` (one row per epoch), and `SHA256SUMS`, by
which every reader tells a file that is not what was written.
"""

from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from idc.core.checksums import require_unchanged, write_sums
from idc.core.errors import InputError
from idc.core.files import load_json, replacing_folder, save_json
from idc.models.backbones.backbone import Backbone, rebuild_backbone
from idc.models.networks.fusion import FusionCNN
from idc.models.networks.texture_member import TextureMember
from idc.models.spec import HISTORY, OLD_STEM_STRIDE, SPEC, WEIGHTS, ModelSpec, load_spec

_PROFILE = "profile.safetensors"


def save_bundle(
    folder: Path,
    state: dict[str, Tensor],
    spec: ModelSpec,
    history: pd.DataFrame,
    mean_embedding: Tensor,
) -> None:
    """Write the folder; it appears under its name only when whole."""
    with replacing_folder(folder) as partial:
        weights = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
        save_file(weights, partial / WEIGHTS)
        save_file({"mean_embedding": mean_embedding.contiguous().cpu()}, partial / _PROFILE)
        save_json(partial / SPEC, asdict(spec))
        history.to_csv(partial / HISTORY, index=False)
        write_sums(partial)


def load_model(folder: Path) -> tuple[FusionCNN, ModelSpec]:
    """Rebuild the network on the CPU in evaluation mode, in channels_last memory.

    Raises:
        InputError: If the weights are missing, damaged, or of another architecture, or if they
            were trained with another stride of the first convolutions than their own.
    """
    spec = load_spec(folder)
    require_unchanged(folder, WEIGHTS)
    model = FusionCNN(
        _rebuild_backbones(spec, folder),
        dropout=spec.dropout,
        aux_heads=spec.aux_heads,
        texture=TextureMember(spec.size_px) if spec.texture_member else None,
    )
    path = folder / WEIGHTS
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} does not hold this network: {reason}") from None
    _require_own_stem_strides(model, folder)
    model.eval()
    return model.to(memory_format=torch.channels_last), spec


def _rebuild_backbones(spec: ModelSpec, folder: Path) -> list[Backbone]:
    pairs = zip(spec.backbones, spec.architectures, strict=True)
    try:
        return [rebuild_backbone(name, each, spec.size_px) for name, each in pairs]
    except InputError as error:
        raise error.found_in(folder / SPEC) from None


def _require_own_stem_strides(model: FusionCNN, folder: Path) -> None:
    """Reject weights that an older version trained with changed strides: they fit, but mislead."""
    recorded = load_json(folder / SPEC).get(OLD_STEM_STRIDE)
    for backbone in model.branches:
        own = backbone.net.get_submodule(backbone.net.pretrained_cfg["first_conv"]).stride[0]
        if recorded not in (None, own):
            raise InputError(
                f"{folder / SPEC}: {backbone.name} was trained with stem_stride {recorded}, now it "
                f"keeps its own of {own}: retrain, or use the code of that time"
            )


def load_mean_embedding(folder: Path) -> Tensor:
    """Read the mean concatenated embedding of the training patches, float32 (num_features,).

    Raises:
        InputError: If it is missing or damaged.
    """
    path = folder / _PROFILE
    require_unchanged(folder, _PROFILE)
    try:
        return load_file(path)["mean_embedding"]
    except (SafetensorError, FileNotFoundError, KeyError) as error:
        raise InputError(f"{path} holds no mean embedding ({str(error)[:200]}): retrain") from None
