"""A finished pipeline as MLflow should know it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from idc.core.config import Params


@dataclass(frozen=True)
class Result:
    """Everything that MLflow should know of one finished pipeline."""

    digest: str
    """Names the combination of data, code, parameters and results."""
    model_digest: str
    """Names the trained weights."""
    commit: str
    params: Params
    num_training_patches: tuple[int, int]
    """Of IDC- and of IDC+."""
    figures: Mapping[str, float]
    """All final figures by `<subset>/<name>`, such as `test/auroc`; the run shows some of them."""
    evaluation: Mapping[str, Any]
    """What `reports/evaluation.json` holds: `ablation` and `subgroups` are read."""
    scores: Mapping[str, Any] | None
    """What `reports/explain/scores.json` holds, None where no attribution method is scored."""
    history: pd.DataFrame
    """One row per epoch: `epoch`, `train_loss`, `val_auroc`, `learning_rate`."""
    raw_digest: str
    manifest_digest: str
    artifacts: Mapping[str, Path]
    """File or folder by name; they stand at the top of the run's artifacts."""
    model_card: str
    """Markdown."""
    bundle: Path
    operating_point: Path
