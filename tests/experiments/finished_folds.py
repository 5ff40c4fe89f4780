"""A small plan of experiments, and what their finished folds leave behind."""

import numpy as np
import pandas as pd
import yaml

from idc.core.files import save_json
from idc.core.layout import DVC_LOCK, LEAKAGE_REPORT
from idc.experiments.folds import RESULTS
from idc.experiments.results import pool_results
from tests.score_tables import save_scores

NUM_FOLDS = 3
LEAKAGE = {"subsets": {"train": {"num_patches": 60, "num_cases": 3}},
           "share_touching_train": {"val": 0.0, "test": 0.25}}  # fmt: skip
PLAN = {
    "base": {"name": "tiny", "overrides": {"train.epochs": 1}},
    "folds": {"num_folds": NUM_FOLDS, "only": None},
    "variants": {"better": {"train.learning_rate": 0.01}},
}
REPEATED = PLAN["base"] | {"repeats": {"again": {"seeds.training": 18}}}


def write_fold(workspace, fold, strength, digest="1a.dir"):
    """What the stages of a fold leave behind: it tests block k, its val set is the next block."""
    parts = []
    for split, block in (("test", fold), ("val", (fold + 1) % NUM_FOLDS)):
        rng = np.random.default_rng([1, block])
        y_true = (rng.random(120) < 0.4).astype(np.int8)
        noise, number = rng.normal(size=120), rng.integers(0, 3, 120)
        parts.append(
            pd.DataFrame(
                {
                    "case": [f"b{block}c{n}" for n in number],
                    "x": 50 * np.arange(120, dtype=np.int32) + 1,
                    "y": np.int32(1),
                    "split": split,
                    "in_manifest": False,
                    "sliver": False,
                    "mean_optical_density": 0.3,
                    "white_share": 0.1,
                    "y_true": y_true,
                    "logit": (strength * y_true + noise).astype(np.float32),
                    "y_score_colour": 0.5,
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "row", np.arange(len(table), dtype=np.int64))
    save_scores(workspace, table)
    save_json(workspace / LEAKAGE_REPORT, LEAKAGE)
    lock = {"stages": {"train": {"outs": [{"path": "models/fusion", "md5": digest}]}}}
    (workspace / DVC_LOCK).write_text(yaml.safe_dump(lock), encoding="utf-8")
    return workspace


def write_results(project, name, strength, models_of=None):
    """The results of a training; or of the models of another one, scored otherwise."""
    workspaces = {
        fold: write_fold(
            project / f"{name.replace('/', '-')}-{fold}", fold, strength,
            digest=f"{models_of or name} {fold}.dir",
        )
        for fold in range(NUM_FOLDS)
    }  # fmt: skip
    pool_results(project, name, "case", workspaces)
    return project / RESULTS / name / "predictions.parquet"


def write_baselines(project, like, **columns):
    table = pd.read_parquet(like)[["case", "x", "y", "y_true", "fold"]].assign(**columns)
    path = project / "baselines.parquet"
    table.sample(frac=1.0, random_state=2).to_parquet(path, index=False)
    return path
