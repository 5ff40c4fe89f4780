"""How sure the metrics are, when cases and not patches are the independent unit.

A replicate draws as many cases as there are, with replacement, and takes all patches of each
(the cluster bootstrap: Field & Welsh 2007, J. R. Stat. Soc. B 69:369). So a replicate is just a
count per case, from which `idc.evaluation.statistics.replicates` works out the metrics. Throughout,
`counts` is (replicates, cases) and `case_index` numbers the cases from 0.

An interval is the point estimate +- t x f x bootstrap standard error, on a scale without bounds:
the logit for what lies in [0, 1], Fisher's z for the correlation, the logarithm for the log loss.

The factor f undoes a bias. A case with the share w of the patches pulls the estimate towards
itself, so replicates spread less around it than subsets of other cases spread around the truth. For
a weighted mean of independent cases with equal spread the expected squares are in the ratio

    replicates / truth = 1 - 2 sum w^3 / sum w^2 + sum w^2,   f = that ratio^(-1/2)

which is the n / (n - 1) of any sample where the shares are equal. Simulated coverage with and
without it: `docs/log.md`.
Percentiles of the replicates would be too narrow for the few dozen cases of a held-out set. Where
a few large cases hold most patches even these are somewhat narrow, and the pooled AUROC leans
upwards: in few cases a larger share of the pairs is within a case, and easier. How often they hold
the truth in simulated cases: `make bench-coverage`.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtrit

from idc.core.errors import InputError
from idc.evaluation.statistics.metrics import METRICS, MIN_CASES, compute_metrics
from idc.evaluation.statistics.replicates import CaseDraws, replicate_metrics

log = logging.getLogger(__name__)

_TAIL = 0.025  # beyond each end of a 95 % interval


@dataclass(frozen=True)
class Bootstrap:
    """How cases are drawn; equal ones draw the same cases."""

    num_replicates: int
    """How many times all cases are drawn, with replacement."""
    seed: int
    """Seed of the draws, and of the patches of `auroc_capped`."""


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimates(Mapping[str, Estimate]):
    """Estimates by metric; one that means nothing on these patches is absent, with a reason."""

    by_name: dict[str, Estimate]
    undefined: dict[str, str]
    """The reason, by metric."""

    def __getitem__(self, name: str) -> Estimate:
        if name in self.undefined:
            raise KeyError(f"{name} is undefined: {self.undefined[name]}")
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)


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
    standard_error_factor: float
    """By what the standard error of the case bootstrap is too small; see the module's head."""


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
        raise InputError("no patches to summarise: the subset is empty")
    sizes = np.unique(case, return_counts=True)[1]
    shares = sizes / num_patches
    return CaseSummary(
        num_patches=num_patches,
        num_idc=num_idc,
        prevalence=num_idc / num_patches,
        num_cases=len(sizes),
        effective_cases=float(num_patches**2 / np.sum(sizes**2)),
        largest_share=float(shares.max()),
        standard_error_factor=_standard_error_factor(shares),
    )


def bootstrap_metrics(
    y_true: np.ndarray,
    y_score: np.ndarray,
    case: np.ndarray,
    threshold: float,
    bootstrap: Bootstrap,
    *,
    names: Sequence[str] = METRICS,
) -> Estimates:
    """Return metrics of `idc.evaluation.statistics.metrics`, each with its 95 % interval.

    The t distribution has effective cases - 1 degrees of freedom, at least 1. Replicates that
    lack a class are left out; the log says how many. A metric is undefined if it is so on the
    patches as they are, or in all replicates but one; others that leave it undefined are passed
    over.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, in [0, 1], (patches,).
        case: Case id of each patch, any sortable type, (patches,).
        threshold: A patch is predicted IDC+ where its score is at least this.
        bootstrap: How cases are drawn.
        names: Some of `METRICS`.

    Raises:
        InputError: If there are fewer than three cases, only one class, or an unusable score.
    """
    point = compute_metrics(y_true, y_score, case, threshold, seed=bootstrap.seed, names=names)
    summary = summarise_cases(y_true, case)
    quantile = t_quantile(summary)
    draws = draw_two_class(y_true, case, bootstrap)
    replicates = replicate_metrics(
        y_true, y_score, threshold, draws, seed=bootstrap.seed, names=tuple(point.values)
    )
    estimates, undefined = {}, dict(point.undefined)
    for name, values in replicates.items():
        defined = values[np.isfinite(values)]
        if len(defined) < 2:
            undefined[name] = f"only {len(defined)} of {len(values)} replicates define it"
            continue
        estimates[name] = lay_interval(
            name, point.values[name], defined, quantile, margin=boundary_margin(summary)
        )
    return Estimates(estimates, undefined)


def bootstrap_share(shares: np.ndarray, case: np.ndarray, bootstrap: Bootstrap) -> Estimate:
    """Return the mean over patches of a share, with its 95 % interval within 0-1.

    Args:
        shares: A share of each patch, float in 0-1; or bool, whose mean is a share of the patches;
            (patches,).
        case: Case id of each patch, any sortable type, (patches,).
        bootstrap: How cases are drawn.

    Raises:
        InputError: If there are fewer than three cases.
    """
    summary = summarise_cases(np.zeros(len(shares)), case)
    means = _replicate_means(shares, case, bootstrap)
    value = float(shares.mean())
    margin = boundary_margin(summary)
    to_bound = min(value, 1 - value)
    if to_bound > 0:
        # unlike a count's, a mean of small shares comes nearer to its bound than half a patch
        margin = min(margin, to_bound / 2)
    return lay_interval("share", value, means, t_quantile(summary), margin=margin)


