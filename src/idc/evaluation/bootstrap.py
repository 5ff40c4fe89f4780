"""How sure the metrics are, when cases and not patches are the independent unit.

A replicate draws as many cases as there are, with replacement, and takes all patches of each
(the cluster bootstrap: Field & Welsh 2007, J. R. Stat. Soc. B 69:369). So a replicate is just a
count per case, and every metric follows from sums per case weighted by those counts; no patch is
ever copied. Throughout, `counts` is (replicates, cases) and `case_index` numbers the cases from 0.

An interval is the point estimate +- t x bootstrap standard error, on a scale without bounds.
Percentiles of the replicates would be too narrow for the few dozen cases of a held-out side.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtrit

from idc.errors import InputError
from idc.evaluation.metrics import compute_metrics

log = logging.getLogger(__name__)

MIN_CASES = 3

_COVERAGE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CaseSummary:
    """How many patches and cases figures rest on."""

    num_patches: int
    num_idc: int
    prevalence: float
    num_cases: int
    effective_cases: float
    """Cases of equal size that would tell as much: (sum n)^2 / sum n^2 (Kish 1965)."""
    largest_share: float
    """Share of the patches that the largest case holds."""


def summarise_cases(y_true: np.ndarray, case: np.ndarray) -> CaseSummary:
    """Count patches and cases.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        case: Case id of each patch, any sortable type, (patches,).

    Raises:
        InputError: If there is no patch.
    """
    num_patches, num_idc = len(y_true), int(np.count_nonzero(y_true))
    if num_patches == 0:
        raise InputError("no patches to summarise: the side is empty")
    sizes = np.unique(case, return_counts=True)[1]
    return CaseSummary(
        num_patches=num_patches,
        num_idc=num_idc,
        prevalence=num_idc / num_patches,
        num_cases=len(sizes),
        effective_cases=float(num_patches**2 / np.sum(sizes**2)),
        largest_share=float(sizes.max() / num_patches),
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
    """Return the eight metrics of `idc.evaluation.metrics`, each with its 95 % interval.

    The t distribution has effective cases - 1 degrees of freedom, at least 1. Replicates that
    lack a class are left out; the log says how many.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, in [0, 1], (patches,).
        case: Case id of each patch, any sortable type, (patches,).
        threshold: A patch is called IDC+ where its score is at least this.
        num_replicates: How many times the cases are drawn.
        seed: Seed of the draws.

    Raises:
        InputError: If there are fewer than three cases, only one class, or an unusable score.
    """
    point = compute_metrics(y_true, y_score, threshold)
    summary = summarise_cases(y_true, case)
    quantile = t_quantile(summary)
    case_index = np.unique(case, return_inverse=True)[1]
    counts = keep_two_class(
        draw_counts(summary.num_cases, num_replicates, seed), y_true, case_index
    )
    replicates = replicate_metrics(y_true, y_score, case_index, threshold, counts)
    return {
        name: _estimate(name, value, replicates[name], quantile, summary.num_patches)
        for name, value in point.items()
    }


def bootstrap_share(
    hits: np.ndarray, case: np.ndarray, *, num_replicates: int, seed: int
) -> Estimate:
    """Return the share of patches that are hits, with its 95 % interval.

    Args:
        hits: bool (patches,).
        case: Case id of each patch, any sortable type, (patches,).
        num_replicates: How many times the cases are drawn.
        seed: Seed of the draws.

    Raises:
        InputError: If there are fewer than three cases.
    """
    summary = summarise_cases(hits, case)
    quantile = t_quantile(summary)
    case_index = np.unique(case, return_inverse=True)[1]
    counts = draw_counts(summary.num_cases, num_replicates, seed)
    patches = counts @ _sum_by_case(np.ones(len(hits)), case_index, summary.num_cases)
    found = counts @ _sum_by_case(hits.astype(float), case_index, summary.num_cases)
    return _estimate("share", float(hits.mean()), found / patches, quantile, len(hits))


def t_quantile(summary: CaseSummary) -> float:
    """Return by how many standard errors a 95 % interval reaches from its centre.

    The t distribution has effective cases - 1 degrees of freedom, at least 1.

    Raises:
        InputError: If there are fewer than three cases.
    """
    if summary.num_cases < MIN_CASES:
        raise InputError(
            f"no interval can be given for {summary.num_cases} case(s): "
            f"the bootstrap needs at least {MIN_CASES}"
        )
    return float(stdtrit(max(summary.effective_cases - 1, 1.0), (1 + _COVERAGE) / 2))


def flatten_estimates(prefix: str, estimates: dict[str, Estimate]) -> dict[str, float]:
    """Return `{"<prefix>/auroc": value, "<prefix>/auroc_low": low, "<prefix>/auroc_high": high}`.

    And so on for every metric.
    """
    flat: dict[str, float] = {}
    for name, estimate in estimates.items():
        flat[f"{prefix}/{name}"] = estimate.value
        flat[f"{prefix}/{name}_low"] = estimate.low
        flat[f"{prefix}/{name}_high"] = estimate.high
    return flat


def draw_counts(num_cases: int, num_replicates: int, seed: int) -> np.ndarray:
    """Return how often each replicate draws each case, int64 (replicates, cases)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_cases, np.full(num_cases, 1 / num_cases), size=num_replicates)


