"""The models a fusion CNN must beat, on the same splits: `make bench-baselines`.

Each baseline trains on the rows of train, is scored on every pool patch of val and test, takes its
threshold from val and is judged on test. With equal splits the figures stand beside those of
`reports/metrics.json`.
"""

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.measuring import describe_machine, describe_versions, print_result
from idc.core import layout
from idc.core.errors import InputError
from idc.core.files import replacing_file
from idc.core.processes import count_cores
from idc.data.patches import load_pixels
from idc.data.tables import SPLITS_SCHEMA, load_table
from idc.evaluation.statistics.bootstrap import Bootstrap, Estimate, bootstrap_metrics
from idc.evaluation.threshold.calibration import choose_threshold
from idc.models.baselines.fit import BASELINES, score_baseline

SEED = 17
NUM_REPLICATES = 2000
SUBSETS = ("val", "test")


def main() -> None:
    """Print seconds, AUROC and balanced accuracy on test per baseline, one key=value line each."""
    options = _parse()
    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(options.threads)
    print(describe_machine())
    print(describe_versions("scikit-learn", "torch", "numpy"))
    try:
        pixels = load_pixels(options.pixels / layout.PIXELS.name)
        scores = score_splits(
            pixels, load_table(options.splits, SPLITS_SCHEMA), options.models, options.seed
        )
        for name in options.models:
            print_result(model=name, **judge(scores, name, options.seed))
        if options.out:
            with replacing_file(options.out) as partial:
                scores.to_parquet(partial, index=False)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


def score_splits(
    pixels: np.ndarray, splits: pd.DataFrame, models: list[str], seed: int
) -> pd.DataFrame:
    """Train each baseline on train and score every pool patch of val and test.

    Args:
        pixels: uint8 (patches, 50, 50, 3) RGB, may be memory-mapped.
        splits: As `idc.data.tables.SPLITS_SCHEMA` says.
        models: Names of baselines.
        seed: Seed of every training.

    Returns:
        Columns `case`, `x`, `y`, `y_true`, `split`, and the scores of each baseline under its
        name, float64 in [0, 1].

    Raises:
        InputError: If splits and pixels do not belong together, or train lacks a class.
    """
    train = splits[splits["split"] == "train"]
    scored = splits[splits["split"].isin(SUBSETS)]
    scores = scored[["case", "x", "y", "label", "split"]].rename(columns={"label": "y_true"})
    for name in models:
        start = time.perf_counter()
        scores[name] = score_baseline(
            name,
            pixels,
            train["row"].to_numpy(),
            train["label"].to_numpy(),
            scored["row"].to_numpy(),
            seed,
        )
        print(
            f"{name}: {len(train):,} patches trained and {len(scored):,} scored "
            f"in {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return scores.reset_index(drop=True)


def judge(scores: pd.DataFrame, name: str, seed: int) -> dict[str, float]:
    """Return what one baseline reaches on test, at the threshold that Youden's index finds on val.

    Args:
        scores: As `score_splits` returns them.
        name: The baseline.
        seed: Seed of the case bootstrap.

    Returns:
        `auroc` and `balanced_accuracy`, each with `_low` and `_high` of its 95 % interval.

    Raises:
        InputError: If a subset lacks a class, or test has fewer than three cases.
    """
    val, test = (scores[scores["split"] == subset] for subset in SUBSETS)
    threshold = choose_threshold(val["y_true"].to_numpy(), val[name].to_numpy(), "youden")
    estimates = bootstrap_metrics(
        test["y_true"].to_numpy(),
        test[name].to_numpy(),
        test["case"].to_numpy(),
        threshold,
        Bootstrap(NUM_REPLICATES, seed),
    )
    return _flatten({key: estimates[key] for key in ("auroc", "balanced_accuracy")})


def _flatten(estimates: dict[str, Estimate]) -> dict[str, float]:
    return {
        f"{name}{suffix}": value
        for name, estimate in estimates.items()
        for suffix, value in (
            ("", estimate.value), ("_low", estimate.low), ("_high", estimate.high),
        )
    }  # fmt: skip


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pixels", type=Path, help="the folder of pixels.npy, such as data/patches")
    parser.add_argument("--splits", type=Path, default=layout.SPLITS)
    parser.add_argument("--models", nargs="+", choices=list(BASELINES), default=list(BASELINES))
    parser.add_argument("--out", type=Path, help="a Parquet file for the scores")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=count_cores(), help="CPU threads of torch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