def bootstrap_mean(values: np.ndarray, case: np.ndarray, bootstrap: Bootstrap) -> Estimate:
    """Return the mean over patches of a value without bounds, with its 95 % interval.

    Args:
        values: Finite, float (patches,).
        case: Case id of each patch, any sortable type, (patches,).
        bootstrap: How cases are drawn.

    Raises:
        InputError: If there are fewer than three cases.
    """
    quantile = t_quantile(summarise_cases(np.zeros(len(values)), case))
    means = _replicate_means(values, case, bootstrap)
    centre = float(np.mean(values))
    reach = quantile * float(np.std(means, ddof=1))
    return Estimate(centre, centre - reach, centre + reach)


def _replicate_means(values: np.ndarray, case: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """Return the mean over the patches of each replicate, float64 (replicates,)."""
    names, case_index = np.unique(case, return_inverse=True)
    counts = draw_counts(len(names), bootstrap)
    num_patches = counts @ _sum_by_case(np.ones(len(values)), case_index, len(names))
    return np.asarray(counts @ _sum_by_case(values, case_index, len(names)) / num_patches)


def t_quantile(summary: CaseSummary, tail: float = _TAIL) -> float:
    """Return by how many bootstrap standard errors an interval reaches from its centre.

    The t distribution has effective cases - 1 degrees of freedom, at least 1; its quantile is
    multiplied by `standard_error_factor`.

    Args:
        summary: The cases.
        tail: Probability beyond each end, in (0, 0.5); by default that of a 95 % interval.

    Raises:
        InputError: If there are fewer than three cases.
    """
    if summary.num_cases < MIN_CASES:
        raise InputError(
            f"no interval can be given for {summary.num_cases} case(s): "
            f"the bootstrap needs at least {MIN_CASES}"
        )
    quantile = stdtrit(max(summary.effective_cases - 1, 1.0), 1 - tail)
    return float(quantile * summary.standard_error_factor)


def _standard_error_factor(shares: np.ndarray) -> float:
    concentration = float(np.sum(shares**2))
    ratio = 1 - 2 * float(np.sum(shares**3)) / concentration + concentration
    # one case alone has no spread to correct
    return 1.0 if len(shares) == 1 else float(ratio**-0.5)


def boundary_margin(summary: CaseSummary) -> float:
    """Return the share that half a patch makes: how near its bound a share can be told to be."""
    return 0.5 / summary.num_patches


def lay_interval(
    name: str, value: float, replicates: np.ndarray, quantile: float, *, margin: float
) -> Estimate:
    """Lay the interval around the point estimate on the metric's unbounded scale.

    Args:
        name: The metric, which tells the scale.
        value: The point estimate.
        replicates: The metric of each replicate, all finite, (replicates,).
        quantile: As `t_quantile` returns it.
        margin: The distance from a bound that stands for the bound itself, whose image would be
            infinite; the interval is widened to hold the point estimate where that moved it.
    """
    to_scale, from_scale, lowest, highest = _scale(name)

    def transform(values: np.ndarray) -> np.ndarray:
        return to_scale(np.clip(values, lowest + margin, highest - margin))

    centre = transform(np.array(value))
    reach = quantile * np.std(transform(replicates), ddof=1)
    low, high = float(from_scale(centre - reach)), float(from_scale(centre + reach))
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def flatten_estimates(prefix: str, estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Return `{"<prefix>/auroc": value, "<prefix>/auroc_low": low, "<prefix>/auroc_high": high}`.

    And so on for every metric.
    """
    flat: dict[str, float] = {}
    for name, estimate in estimates.items():
        flat[f"{prefix}/{name}"] = estimate.value
        flat[f"{prefix}/{name}_low"] = estimate.low
        flat[f"{prefix}/{name}_high"] = estimate.high
    return flat


def draw_counts(num_cases: int, bootstrap: Bootstrap) -> np.ndarray:
    """Return how often each replicate draws each case, int64 (replicates, cases)."""
    rng = np.random.default_rng(bootstrap.seed)
    return rng.multinomial(
        num_cases, np.full(num_cases, 1 / num_cases), size=bootstrap.num_replicates
    )


def draw_two_class(y_true: np.ndarray, case: np.ndarray, bootstrap: Bootstrap) -> CaseDraws:
    """Return the replicates that draw both classes; the log says how many do not.

    Raises:
        InputError: If fewer than two are left.
    """
    cases, case_index = np.unique(case, return_inverse=True)
    counts = draw_counts(len(cases), bootstrap)
    num_idc = counts @ np.bincount(case_index, weights=y_true)
    num_other = counts @ np.bincount(case_index, weights=1 - y_true)
    kept = counts[(num_idc > 0) & (num_other > 0)]
    if len(kept) < 2:
        raise InputError(f"{len(kept)} of {len(counts)} replicates hold both classes: draw more")
    if len(kept) < len(counts):
        log.warning(
            "%d of %d replicates of these %d patches of %d cases lack a class",
            len(counts) - len(kept), len(counts), len(y_true), counts.shape[1],
        )  # fmt: skip
    return CaseDraws(case_index, kept)


def _sum_by_case(values: np.ndarray, case_index: np.ndarray, num_cases: int) -> np.ndarray:
    return np.bincount(case_index, weights=values, minlength=num_cases)


_Map = Callable[[np.ndarray], np.ndarray]


def _scale(name: str) -> tuple[_Map, _Map, float, float]:
    """Return the map to the unbounded scale, its inverse, and the metric's bounds."""
    if name == "mcc":
        return np.arctanh, np.tanh, -1.0, 1.0
    if name == "log_loss":
        return np.log, np.exp, 0.0, np.inf
    return logit, expit, 0.0, 1.0
