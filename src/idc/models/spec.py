"""What a trained model's folder (`idc.models.bundle`) says of the model, read without torch.

Importing torch and timm takes seconds, and whoever evaluates or reports needs no network.
"""

import hashlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from idc.core.checksums import file_sha256, require_unchanged
from idc.core.config import MAX_BACKBONES, Dropout, SizePx
from idc.core.errors import InputError
from idc.core.files import load_json

WEIGHTS = "model.safetensors"
SPEC = "spec.json"
HISTORY = "history.csv"

OLD_STEM_STRIDE = "stem_stride"
"""Recorded by older specs, in whose time it was a parameter; the weights alone do not show it."""


@dataclass(frozen=True)
class Architecture:
    """What timm builds a backbone by, without its weights."""

    name: str
    """In timm's registry."""
    args: dict[str, Any] = field(default_factory=dict)
    """What timm's function of that name takes, as JSON can say it."""


@dataclass(frozen=True)
class StartingWeights:
    """The pretrained weights that a backbone's training began with."""

    backbone: str
    origin: str
    """The hub's repository, or the name of the file; no folder, which is of one machine."""
    licence: str | None
    """As the source says it; None where it says nothing."""
    sha256: str | None
    """Digest of the file; None where only timm's own cache has it."""


@dataclass(frozen=True)
class ModelSpec:
    """What is needed to rebuild and to describe a trained network."""

    backbones: Annotated[list[str], Field(min_length=1, max_length=MAX_BACKBONES)]
    """What tables, metrics and reports call them."""
    pretrained: str
    size_px: SizePx
    dropout: Dropout
    aux_heads: bool
    texture_member: bool
    class_weights: Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]
    """Weight of IDC- and of IDC+ in the training loss."""
    num_training_patches: Annotated[list[int], Field(min_length=2, max_length=2)]
    """Training patches of IDC- and of IDC+."""
    best_epoch: int
    """Epoch (from 1) whose weights these are."""
    val_auroc: FiniteFloat
    """AUROC on all pool patches of the val cases at that epoch, of the CNN without a texture
    member."""
    architectures: Annotated[list[Architecture], Field(min_length=1, max_length=MAX_BACKBONES)]
    """Of the backbones, in their order; so a model needs nothing of where they came from."""
    starting_weights: list[StartingWeights] = field(default_factory=list)
    """Of the backbones, in their order; none from scratch, or of a time before they were kept."""


_SPEC = TypeAdapter(ModelSpec)


def load_spec(folder: Path) -> ModelSpec:
    """Read how the model was built.

    Raises:
        InputError: If the folder is missing, or its spec has other fields or values that no model
            has.
    """
    path = folder / SPEC
    content: Any = load_json(path)
    require_unchanged(folder, SPEC)
    if not isinstance(content, dict):
        raise InputError(f"{path} describes no model: retrain")
    content.pop(OLD_STEM_STRIDE, None)
    if "architectures" not in content:  # of a time when every backbone was a name of timm's
        names = content.get("backbones")
        content["architectures"] = (
            [{"name": name} for name in names] if isinstance(names, list) else names
        )
    content.setdefault("starting_weights", [])
    known = {each.name for each in fields(ModelSpec)}
    if content.keys() != known:
        other = ", ".join(sorted(content.keys() ^ known))
        raise InputError(f"{path} is of another version ({other[:200]}): retrain")
    try:
        spec = _SPEC.validate_python(content)
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(f"{path}: {fault['loc'][0]}: {fault['msg'].lower()}: retrain") from None
    if len(spec.architectures) != len(spec.backbones):
        raise InputError(f"{path}: each backbone has one of architectures: retrain")
    return spec


def load_history(folder: Path) -> pd.DataFrame:
    """Read the training history: `epoch`, `train_loss`, `val_auroc`, `learning_rate`.

    Raises:
        InputError: If it is missing or damaged.
    """
    path = folder / HISTORY
    require_unchanged(folder, HISTORY)
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} holds no training history ({reason}): retrain") from None


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
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()
