"""The gate: cases used for promotion decisions only, so that test is never used for them."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from idc.core.config import RuntimeConfig
from idc.core.errors import InputError
from idc.evaluation.threshold.operating_point import OperatingPoint
from idc.models.bundle import load_model
from idc.models.networks.device import choose_device
from idc.models.scoring.patches import PatchScorer
from idc.models.spec import digest_bundle

_MAX_NAMED = 5
_SEEN = ("train", "val")


@dataclass(frozen=True)
class Gate:
    """All pool patches of the gate cases, and their pixels."""

    patches: pd.DataFrame
    """Rows following `idc.data.tables.SPLITS_SCHEMA`, ordered by case, x and y."""
    pixels: np.ndarray
    """The whole store, uint8 (patches, 50, 50, 3); `patches["row"]` points into it."""

    @property
    def cases(self) -> frozenset[str]:
        """The ids of the cases."""
        return frozenset(self.patches["case"])

    @property
    def y_true(self) -> np.ndarray:
        """Labels, 0 or 1, int8 (patches,)."""
        return self.patches["label"].to_numpy()

    def digest(self) -> str:
        """Return 64 hex digits over case, position, label and current pixels of every patch."""
        digest = hashlib.sha256()
        names = self.patches[["case", "x", "y", "label"]].astype(str).agg(",".join, axis=1)
        for name, row in zip(names, self.patches["row"], strict=True):
            digest.update(f"{name};".encode())
            digest.update(self.pixels[row].tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class GateScores:
    """The predictions of one model on the gate, at its own frozen operating point."""

    y_score: np.ndarray
    """Calibrated probability of IDC+, float64 (patches,)."""
    y_pred: np.ndarray
    """Decision, 0 or 1, int8 (patches,)."""


def take_gate(splits: pd.DataFrame, pixels: np.ndarray) -> Gate:
    """Return today's gate.

    Args:
        splits: Follows `idc.data.tables.SPLITS_SCHEMA`.
        pixels: The pixel store.

    Raises:
        InputError: If no case is in the gate, or its patches are all of one class.
    """
    patches = splits[splits["split"] == "gate"].sort_values(["case", "x", "y"], ignore_index=True)
    if patches.empty:
        raise InputError(
            "the gate is empty, so nothing can be promoted: give split.fractions.gate (or a list "
            "split.lists.gate) some cases and run `make repro`"
        )
    if patches["label"].nunique() < 2:
        held = "IDC+" if patches["label"].iloc[0] else "IDC-"
        raise InputError(
            f"the {len(patches)} gate patches are all {held}, a decision needs both classes: "
            "give the gate more cases"
        )
    return Gate(patches, pixels)


def reject_seen_cases(gate_cases: Collection[str], splits: pd.DataFrame, model: str) -> None:
    """Check that a model was neither trained nor selected nor calibrated on a gate case.

    Args:
        gate_cases: Case ids of today's gate.
        splits: The split that the model was made with.
        model: Name of the model, for the message.

    Raises:
        InputError: Naming the cases that it has seen.
    """
    seen = sorted(set(splits.loc[splits["split"].isin(_SEEN), "case"]) & set(gate_cases))
    if seen:
        shown = ", ".join(seen[:_MAX_NAMED]) + (", …" if len(seen) > _MAX_NAMED else "")
        raise InputError(
            f"{model} has seen {len(seen)} gate case(s) in training or validation: {shown}; it "
            "cannot be compared on them: train it anew with today's subsets, or choose another gate"
        )


def score_gate(
    gate: Gate, bundle: Path, operating_point: Path, runtime: RuntimeConfig
) -> GateScores:
    """Score the gate as the stage `predict` does, and decide as the served model does.

    Args:
        gate: Today's gate.
        bundle: The trained model, as `idc.models.bundle` writes it.
        operating_point: Calibration and threshold frozen for it.
        runtime: Device, threads and patches per pass.

    Raises:
        InputError: If the model is damaged or of another version, or the operating point belongs to
            another model.
    """
    model, spec = load_model(bundle)
    point = OperatingPoint.load(operating_point, model_digest=digest_bundle(bundle))
    device = choose_device(runtime)
    scorer = PatchScorer(model.to(device), spec.size_px, runtime.scoring_batch_size, device)
    rows = gate.patches["row"].to_numpy()
    logits = scorer.score(gate.pixels, rows, d4_average=point.d4_average)
    return GateScores(point.score(logits), point.predict(logits))
