"""Ways to average scores over a patch and those around it: `make bench-context SCORES=FILE`.

The file is a scoring file of a cross-validation (`idc.experiments.folds`), such as those in
docs/scores. What a way fits, it fits for each fold on as many cases as a val set has, drawn from
the other folds, several times with other cases. Only rankings are compared: no line is fitted
through the means, which would shift whole folds.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from benchmarks.measuring import describe_machine, print_result
from idc.core.errors import InputError
from idc.evaluation.cases.burden import find_complete_cases
from idc.evaluation.cases.context import (
    Kernel,
    average_context,
    distance_to_border,
    fit_gaussian,
)
from idc.evaluation.compare import compare_scorings
from idc.evaluation.statistics.bootstrap import Bootstrap
from idc.evaluation.statistics.metrics import auroc
from idc.experiments.results import load_scorings

SEED = 17
NUM_REPLICATES = 2000

Average = Callable[[pd.DataFrame], np.ndarray]
"""Patches -> their averaged log-odds, (patches,)."""
Fit = Callable[[pd.DataFrame], Average]
"""What is learnt from labelled patches."""


def main() -> None:
    """Print AUROC and the difference to mean9 per way and kind of patch, one key=value line."""
    options = _parse()
    print(describe_machine())
    try:
        patches = load_scorings(options.scores)[["case", "x", "y", "y_true", "fold", "logit"]]
        patches = patches.reset_index(drop=True)
        groups = group_patches(patches)
        reference = score(patches, mean9, 1, options.cases)[0]
        for name, fit in WAYS.items():
            rounds = score(patches, fit, 1 if fit in FIXED else options.rounds, options.cases)
            for group, inside in groups.items():
                print_result(way=name, patches=group, **judge(patches, rounds, reference, inside))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


def score(patches: pd.DataFrame, fit: Fit, rounds: int, num_cases: int) -> list[np.ndarray]:
    """Return the averaged log-odds of every patch, float64 (patches,), once a round."""
    return [_score_folds(patches, fit, num_cases, np.random.default_rng(r)) for r in range(rounds)]


def _score_folds(
    patches: pd.DataFrame, fit: Fit, num_cases: int, rng: np.random.Generator
) -> np.ndarray:
    averaged = np.empty(len(patches))
    for fold in np.unique(patches["fold"]):
        tested = (patches["fold"] == fold).to_numpy()
        others = patches.loc[~tested, "case"].unique()
        drawn = rng.choice(others, min(num_cases, len(others)), replace=False)
        averaged[tested] = fit(patches[patches["case"].isin(drawn)])(patches[tested])
    return averaged


def group_patches(patches: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return which patches are of a kind, bool (patches,)."""
    case, x, y, y_true = (patches[name].to_numpy() for name in ("case", "x", "y", "y_true"))
    complete = patches["case"].isin(find_complete_cases(case, x, y)).to_numpy()
    places = distance_to_border(case, x, y, y_true, max_distance=2)
    return {
        "all": np.ones(len(patches), bool),
        "of complete cases": complete,
        "of sparse cases": ~complete,
        "at a border": places["is_border"].to_numpy(),
        "inside": places["is_interior"].to_numpy(),
    }


