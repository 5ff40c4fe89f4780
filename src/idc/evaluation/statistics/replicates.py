"""Every metric of every bootstrap replicate, without copying a patch.

A replicate is a count per case (see `idc.evaluation.statistics.bootstrap`). Metrics that are ratios
of sums over patches follow from sums per case weighted by those counts; AUROC from pairs counted
per pair of cases; only AUPRC needs a walk down the ranking of each replicate. `counts` is
(replicates, cases), `case_index` numbers the cases from 0, and NaN marks a replicate that leaves a
metric undefined.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from idc.core.processes import count_cores
from idc.evaluation.statistics.metrics import (
    METRICS,
    bin_scores,
    cap_cases,
    case_aurocs,
    patch_losses,
)


@dataclass(frozen=True)
class CaseDraws:
    """Replicates of the case bootstrap."""

    case_index: np.ndarray
    """Number of each patch's case, from 0, (patches,)."""
    counts: np.ndarray
    """How often each replicate draws each case, int64 (replicates, cases)."""


def replicate_metrics(
    y_true: np.ndarray,
    y_score: np.ndarray,
    threshold: float,
    draws: CaseDraws,
    *,
    seed: int,
    names: Sequence[str] = METRICS,
) -> dict[str, np.ndarray]:
    """Return the named metrics of every replicate, float64 (replicates,) by name.

    What is chosen by looking at the patches is chosen once, on all of them: the bins of `ece` and
    the patches of `auroc_capped`.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, in [0, 1], (patches,). Any finite number will do for
            `auroc`, `auprc` and what looks at calls alone.
        threshold: A patch is predicted IDC+ where its score is at least this.
        draws: The replicates; each must draw both classes.
        seed: Seed of the draw behind `auroc_capped`.
        names: Some of `METRICS`.
    """
    subset = _Subset(np.asarray(y_true, bool), np.asarray(y_score), draws.case_index, draws.counts)
    calls = _Calls(subset, np.asarray(y_score >= threshold))
    compute: dict[str, Callable[[], np.ndarray]] = {
        "auroc": partial(_auroc, subset),
        "balanced_accuracy": lambda: (calls.sensitivity + calls.specificity) / 2,
        "auprc": partial(_auprc, subset),
        "sensitivity": lambda: calls.sensitivity,
        "specificity": lambda: calls.specificity,
        "ppv": lambda: _ratio(calls.tp, calls.tp + calls.fp),
        "npv": lambda: _ratio(calls.tn, calls.tn + calls.fn),
        "f1_idc": lambda: calls.f1_idc,
        "f1_weighted": partial(_f1_weighted, calls),
        "mcc": partial(_mcc, calls),
        "brier": lambda: subset.mean((subset.y_score - subset.idc) ** 2),
        "log_loss": lambda: subset.mean(patch_losses(subset.idc, subset.y_score)),
        "ece": partial(_ece, subset),
        "case_macro_auroc": partial(_case_macro_auroc, subset),
        "auroc_capped": partial(_auroc_capped, subset, seed),
    }
    return {name: compute[name]() for name in names}


def map_rows(function: Callable[[np.ndarray], float], counts: np.ndarray) -> np.ndarray:
    """Return `function(row)` of each row of `counts`, float64 (replicates,), on all cores.

    Threads will do: numpy lets go of the interpreter's lock while it works on a row's patches. Rows
    come as int32, one by one: each then fits the processor's cache.
    """
    with ThreadPoolExecutor(count_cores()) as pool:
        blocks = np.array_split(counts.astype(np.int32), 8 * count_cores())
        parts = pool.map(lambda block: [function(row) for row in block], blocks)
        return np.array([value for part in parts for value in part])


