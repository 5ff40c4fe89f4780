"""How often the 95 % intervals hold the truth, on simulated cases: `make bench-coverage`.

The cases are as unlike as those of the archive: sizes are lognormal, so that 23 cases tell as much
as 8 or 9 equal ones; burdens differ, and so does what the model makes of a case (a random
intercept in its logits: stain, scanner, tissue). The truth is the metric of one very large
population, in which a patch counts as in a subset: cases weigh by their size. Beside the intervals
by case stand those that take patches for independent, the same but for the unit drawn.

AUROC stays below 95 % by case: pooled over few cases it leans upwards, as more of its pairs are
within one case, where no intercept disturbs them.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from benchmarks.measuring import describe_machine, describe_versions, print_result
from idc.evaluation.statistics.bootstrap import (
    Bootstrap,
    Estimate,
    bootstrap_metrics,
    boundary_margin,
    lay_interval,
    summarise_cases,
    t_quantile,
)
from idc.evaluation.statistics.metrics import PRIMARY, bin_scores, compute_metrics

NAMES = (*PRIMARY, "sensitivity", "specificity", "brier", "ece")
SIZES = (23, 49)
NUM_DRAWS = 500
NUM_REPLICATES = 300
NUM_PATCH_REPLICATES = 100  # dear, and the standard error is known to 7 % then
MEAN_SIZE = 200
SPREAD_OF_SIZES = 1.25  # of the logarithm
MEAN_BURDEN = -1.2  # of the log-odds: a median case is 23 % IDC+
SPREAD_OF_BURDENS = 1.0
SPREAD_OF_INTERCEPTS = 0.7
SEPARATION = 2.5  # between the mean logits of IDC+ and IDC- of a case
NUM_POPULATION_CASES = 20_000
THRESHOLD = 0.3
SEED = 17


@dataclass(frozen=True)
class Subset:
    """Scored patches of some cases."""

    y_true: np.ndarray
    y_score: np.ndarray
    case: np.ndarray


def main() -> None:
    """Print coverage by metric, number of cases and unit as a Markdown table; last, key=value."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=NUM_DRAWS)
    parser.add_argument("--replicates", type=int, default=NUM_REPLICATES)
    parser.add_argument("--seed", type=int, default=SEED, help="of the drawn cases")
    options = parser.parse_args()
    print(describe_machine())
    print(describe_versions("numpy", "scipy", "scikit-learn"))
    population = draw_subset(NUM_POPULATION_CASES, np.random.default_rng(SEED))
    truth = measure(population)
    tallies = {
        num_cases: tally(num_cases, truth, options.draws, options.replicates, options.seed)
        for num_cases in SIZES
    }
    print(
        f"{options.draws} draws of {MEAN_SIZE} patches a case on average, "
        f"{100 * population.y_true.mean():.0f} % IDC+, {options.replicates} replicates by case and "
        f"{NUM_PATCH_REPLICATES} by patch; +- is one standard error of the simulation\n"
    )
    print_table(truth, tallies, options.draws)
    print_result(
        **{
            f"{unit}_{name}_{num_cases}": float(found.held[unit][name].mean())
            for num_cases, found in tallies.items()
            for unit in found.held
            for name in PRIMARY
        }
    )


def draw_subset(num_cases: int, rng: np.random.Generator) -> Subset:
    """Return one subset of freshly drawn cases.

    The logits of both classes spread alike, so within a case the log-odds of IDC+ is a line through
    the logit. `y_score` takes the line of a case of median burden without an intercept, so over
    all cases it is overconfident: calibration error is there to be found.
    """
    sizes = rng.lognormal(np.log(MEAN_SIZE) - SPREAD_OF_SIZES**2 / 2, SPREAD_OF_SIZES, num_cases)
    sizes = np.maximum(sizes.round().astype(int), 1)
    case = np.repeat(np.arange(num_cases), sizes)
    burden = expit(rng.normal(MEAN_BURDEN, SPREAD_OF_BURDENS, num_cases))
    y_true = (rng.random(len(case)) < burden[case]).astype(np.int8)
    intercept = rng.normal(0.0, SPREAD_OF_INTERCEPTS, num_cases)
    logit = rng.normal(SEPARATION * (y_true - 0.5), 1.0) + intercept[case]
    return Subset(y_true, expit(SEPARATION * logit + MEAN_BURDEN), case)


def measure(subset: Subset) -> dict[str, float]:
    """Return the metrics' values."""
    return compute_metrics(
        subset.y_true, subset.y_score, subset.case, THRESHOLD, seed=SEED, names=NAMES
    ).values


