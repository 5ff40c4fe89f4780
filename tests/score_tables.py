"""The two tables of scores that evaluate and the experiments read, from one."""

from pathlib import Path

import pandas as pd

from idc.core.layout import BASELINE_SCORES, PREDICTIONS
from idc.data.tables import BASELINE_SCORES_SCHEMA, PREDICTIONS_SCHEMA, save_table


def save_scores(root: Path, scores: pd.DataFrame) -> None:
    """Write what `predict` and `baselines` would: columns `y_score_*` are the baselines'."""
    of_baselines = [name for name in scores.columns if name.startswith("y_score_")]
    save_table(root / PREDICTIONS, scores.drop(columns=of_baselines), PREDICTIONS_SCHEMA)
    save_table(root / BASELINE_SCORES, scores[["row", *of_baselines]], BASELINE_SCORES_SCHEMA)
