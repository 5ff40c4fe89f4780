"""A trained model as a folder: safetensors and JSON, no pickle.

`model.safetensors` (weights and normalisation), `profile.safetensors` (mean training embedding),
`spec.json` (how to rebuild the network), `history.csv` (one row per epoch).
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from idc.errors import InputError
from idc.files import load_json, replacing_folder, save_json
from idc.models.fusion import FusionCNN
from idc.models.texture_member import TextureMember

_WEIGHTS = "model.safetensors"
_PROFILE = "profile.safetensors"
_SPEC = "spec.json"
_HISTORY = "history.csv"


@dataclass(frozen=True)
class ModelSpec:
    """What is needed to rebuild and to describe a trained network."""

    backbones: list[str]
    pretrained: str
    size_px: int
    stem_stride: int
    dropout: float
    aux_heads: bool
    texture_member: bool
    class_weights: list[float]
    """Weight of IDC- and of IDC+ in the training loss."""
    num_training_patches: list[int]
    """Training patches of IDC- and of IDC+."""
    best_epoch: int
    """Epoch (from 1) whose weights these are."""
    val_auroc: float
    """AUROC on all pool patches of the val cases at that epoch, of the CNN without a texture
    member."""


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
        save_file(weights, partial / _WEIGHTS)
        save_file({"mean_embedding": mean_embedding.contiguous().cpu()}, partial / _PROFILE)
        save_json(partial / _SPEC, asdict(spec))
        history.to_csv(partial / _HISTORY, index=False)


def load_spec(folder: Path) -> ModelSpec:
    """Read how the model was built.

    Raises:
        InputError: If the folder is missing or its spec has other fields.
    """
    content: dict[str, Any] = load_json(folder / _SPEC)
    try:
        return ModelSpec(**content)
    except TypeError as error:
        raise InputError(f"{folder / _SPEC} is of another version ({error}): retrain") from None


def load_model(folder: Path) -> tuple[FusionCNN, ModelSpec]:
    """Rebuild the network on the CPU in evaluation mode, in channels_last memory.

    Raises:
        InputError: If the weights are missing, truncated, or of another architecture.
    """
    spec = load_spec(folder)
    model = FusionCNN(
        spec.backbones,
        pretrained="none",
        dropout=spec.dropout,
        stem_stride=spec.stem_stride,
        aux_heads=spec.aux_heads,
        texture=TextureMember(spec.size_px) if spec.texture_member else None,
    )
    path = folder / _WEIGHTS
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} does not hold this network: {reason}") from None
    model.eval()
    return model.to(memory_format=torch.channels_last), spec


def load_mean_embedding(folder: Path) -> Tensor:
    """Read the mean concatenated embedding of the training patches, float32 (num_features,).

    Raises:
        InputError: If it is missing or truncated.
    """
    path = folder / _PROFILE
    try:
        return load_file(path)["mean_embedding"]
    except (SafetensorError, FileNotFoundError, KeyError) as error:
        raise InputError(f"{path} holds no mean embedding ({str(error)[:200]}): retrain") from None


def load_history(folder: Path) -> pd.DataFrame:
    """Read the training history: `epoch`, `train_loss`, `val_auroc`, `learning_rate`."""
    return pd.read_csv(folder / _HISTORY)


def digest_bundle(folder: Path) -> str:
    """Return 64 hex digits that name the trained weights and their spec.

    Raises:
        InputError: If there is no model.
    """
    digest = hashlib.sha256()
    for name in (_SPEC, _WEIGHTS):
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing: run `dvc repro train`")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