@dataclass(frozen=True)
class Tally:
    """What the intervals of many draws held."""

    held: dict[str, dict[str, np.ndarray]]
    """By unit drawn and metric: whether the truth was in each draw's interval, bool (draws,)."""
    effective_cases: float
    """Mean over the draws."""


def tally(
    num_cases: int, truth: dict[str, float], num_draws: int, num_replicates: int, seed: int
) -> Tally:
    """Draw subsets of so many cases, and hold each one's intervals against the truth."""
    held: dict[str, dict[str, list[bool]]] = {
        unit: {name: [] for name in NAMES} for unit in ("case", "patch")
    }
    effective = []
    for draw in range(num_draws):
        subset = draw_subset(num_cases, np.random.default_rng([seed, num_cases, draw]))
        effective.append(summarise_cases(subset.y_true, subset.case).effective_cases)
        of_cases = by_case(subset, Bootstrap(num_replicates, draw))
        of_patches = by_patch(subset, {name: each.value for name, each in of_cases.items()}, draw)
        for unit, estimates in (("case", of_cases), ("patch", of_patches)):
            for name, estimate in estimates.items():
                held[unit][name].append(estimate.low <= truth[name] <= estimate.high)
    return Tally(
        {unit: {name: np.array(each) for name, each in of.items()} for unit, of in held.items()},
        float(np.mean(effective)),
    )


def by_case(subset: Subset, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Return the intervals that the project reports."""
    return dict(
        bootstrap_metrics(
            subset.y_true,
            subset.y_score,
            subset.case,
            THRESHOLD,
            bootstrap,
            names=NAMES,
        )
    )


def by_patch(subset: Subset, point: dict[str, float], seed: int) -> dict[str, Estimate]:
    """Return the intervals around the same values as if each patch were a case of its own."""
    num_patches = len(subset.y_true)
    summary = summarise_cases(subset.y_true, np.arange(num_patches))
    order = np.argsort(subset.y_score, kind="stable")
    idc, y_score, bins = (
        subset.y_true[order] == 1,
        subset.y_score[order],
        bin_scores(subset.y_score),
    )
    bins, rng = bins[order], np.random.default_rng(seed)
    replicates = []
    for _ in range(NUM_PATCH_REPLICATES):
        counts = np.bincount(rng.integers(0, num_patches, num_patches), minlength=num_patches)
        replicates.append(_weigh(counts, idc, y_score, bins))
    quantile = t_quantile(summary)
    return {
        name: lay_interval(
            name,
            point[name],
            np.array([each[name] for each in replicates]),
            quantile,
            margin=boundary_margin(summary),
        )
        for name in NAMES
    }


def _weigh(
    counts: np.ndarray, idc: np.ndarray, y_score: np.ndarray, bins: np.ndarray
) -> dict[str, float]:
    """Measure patches that count several times, given by rising score, none equal."""
    of_idc, of_other = np.where(idc, counts, 0), np.where(idc, 0, counts)
    num_idc, num_other = of_idc.sum(), of_other.sum()
    called = y_score >= THRESHOLD
    sensitivity = of_idc[called].sum() / num_idc
    specificity = of_other[~called].sum() / num_other
    gaps = np.bincount(bins, weights=counts * (y_score - idc))
    return {
        "auroc": float(of_idc @ np.cumsum(of_other) / (num_idc * num_other)),
        "balanced_accuracy": float((sensitivity + specificity) / 2),
        "sensitivity": float(sensitivity),
        "specificity": float(specificity),
        "brier": float(counts @ (y_score - idc) ** 2 / len(counts)),
        "ece": float(np.abs(gaps).sum() / len(counts)),
    }


def print_table(truth: dict[str, float], tallies: dict[int, Tally], num_draws: int) -> None:
    """Print coverage by case and by patch, with the simulation's standard error."""
    units = [(size, unit) for size in tallies for unit in ("case", "patch")]
    heads = [
        f"{size} cases ({tallies[size].effective_cases:.1f} effective), by {unit}"
        for size, unit in units
    ]
    print(f"| metric | truth | {' | '.join(heads)} |")
    print(f"|---|---|{'---|' * len(heads)}")
    for name in NAMES:
        shares = [float(tallies[size].held[unit][name].mean()) for size, unit in units]
        cells = [f"{share:.3f} +- {_error(share, num_draws):.3f}" for share in shares]
        print(f"| {name} | {truth[name]:.4f} | {' | '.join(cells)} |")


def _error(share: float, num_draws: int) -> float:
    return float(np.sqrt(share * (1 - share) / num_draws))


if __name__ == "__main__":
    main()
