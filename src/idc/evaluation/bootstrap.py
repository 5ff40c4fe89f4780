"""95 % intervals by case bootstrap: cases are drawn, because patches of one case are alike.

No replicate touches single patches twice. Threshold metrics and the Brier score are sums over
cases; AUROC is a quadratic form in the case counts; only AUPRC walks the sorted patches.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t

from idc.errors import InputError
from idc.evaluation.metrics import compute_metrics

_CHUNK_ELEMENTS = 20_000_000  # bounds the memory of the AUPRC replicates to some 500 MB


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CaseSummary:
    """How much independent evidence a side holds."""

    num_patches: int
    num_idc: int
    prevalence: float
    num_cases: int
    effective_cases: float
    """(sum n)^2 / sum n^2 over the patches n of each case (Kish 1965)."""
    largest_share: float
    """Share of the patches that the largest case holds."""


def summarise_cases(y_true: np.ndarray, case: np.ndarray) -> CaseSummary:
    """Count patches and cases of a side; `y_true` and `case` hold one entry per patch."""
    _, sizes = np.unique(case, return_counts=True)
    return CaseSummary(
        num_patches=len(y_true),
        num_idc=int(np.sum(y_true)),
        prevalence=float(np.mean(y_true)),
        num_cases=len(sizes),
        effective_cases=float(sizes.sum() ** 2 / np.sum(sizes.astype(float) ** 2)),
        largest_share=float(sizes.max() / sizes.sum()),
    )


def bootstrap_metrics(
    y_true: np.ndarray,
    y_score: np.ndarray,
    case: np.ndarray,
    threshold: float,
    *,
    num_replicates: int,
    seed: int,
) -> dict[str, Estimate]:
    """Return every metric of `idc.evaluation.metrics` with its interval.

    The interval is the point estimate +- t(effective cases - 1) x the bootstrap standard error,
    on the logit scale (Fisher z for MCC), taken back; with few unequal cases percentiles are too
    narrow.

    Args:
        y_true: 0 or 1 per patch.
        y_score: Probability of IDC+ per patch, 0-1.
        case: Case id per patch.
        threshold: The operating point's.
        num_replicates: Bootstrap replicates.
        seed: Seed of the draw.

    Raises:
        InputError: If there are fewer than 3 cases, or metrics are undefined.
    """
    summary = summarise_cases(y_true, case)
    if summary.num_cases < 3:
        raise InputError(f"{summary.num_cases} cases give no interval: at least 3 are needed")
    points = compute_metrics(y_true, y_score, threshold)
    _, case_number = np.unique(case, return_inverse=True)
    counts = draw_case_counts(summary.num_cases, num_replicates, seed)
    replicates = replicate_metrics(y_true, y_score, case_number, threshold, counts)
    quantile = float(t.ppf(0.975, max(summary.effective_cases - 1, 1.0)))
    edge = 0.5 / summary.num_patches
    return {
        name: _interval(name, point, replicates[name], quantile, edge)
        for name, point in points.items()
    }


def draw_case_counts(num_cases: int, num_replicates: int, seed: int) -> np.ndarray:
    """Return how often each case is drawn, float64 (replicates, cases); rows sum to `num_cases`."""
    rng = np.random.default_rng(seed)
    shares = np.full(num_cases, 1 / num_cases)
    return rng.multinomial(num_cases, shares, size=num_replicates).astype(np.float64)


def replicate_metrics(
    y_true: np.ndarray,
    y_score: np.ndarray,
    case_number: np.ndarray,
    threshold: float,
    counts: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return each metric per replicate, float64 (replicates,), without those lacking a class.

    Args:
        y_true: 0 or 1 per patch.
        y_score: Probability of IDC+ per patch.
        case_number: Case of each patch, 0 to cases - 1.
        threshold: The operating point's.
        counts: How often each case is drawn, (replicates, cases).
    """
    num_cases = counts.shape[1]

    def per_case(values: np.ndarray) -> np.ndarray:
        return np.bincount(case_number, weights=values, minlength=num_cases)

    positive = y_true == 1
    predicted = y_score >= threshold
    counts = counts[(counts @ per_case(positive) > 0) & (counts @ per_case(~positive) > 0)]
    tp = counts @ per_case(positive & predicted)
    fn = counts @ per_case(positive & ~predicted)
    fp = counts @ per_case(~positive & predicted)
    tn = counts @ per_case(~positive & ~predicted)
    sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
    marginals = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    squared_errors = counts @ per_case((y_score - y_true) ** 2)
    return {
        "auroc": _replicate_auroc(positive, y_score, case_number, counts),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1_idc": 2 * tp / (2 * tp + fp + fn),
        "auprc": _replicate_auprc(positive, y_score, case_number, counts),
        "mcc": (tp * tn - fp * fn) / np.sqrt(np.maximum(marginals, 1.0)),
        "brier": squared_errors / (tp + fn + fp + tn),
    }


