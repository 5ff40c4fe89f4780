"""Intervals from redrawing whole cases, since patches of one case are not independent.

Everything a replicate needs is summed per case once, so that a replicate costs a few products of
its draw counts with those sums instead of a resampled table of patches.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from idc.errors import InputError
from idc.evaluation.metrics import check_labels, check_probabilities, compute_metrics

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MIN_CASES = 3
CHUNK_ELEMENTS = 1_000_000


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % interval; `low <= value <= high`, never NaN."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CaseSummary:
    """How the patches of a side spread over its cases."""

    num_patches: int
    num_idc: int
    prevalence: float
    """Share of IDC+ patches."""
    num_cases: int
    effective_cases: float
    """Kish's effective number: equally large cases that would weigh as much; 1 to num_cases."""
    largest_share: float
    """Share of the patches that the largest case holds."""


def summarise_cases(y_true: ArrayLike, case: ArrayLike) -> CaseSummary:
    """Count patches and cases.

    Args:
        y_true: Labels 0 and 1, shape (patches,); one class alone is allowed.
        case: Case of each patch, shape (patches,), strings or integers.

    Raises:
        InputError: On empty input, unequal lengths or other labels than 0 and 1.
    """
    labels = check_labels(y_true)
    index, num_cases = _index_cases(case, labels.size)
    sizes = np.bincount(index, minlength=num_cases).astype(np.float64)
    num_idc = int(labels.sum())
    return CaseSummary(
        num_patches=labels.size,
        num_idc=num_idc,
        prevalence=num_idc / labels.size,
        num_cases=num_cases,
        effective_cases=float(sizes.sum() ** 2 / (sizes**2).sum()),
        largest_share=float(sizes.max() / sizes.sum()),
    )


def bootstrap_metrics(
    y_true: ArrayLike,
    y_score: ArrayLike,
    case: ArrayLike,
    threshold: float,
    *,
    num_replicates: int,
    seed: int,
) -> dict[str, Estimate]:
    """Return every metric of `compute_metrics` with its 95 % case-bootstrap interval.

    The interval is the point estimate plus and minus t(df, 0.975) bootstrap standard errors on
    the logit scale (arctanh for mcc), with df = effective cases - 1, at least 1. Replicates that
    lack a class are left out. Source: Efron and Tibshirani 1993, chapters 6 and 12; cluster
    bootstrap as in Field and Welsh 2007.

    Args:
        y_true: Labels 0 and 1, shape (patches,).
        y_score: Probabilities of IDC+ in [0, 1], shape (patches,).
        case: Case of each patch, shape (patches,), strings or integers.
        threshold: Score from which on a patch is called IDC+.
        num_replicates: Draws of as many cases as there are, with replacement.
        seed: Seed of the draws.

    Raises:
        InputError: As `compute_metrics`; on fewer than 3 cases; or where fewer than 2 replicates
            hold both classes.
    """
    labels, scores = check_probabilities(y_true, y_score)
    summary = summarise_cases(labels, case)
    if summary.num_cases < MIN_CASES:
        raise InputError(
            f"intervals need patches of at least {MIN_CASES} cases, here are {summary.num_cases}"
        )
    points = compute_metrics(labels, scores, threshold)
    counts = draw_counts(summary.num_cases, num_replicates, seed)
    replicates = replicate_metrics(labels, scores, case, threshold, counts)
    num_kept = replicates["auroc"].size
    if num_kept < 2:
        raise InputError(
            f"only {num_kept} of {num_replicates} bootstrap replicates hold both classes: "
            "spread both classes over more cases or raise evaluate.num_replicates"
        )
    quantile = float(stats.t.ppf(0.975, max(summary.effective_cases - 1.0, 1.0)))
    eps = 0.5 / summary.num_patches
    return {name: _interval(name, points[name], replicates[name], quantile, eps) for name in points}


def flatten_estimates(prefix: str, estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Return `prefix/auroc`, `prefix/auroc_low`, `prefix/auroc_high`, and so on."""
    flat: dict[str, float] = {}
    for name, estimate in estimates.items():
        flat[f"{prefix}/{name}"] = estimate.value
        flat[f"{prefix}/{name}_low"] = estimate.low
        flat[f"{prefix}/{name}_high"] = estimate.high
    return flat


def draw_counts(num_cases: int, num_replicates: int, seed: int) -> IntArray:
    """Return how often each replicate draws each case, shape (replicates, cases)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_cases, np.full(num_cases, 1.0 / num_cases), size=num_replicates)