@dataclass(frozen=True)
class _Subset:
    """Scored patches, and how often each replicate draws each of their cases."""

    idc: np.ndarray
    y_score: np.ndarray
    case_index: np.ndarray
    counts: np.ndarray

    @property
    def num_cases(self) -> int:
        return int(self.counts.shape[1])

    @cached_property
    def drawn(self) -> np.ndarray:
        """The counts as float64: their product is fast, and exact for whole numbers below 2^53."""
        return self.counts.astype(np.float64)

    @cached_property
    def num_patches(self) -> np.ndarray:
        return self.total(np.ones(len(self.idc)))

    def by_case(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.case_index, weights=values, minlength=self.num_cases)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over the drawn patches of each replicate."""
        totals: np.ndarray = self.drawn @ self.by_case(values)
        return totals

    def mean(self, values: np.ndarray) -> np.ndarray:
        return _ratio(self.total(values), self.num_patches)

    def keep(self, rows: np.ndarray) -> "_Subset":
        return _Subset(self.idc[rows], self.y_score[rows], self.case_index[rows], self.counts)


@dataclass(frozen=True)
class _Calls:
    """The confusion matrix of each replicate."""

    subset: _Subset
    called: np.ndarray

    @cached_property
    def tp(self) -> np.ndarray:
        return self.subset.total(self.subset.idc & self.called)

    @cached_property
    def fn(self) -> np.ndarray:
        return self.subset.total(self.subset.idc & ~self.called)

    @cached_property
    def fp(self) -> np.ndarray:
        return self.subset.total(~self.subset.idc & self.called)

    @cached_property
    def tn(self) -> np.ndarray:
        return self.subset.total(~self.subset.idc & ~self.called)

    @property
    def sensitivity(self) -> np.ndarray:
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> np.ndarray:
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def f1_idc(self) -> np.ndarray:
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    ratio = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _f1_weighted(calls: _Calls) -> np.ndarray:
    num_idc, num_other = calls.tp + calls.fn, calls.tn + calls.fp
    f1_other = _ratio(2 * calls.tn, 2 * calls.tn + calls.fp + calls.fn)
    return _ratio(num_idc * calls.f1_idc + num_other * f1_other, num_idc + num_other)


def _mcc(calls: _Calls) -> np.ndarray:
    tp, fn, fp, tn = calls.tp, calls.fn, calls.fp, calls.tn
    # two roots: the product of four counts of a large archive would lose digits
    spread = np.sqrt((tp + fn) * (tn + fp)) * np.sqrt((tp + fp) * (tn + fn))
    return _ratio(tp * tn - fp * fn, spread)


def _ece(subset: _Subset) -> np.ndarray:
    bins = bin_scores(subset.y_score)
    num_bins = int(bins.max()) + 1
    place = subset.case_index * num_bins + bins
    excess = np.bincount(
        place,
        weights=np.asarray(subset.y_score, np.float64) - subset.idc,
        minlength=subset.num_cases * num_bins,
    )
    in_bins = np.abs(subset.drawn @ excess.reshape(subset.num_cases, num_bins))
    return np.asarray(in_bins.sum(axis=1) / subset.num_patches)


def _case_macro_auroc(subset: _Subset) -> np.ndarray:
    within = case_aurocs(subset.idc, subset.y_score, subset.case_index, subset.num_cases)
    has_both = np.isfinite(within)
    drawn = subset.drawn[:, has_both]
    return _ratio(drawn @ within[has_both], drawn.sum(axis=1))


def _auroc_capped(subset: _Subset, seed: int) -> np.ndarray:
    rows = cap_cases(subset.idc, subset.y_score, subset.case_index, seed=seed)
    return _auroc(subset.keep(rows))


def _auroc(subset: _Subset) -> np.ndarray:
    """AUROC as concordant pairs over all pairs, both quadratic in the counts (Obuchowski 1997)."""
    right = np.sum((subset.drawn @ _count_concordant(subset)) * subset.drawn, axis=1)
    return _ratio(right, subset.total(subset.idc) * subset.total(~subset.idc))


def _count_concordant(subset: _Subset) -> np.ndarray:
    """Count the pairs (IDC+ of case i, IDC- of case j) ranked rightly, ties half: [i, j]."""
    distinct, rank = np.unique(subset.y_score, return_inverse=True)
    case_of_idc, rank_of_idc = subset.case_index[subset.idc], rank[subset.idc]
    pairs = np.empty((subset.num_cases, subset.num_cases))
    for case in range(subset.num_cases):
        of_case = ~subset.idc & (subset.case_index == case)
        at_rank = np.bincount(rank[of_case], minlength=len(distinct))
        below = np.cumsum(at_rank) - at_rank / 2
        pairs[:, case] = np.bincount(
            case_of_idc, weights=below[rank_of_idc], minlength=subset.num_cases
        )
    return pairs


def _auprc(subset: _Subset) -> np.ndarray:
    """Average precision: over the drawn IDC+ patches, the mean precision at each one's score."""
    order = np.argsort(-subset.y_score, kind="stable")
    ranked, idc, case_index = subset.y_score[order], subset.idc[order], subset.case_index[order]
    return map_rows(
        partial(
            _average_precision,
            case_of_idc=case_index[idc],
            case_of_other=case_index[~idc],
            num_idc=np.searchsorted(-ranked[idc], -ranked[idc], side="right"),
            num_other=np.searchsorted(-ranked[~idc], -ranked[idc], side="right"),
        ),
        subset.counts,
    )


def _average_precision(
    drawn: np.ndarray,
    case_of_idc: np.ndarray,
    case_of_other: np.ndarray,
    num_idc: np.ndarray,
    num_other: np.ndarray,
) -> float:
    """Cases run down the ranking.

    For each IDC+ patch, `num_idc` and `num_other` count the IDC+ and the IDC- patches that score
    at least as high.
    """
    weights = drawn.take(case_of_idc)
    found = np.cumsum(weights).take(num_idc - 1)
    false_alarms = np.concatenate([[0], np.cumsum(drawn.take(case_of_other))]).take(num_other)
    # where nothing is drawn down to a score, its own weight is 0 too
    precision = found / np.maximum(found + false_alarms, 1)
    return float(weights @ precision / found[-1])