def flatten_estimates(prefix: str, estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Return `prefix/auroc`, `prefix/auroc_low`, `prefix/auroc_high`, and so on."""
    flat: dict[str, float] = {}
    for name, estimate in estimates.items():
        flat[f"{prefix}/{name}"] = estimate.value
        flat[f"{prefix}/{name}_low"] = estimate.low
        flat[f"{prefix}/{name}_high"] = estimate.high
    return flat


def _interval(
    name: str, point: float, replicates: np.ndarray, quantile: float, edge: float
) -> Estimate:
    if name == "mcc":
        limit = 1 - edge
        forward, back = np.arctanh, np.tanh
        low, high = -limit, limit
    else:
        forward, back = logit, expit
        low, high = edge, 1 - edge
    centre = forward(np.clip(point, low, high))
    half_width = quantile * np.std(forward(np.clip(replicates, low, high)), ddof=1)
    return Estimate(point, float(back(centre - half_width)), float(back(centre + half_width)))


def _replicate_auroc(
    positive: np.ndarray, y_score: np.ndarray, case_number: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """AUROC = c'Uc / (P.c)(N.c): U counts the concordant pairs between each two cases."""
    num_cases = counts.shape[1]
    _, level = np.unique(y_score, return_inverse=True)
    order = np.argsort(level, kind="stable")
    level, case_number, positive = level[order], case_number[order], positive[order]
    first = np.searchsorted(level, level, side="left")
    behind = np.searchsorted(level, level, side="right")
    concordant = np.empty((num_cases, num_cases))
    for negative_case in range(num_cases):
        is_negative = ~positive & (case_number == negative_case)
        below = np.concatenate([[0.0], np.cumsum(is_negative)])
        pairs = (below[first] + below[behind]) / 2  # equal scores count half
        concordant[:, negative_case] = np.bincount(
            case_number[positive], weights=pairs[positive], minlength=num_cases
        )
    num_positive = counts @ np.bincount(case_number[positive], minlength=num_cases)
    num_negative = counts @ np.bincount(case_number[~positive], minlength=num_cases)
    pairs_drawn = np.einsum("ri,ij,rj->r", counts, concordant, counts, optimize=True)
    return np.asarray(pairs_drawn / (num_positive * num_negative))


def _replicate_auprc(
    positive: np.ndarray, y_score: np.ndarray, case_number: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Average precision as a step function, equal scores taken together, as in scikit-learn."""
    order = np.argsort(-y_score, kind="stable")
    scores, positive, case_number = y_score[order], positive[order], case_number[order]
    group_ends = np.append(np.nonzero(np.diff(scores))[0], len(scores) - 1)
    num_rows = max(1, _CHUNK_ELEMENTS // len(scores))
    chunks = []
    for start in range(0, len(counts), num_rows):
        weights = counts[start : start + num_rows, case_number]
        predicted = np.cumsum(weights, axis=1)[:, group_ends]
        found = np.cumsum(weights * positive, axis=1)[:, group_ends]
        precision = found / np.maximum(predicted, 1.0)
        gained = np.diff(found, axis=1, prepend=0.0)
        chunks.append((precision * gained).sum(axis=1) / found[:, -1])
    return np.concatenate(chunks)