def replicate_metrics(
    y_true: ArrayLike, y_score: ArrayLike, case: ArrayLike, threshold: float, counts: IntArray
) -> dict[str, FloatArray]:
    """Return every metric of the replicates that hold both classes, in the order of `counts`.

    Args:
        y_true: Labels 0 and 1, shape (patches,).
        y_score: Probabilities of IDC+ in [0, 1], shape (patches,).
        case: Case of each patch, shape (patches,); the columns of `counts` are its sorted values.
        threshold: Score from which on a patch is called IDC+.
        counts: How often each case is drawn, shape (replicates, cases).

    Raises:
        InputError: As `compute_metrics`.
    """
    labels, scores = check_probabilities(y_true, y_score)
    index, num_cases = _index_cases(case, labels.size)
    positives = _sum_per_case(labels, index, num_cases)
    negatives = _sum_per_case(1 - labels, index, num_cases)
    kept = counts[(counts @ positives > 0) & (counts @ negatives > 0)].astype(np.float64)
    pairs = _concordant_pairs(labels, scores, index, num_cases)
    squared_error = _sum_per_case((scores - labels) ** 2, index, num_cases)
    concordant = np.einsum("ri,ri->r", kept @ pairs, kept)
    return {
        "auroc": concordant / ((kept @ positives) * (kept @ negatives)),
        "auprc": _average_precisions(labels, scores, index, kept),
        **_confusion_metrics(labels, scores >= threshold, index, kept),
        "brier": (kept @ squared_error) / (kept @ (positives + negatives)),
    }


def _index_cases(case: ArrayLike, num_patches: int) -> tuple[NDArray[np.intp], int]:
    given = np.asarray(case)
    if given.shape != (num_patches,):
        raise InputError(f"{num_patches} labels but cases of shape {given.shape}")
    names, index = np.unique(given, return_inverse=True)
    return index, names.size


def _sum_per_case(values: ArrayLike, index: NDArray[np.intp], num_cases: int) -> FloatArray:
    weights = np.asarray(values, dtype=np.float64)
    return np.bincount(index, weights=weights, minlength=num_cases).astype(np.float64)


def _concordant_pairs(
    labels: NDArray[np.int8], scores: FloatArray, index: NDArray[np.intp], num_cases: int
) -> FloatArray:
    """Return pairs[i, j]: positives of case i above negatives of case j, ties half."""
    is_positive = labels == 1
    # sorted needles walk the haystack in order, which the cache rewards severalfold
    order = np.flatnonzero(is_positive)[np.argsort(scores[is_positive], kind="stable")]
    needles, needle_case = scores[order], index[order]
    pairs = np.zeros((num_cases, num_cases))
    for j in range(num_cases):
        negatives = np.sort(scores[~is_positive & (index == j)])
        below = np.searchsorted(negatives, needles, side="left")
        not_above = np.searchsorted(negatives, needles, side="right")
        pairs[:, j] = _sum_per_case((below + not_above) / 2, needle_case, num_cases)
    return pairs


def _average_precisions(
    labels: NDArray[np.int8], scores: FloatArray, index: NDArray[np.intp], counts: FloatArray
) -> FloatArray:
    """Return step-wise average precision per replicate, tied scores entering together."""
    order = np.argsort(-scores, kind="stable")
    sorted_scores, sorted_case, is_positive = scores[order], index[order], labels[order]
    group_ends = np.flatnonzero(np.append(sorted_scores[1:] != sorted_scores[:-1], True))
    num_rows = max(1, CHUNK_ELEMENTS // labels.size)
    result = np.empty(counts.shape[0])
    for start in range(0, counts.shape[0], num_rows):
        weights = counts[start : start + num_rows, sorted_case]
        called = np.cumsum(weights, axis=1)[:, group_ends]
        found = np.cumsum(weights * is_positive, axis=1)[:, group_ends]
        gains = np.diff(found, axis=1, prepend=0.0)
        # before the first drawn patch nothing is called, and nothing is gained there
        precision = found / np.maximum(called, 1.0)
        result[start : start + num_rows] = (gains * precision).sum(axis=1) / found[:, -1]
    return result


def _confusion_metrics(
    labels: NDArray[np.int8],
    called: NDArray[np.bool_],
    index: NDArray[np.intp],
    counts: FloatArray,
) -> dict[str, FloatArray]:
    num_cases = counts.shape[1]
    tp = counts @ _sum_per_case((labels == 1) & called, index, num_cases)
    fn = counts @ _sum_per_case((labels == 1) & ~called, index, num_cases)
    tn = counts @ _sum_per_case((labels == 0) & ~called, index, num_cases)
    fp = counts @ _sum_per_case((labels == 0) & called, index, num_cases)
    sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
    margins = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    # where all are called alike the margin and the numerator are both 0: mcc is 0 by convention
    return {
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1_idc": 2 * tp / (2 * tp + fp + fn),
        "mcc": (tp * tn - fp * fn) / np.where(margins > 0, margins, 1.0),
    }


def _interval(
    name: str, point: float, replicates: FloatArray, quantile: float, eps: float
) -> Estimate:
    # arctanh(m) is half the logit of (1 + m) / 2, so the logit serves mcc too
    shift, scale = (1.0, 2.0) if name == "mcc" else (0.0, 1.0)

    def transform(values: FloatArray) -> FloatArray:
        clipped = np.clip((values + shift) / scale, eps, 1.0 - eps)
        return np.asarray(special.logit(clipped), dtype=np.float64)

    centre = float(transform(np.array([point]))[0])
    reach = quantile * float(transform(replicates).std(ddof=1))
    low, high = special.expit(np.array([centre - reach, centre + reach])) * scale - shift
    # at 0 or 1 the clipped centre lies beside the value, and the interval must hold the value
    return Estimate(point, min(float(low), point), max(float(high), point))
