"""How the promotion rule decides on simulated gates: `make bench-promotion`.

Two models score the same patches of a few cases. As in the archive, sizes of cases are lognormal,
burdens differ, and so does what a model makes of a case: part of that (stain, tissue) strikes both
models alike, part is each model's own. The champion's sensitivity and specificity are those at its
threshold; the challenger's separation and threshold are set so that its truth differs by what the
row says. Each draw is one decision by `idc.lifecycle.promotion.decision.compare` with the margins
and errors of `params.yaml`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from benchmarks.measuring import describe_machine, describe_versions, print_result
from idc.core.config import PromotionConfig, load_params
from idc.core.layout import PARAMS
from idc.evaluation.statistics.bootstrap import Bootstrap
from idc.lifecycle.promotion.decision import compare
from idc.lifecycle.promotion.gate import GateScores

NUM_DRAWS = 400
NUM_REPLICATES = 500
GATES = (10, 20, 40)
MEAN_SIZE = 200
SPREAD_OF_SIZES = 0.8  # of the logarithm
MEAN_BURDEN = -1.2  # of the log-odds
SPREAD_OF_BURDENS = 1.0
SHARED_INTERCEPT = 0.6  # of a case, in both models' logits
OWN_INTERCEPT = 0.25  # of a case, in one model's logits
SHARED_NOISE = 0.8  # correlation of the two models' noise within a patch's class
SENSITIVITY, SPECIFICITY = 0.85, 0.85
SEED = 23
_BOOTSTRAP_SEED = 17


@dataclass(frozen=True)
class Truth:
    """By how much the challenger differs in truth."""

    sensitivity: float
    specificity: float


TRUTHS = {
    "equal": Truth(0.0, 0.0),
    "sensitivity -.05, specificity +.10": Truth(-0.05, 0.10),
    "sensitivity -.10, specificity +.10": Truth(-0.10, 0.10),
    "both +.02": Truth(0.02, 0.02),
    "both +.04": Truth(0.04, 0.04),
    "both +.08": Truth(0.08, 0.08),
}


def main() -> None:
    """Print how often each challenger is promoted, and each rule broken, as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=NUM_DRAWS)
    parser.add_argument("--replicates", type=int, default=NUM_REPLICATES)
    parser.add_argument("--gates", type=int, nargs="+", default=GATES, help="cases on the gate")
    parser.add_argument("--seed", type=int, default=SEED, help="of the drawn cases")
    options = parser.parse_args()
    print(describe_machine())
    print(describe_versions("numpy", "scipy", "scikit-learn"))
    config = load_params(Path(PARAMS)).promotion
    print(
        f"{options.draws} draws, {options.replicates} replicates; margins "
        f"{config.max_sensitivity_loss} and {config.max_brier_rise}\n"
    )
    print("| challenger in truth | gate cases | promoted | better | sensitivity | calibration |")
    print("|---|---|---|---|---|---|")
    promoted = {}
    for name, truth in TRUTHS.items():
        for num_cases in options.gates:
            held = simulate(
                truth, num_cases, options.draws, config, options.replicates, options.seed
            )
            shares = held.mean(axis=0)
            promoted[f"{name} {num_cases}"] = float(held.all(axis=1).mean())
            print(
                f"| {name} | {num_cases} | {promoted[f'{name} {num_cases}']:.3f} | "
                + " | ".join(f"{share:.3f}" for share in shares)
                + " |",
                flush=True,
            )
    print_result(**{name.replace(" ", "_"): share for name, share in promoted.items()})


def simulate(
    truth: Truth,
    num_cases: int,
    num_draws: int,
    config: PromotionConfig,
    num_replicates: int,
    seed: int,
) -> np.ndarray:
    """Return whether superiority, sensitivity and calibration held, bool (draws, 3)."""
    bootstrap = Bootstrap(num_replicates, _BOOTSTRAP_SEED)
    held = []
    for draw in range(num_draws):
        rng = np.random.default_rng([seed, num_cases, draw])
        y_true, case, champion, challenger = draw_gate(truth, num_cases, rng)
        _, reasons = compare(y_true, case, champion, challenger, config, bootstrap)
        held.append([reason.holds for reason in reasons])
    return np.array(held)


def draw_gate(
    truth: Truth, num_cases: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, GateScores, GateScores]:
    """Return labels, cases and what champion and challenger say of freshly drawn gate cases."""
    sizes = rng.lognormal(np.log(MEAN_SIZE) - SPREAD_OF_SIZES**2 / 2, SPREAD_OF_SIZES, num_cases)
    case = np.repeat(np.arange(num_cases), np.maximum(sizes.round().astype(int), 2))
    burden = expit(rng.normal(MEAN_BURDEN, SPREAD_OF_BURDENS, num_cases))
    y_true = (rng.random(len(case)) < burden[case]).astype(np.int8)
    shared = rng.normal(0.0, SHARED_INTERCEPT, num_cases)[case]
    noise = np.sqrt(SHARED_NOISE) * rng.normal(size=len(case))
    models = []
    for gain in (Truth(0.0, 0.0), truth):
        separation, shift = place_classes(
            SENSITIVITY + gain.sensitivity, SPECIFICITY + gain.specificity
        )
        own = rng.normal(0.0, OWN_INTERCEPT, num_cases)[case]
        patch = noise + np.sqrt(1 - SHARED_NOISE) * rng.normal(size=len(case))
        value = separation * (y_true - 0.5) + shift + shared + own + patch
        models.append(decide_by(value, separation, shift))
    return y_true, case, models[0], models[1]


def place_classes(sensitivity: float, specificity: float) -> tuple[float, float]:
    """Return separation and shift of the classes' means that give these rates at threshold 0."""
    spread = np.sqrt(1 + SHARED_INTERCEPT**2 + OWN_INTERCEPT**2)

    def means(rate: float) -> float:
        return float(brentq(lambda mean: ndtr(mean / spread) - rate, -10, 10))

    of_idc, of_other = means(sensitivity), -means(specificity)
    return of_idc - of_other, (of_idc + of_other) / 2


def decide_by(value: np.ndarray, separation: float, shift: float) -> GateScores:
    """Return calibrated scores of a case of median burden, and the decisions at 0."""
    variance = 1 + SHARED_INTERCEPT**2 + OWN_INTERCEPT**2
    y_score = expit(separation / variance * (value - shift) + MEAN_BURDEN)
    return GateScores(y_score, (value >= 0).astype(np.int8))


if __name__ == "__main__":
    main()