def replicate_metrics(
    y_true: np.ndarray,
    y_score: np.ndarray,
    case_index: np.ndarray,
    threshold: float,
    counts: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return every metric of every replicate, float64 (replicates,) by name.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, in [0, 1], (patches,).
        case_index: Number of each patch's case, (patches,).
        threshold: A patch is called IDC+ where its score is at least this.
        counts: How often each replicate draws each case; each must draw both classes.
    """
    idc = np.asarray(y_true, dtype=bool)
    called = y_score >= threshold
    # A float product is fast, and exact for these whole numbers far below 2^53.
    drawn = counts.astype(np.float64)
    tp, fn, fp, tn = (
        drawn @ _sum_by_case(part, case_index, counts.shape[1])
        for part in (idc & called, idc & ~called, ~idc & called, ~idc & ~called)
    )
    squared_error = drawn @ _sum_by_case((y_score - idc) ** 2, case_index, counts.shape[1])
    return {
        **_threshold_metrics(tp, fn, fp, tn),
        "auroc": _replicate_auroc(idc, y_score, case_index, drawn),
        "auprc": _replicate_auprc(idc, y_score, case_index, counts),
        "brier": squared_error / (tp + fn + fp + tn),
    }


def keep_two_class(counts: np.ndarray, y_true: np.ndarray, case_index: np.ndarray) -> np.ndarray:
    """Return the replicates (rows of `counts`) that draw both classes; the log says how many lack.

    Raises:
        InputError: If fewer than two are left.
    """
    num_idc = counts @ np.bincount(case_index, weights=y_true)
    num_other = counts @ np.bincount(case_index, weights=1 - y_true)
    kept = counts[(num_idc > 0) & (num_other > 0)]
    if len(kept) < 2:
        raise InputError(f"{len(kept)} of {len(counts)} replicates hold both classes: draw more")
    if len(kept) < len(counts):
        log.warning("%d of %d replicates lack a class", len(counts) - len(kept), len(counts))
    return kept


def _sum_by_case(values: np.ndarray, case_index: np.ndarray, num_cases: int) -> np.ndarray:
    return np.bincount(case_index, weights=values, minlength=num_cases)


def _threshold_metrics(
    tp: np.ndarray, fn: np.ndarray, fp: np.ndarray, tn: np.ndarray
) -> dict[str, np.ndarray]:
    sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
    spread = np.sqrt((tp + fn) * (tn + fp) * (tp + fp) * (tn + fn))
    return {
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1_idc": 2 * tp / (2 * tp + fp + fn),
        # Where all patches are called alike the numerator is 0 too, and so is the metric.
        "mcc": (tp * tn - fp * fn) / np.where(spread > 0, spread, 1.0),
    }


def _replicate_auroc(
    idc: np.ndarray, y_score: np.ndarray, case_index: np.ndarray, drawn: np.ndarray
) -> np.ndarray:
    """AUROC as concordant pairs over all pairs, both quadratic in the counts (Obuchowski 1997)."""
    num_cases = drawn.shape[1]
    concordant = _count_concordant(idc, y_score, case_index, num_cases)
    num_idc = drawn @ _sum_by_case(idc, case_index, num_cases)
    num_other = drawn @ _sum_by_case(~idc, case_index, num_cases)
    right = np.sum((drawn @ concordant) * drawn, axis=1)
    share: np.ndarray = right / (num_idc * num_other)
    return share


def _count_concordant(
    idc: np.ndarray, y_score: np.ndarray, case_index: np.ndarray, num_cases: int
) -> np.ndarray:
    """Count the pairs (IDC+ of case i, IDC- of case j) ranked rightly, ties half: [i, j]."""
    distinct, rank = np.unique(y_score, return_inverse=True)
    pairs = np.empty((num_cases, num_cases))
    for case in range(num_cases):
        at_rank = np.bincount(rank[~idc & (case_index == case)], minlength=len(distinct))
        below = np.cumsum(at_rank) - at_rank / 2
        pairs[:, case] = _sum_by_case(below[rank[idc]], case_index[idc], num_cases)
    return pairs


def _replicate_auprc(
    idc: np.ndarray, y_score: np.ndarray, case_index: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Average precision: over the drawn IDC+ patches, the mean precision at each one's score."""
    order = np.argsort(-y_score, kind="stable")
    ranked, idc, case_index = y_score[order], idc[order], case_index[order]
    last = np.searchsorted(-ranked, -ranked[idc], side="right") - 1
    last_idc = np.searchsorted(-ranked[idc], -ranked[idc], side="right") - 1
    # Replicates one by one: each then fits the processor's cache, twice as fast as all at once.
    return np.array(
        [
            _average_precision(row[case_index], idc, last, last_idc)
            for row in counts.astype(np.int32)
        ]
    )


def _average_precision(
    weights: np.ndarray, idc: np.ndarray, last: np.ndarray, last_idc: np.ndarray
) -> float:
    """Weights and `idc` run down the ranking.

    For each IDC+ patch, `last` is the place of the last patch with the same score, and `last_idc`
    that of the last such IDC+ patch among the IDC+ patches.
    """
    weights_idc = weights[idc]
    num_called = np.cumsum(weights)[last]
    num_found = np.cumsum(weights_idc)[last_idc]
    # Where nothing is drawn down to a score, its own weight is 0 too.
    precision = num_found / np.maximum(num_called, 1)
    return float(np.sum(weights_idc * precision) / num_found[-1])


def _estimate(
    name: str, value: float, replicates: np.ndarray, quantile: float, num_patches: int
) -> Estimate:
    """Lay the interval around the point estimate on the metric's unbounded scale.

    Half a patch away from a bound stands for the bound itself, whose image would be infinite; the
    interval is widened to hold the point estimate where that moved it.
    """
    to_scale, from_scale, lowest = _scale(name)
    margin = 0.5 / num_patches

    def transform(values: np.ndarray) -> np.ndarray:
        return to_scale(np.clip(values, lowest + margin, 1 - margin))

    centre = transform(np.array(value))
    reach = quantile * np.std(transform(replicates), ddof=1)
    low, high = float(from_scale(centre - reach)), float(from_scale(centre + reach))
    return Estimate(value=value, low=min(low, value), high=max(high, value))


_Map = Callable[[np.ndarray], np.ndarray]


def _scale(name: str) -> tuple[_Map, _Map, float]:
    """Return the map to the unbounded scale, its inverse, and the metric's lower bound."""
    if name == "mcc":
        return np.arctanh, np.tanh, -1.0
    return logit, expit, 0.0