def judge(
    patches: pd.DataFrame, rounds: list[np.ndarray], reference: np.ndarray, inside: np.ndarray
) -> dict[str, float]:
    """Return the median AUROC over the rounds, their spread, and that round minus the reference."""
    y_true = patches["y_true"].to_numpy()[inside]
    reached = [auroc(y_true, averaged[inside]) for averaged in rounds]
    median = int(np.argsort(reached)[len(reached) // 2])
    first, second = (
        patches.loc[inside, ["case", "x", "y", "y_true"]].assign(y_score=averaged[inside])
        for averaged in (reference, rounds[median])
    )
    gain = compare_scorings(first, second, Bootstrap(NUM_REPLICATES, SEED))["auroc"]
    return {
        "auroc": reached[median],
        "lowest": min(reached),
        "highest": max(reached),
        "minus_mean9": gain.value,
        "low": gain.low,
        "high": gain.high,
    }


def _average(patches: pd.DataFrame, kernel: Kernel) -> np.ndarray:
    case, x, y, logit = (patches[name].to_numpy() for name in ("case", "x", "y", "logit"))
    return average_context(case, x, y, logit, kernel)


def alone(_val: pd.DataFrame) -> Average:
    """Nothing is averaged."""
    return lambda patches: patches["logit"].to_numpy(np.float64)


def mean9(_val: pd.DataFrame) -> Average:
    """Equal weights over the touching patches."""
    return lambda patches: _average(patches, Kernel("mean9"))


def _fit_kernel(val: pd.DataFrame) -> Kernel:
    names = ("case", "x", "y", "logit", "y_true")
    case, x, y, logit, y_true = (val[name].to_numpy() for name in names)
    return fit_gaussian(case, x, y, logit, y_true)


def gaussian(val: pd.DataFrame) -> Average:
    """One width, fitted."""
    kernel = _fit_kernel(val)
    return lambda patches: _average(patches, kernel)


def four_scales(val: pd.DataFrame) -> Average:
    """Logistic regression on the patch alone and three Gaussian means of it, .7, 1.5 and 3."""
    from sklearn.linear_model import LogisticRegression

    def describe(patches: pd.DataFrame) -> np.ndarray:
        means = [_average(patches, Kernel("gaussian", width)) for width in (0.7, 1.5, 3.0)]
        return np.stack([patches["logit"].to_numpy(np.float64), *means], axis=1)

    weights = LogisticRegression(C=0.01).fit(describe(val), val["y_true"]).coef_[0]
    return lambda patches: describe(patches) @ (weights / weights.sum())


def free_kernel(reach: int) -> Fit:
    """A weight for each distance up to `reach` patches, 2 (3x3), 5 (5x5) or 9 (7x7) of them."""

    def fit(val: pd.DataFrame) -> Average:
        sums, numbers = _sum_rings(val, reach)
        sign = 2.0 * val["y_true"].to_numpy() - 1.0

        def log_loss(values: np.ndarray) -> float:
            weights = np.exp(np.concatenate([[0.0], values[2:]]))
            line = values[0] * (weights @ sums) / (weights @ numbers) + values[1]
            return float(np.logaddexp(0, -sign * line).mean() + 1e-3 * (values[2:] ** 2).sum())

        start = np.concatenate([[1.0, 0.0], np.zeros(len(sums) - 1)])
        limits = [(0.05, 5.0), (-5.0, 5.0), *[(-6.0, 3.0)] * (len(sums) - 1)]
        found = minimize(log_loss, start, method="L-BFGS-B", bounds=limits).x
        weights = np.exp(np.concatenate([[0.0], found[2:]]))

        def average(patches: pd.DataFrame) -> np.ndarray:
            sums, numbers = _sum_rings(patches, reach)
            averaged: np.ndarray = (weights @ sums) / (weights @ numbers)
            return averaged

        return average

    return fit


def _sum_rings(patches: pd.DataFrame, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and numbers of the logits around each patch by distance, (rings, patches)."""
    table = patches.reset_index(drop=True)
    here = pd.MultiIndex.from_frame(table[["case", "x", "y"]])
    logit = table["logit"].to_numpy(np.float64)
    rings = sorted({dx * dx + dy * dy for dx in range(reach + 1) for dy in range(reach + 1)})
    sums, numbers = np.zeros((2, len(rings), len(table)))
    for dx in range(-reach, reach + 1):
        for dy in range(-reach, reach + 1):
            there = table.assign(x=table["x"] + 50 * dx, y=table["y"] + 50 * dy)
            at = here.get_indexer(pd.MultiIndex.from_frame(there[["case", "x", "y"]]))
            ring = rings.index(dx * dx + dy * dy)
            sums[ring] += np.where(at >= 0, logit[at], 0.0)
            numbers[ring] += at >= 0
    return sums, numbers


def probabilities(val: pd.DataFrame) -> Average:
    """The same Gaussian over probabilities instead of log-odds."""
    kernel = _fit_kernel(val)
    return lambda patches: _average(patches.assign(logit=expit(patches["logit"])), kernel)


WAYS: dict[str, Fit] = {
    "alone": alone,
    "mean9": mean9,
    "kernel 3x3": free_kernel(1),
    "kernel 5x5": free_kernel(2),
    "kernel 7x7": free_kernel(3),
    "gaussian": gaussian,
    "gaussian of probabilities": probabilities,
    "four scales": four_scales,
}
FIXED = (alone, mean9)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scores", type=Path, help="scoring file of a cross-validation")
    parser.add_argument("--cases", type=int, default=30, help="cases to fit on (default: 30)")
    parser.add_argument("--rounds", type=int, default=5, help="draws of these cases (default: 5)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
