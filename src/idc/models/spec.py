"""What a trained model's folder (`idc.models.bundle`) says of the model, read without torch.

Importing torch and timm takes seconds, and whoever evaluates or reports needs no network.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from idc.core.errors import InputError
from idc.core.files import load_json

WEIGHTS = "model.safetensors"
SPEC = "spec.json"
HISTORY = "history.csv"

OLD_STEM_STRIDE = "stem_stride"
"""Recorded by older specs, in whose time it was a parameter; the weights alone do not show it."""


@dataclass(frozen=True)
class ModelSpec:
    """What is needed to rebuild and to describe a trained network."""

    backbones: list[str]
    pretrained: str
    size_px: int
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


def load_spec(folder: Path) -> ModelSpec:
    """Read how the model was built.

    Raises:
        InputError: If the folder is missing or its spec has other fields.
    """
    content: dict[str, Any] = load_json(folder / SPEC)
    content.pop(OLD_STEM_STRIDE, None)
    try:
        return ModelSpec(**content)
    except TypeError as error:
        raise InputError(f"{folder / SPEC} is of another version ({error}): retrain") from None


def load_history(folder: Path) -> pd.DataFrame:
    """Read the training history: `epoch`, `train_loss`, `val_auroc`, `learning_rate`."""
    return pd.read_csv(folder / HISTORY)


def digest_bundle(folder: Path) -> str:
    """Return 64 hex digits that name the trained weights and their spec.

    Raises:
        InputError: If there is no model.
    """
    digest = hashlib.sha256()
    for name in (SPEC, WEIGHTS):
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing: run `dvc repro train`")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
