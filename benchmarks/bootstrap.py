"""All metrics with their intervals against a plain loop over scikit-learn: `make bench-bootstrap`.

Ours draws counts per case and never copies a patch. The plain loop, which is what a notebook does,
copies the patches of the drawn cases and calls scikit-learn for each metric; it runs a few
replicates, and its time for all is extrapolated from them. Both draw the same cases, and the
metrics of those replicates must agree.
"""

import argparse
import statistics

import numpy as np
from sklearn import metrics as sk

from benchmarks.measuring import (
    describe_machine,
    describe_versions,
    interleave,
    print_result,
    summarise,
)
from idc.evaluation.statistics.bootstrap import Bootstrap, bootstrap_metrics, draw_counts
from idc.evaluation.statistics.metrics import METRICS, bin_scores, cap_cases
from idc.evaluation.statistics.replicates import CaseDraws, replicate_metrics

NUM_PATCHES = 60_000
NUM_CASES = 49
NUM_REPLICATES = 2000
NUM_LOOPED = 5
ROUNDS = 3
THRESHOLD = 0.4
SEED = 17

Subset = tuple[np.ndarray, np.ndarray, np.ndarray]


def main() -> None:
    """Print the seconds of both, ours measured and the loop's extrapolated; last, key=value."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=NUM_PATCHES)
    parser.add_argument("--cases", type=int, default=NUM_CASES)
    parser.add_argument("--replicates", type=int, default=NUM_REPLICATES)
    options = parser.parse_args()
    print(describe_machine())
    print(describe_versions("numpy", "scikit-learn"))
    subset = draw_subset(options.patches, options.cases)
    looped = draw_counts(options.cases, Bootstrap(NUM_LOOPED, SEED))
    difference = largest_difference(subset, looped)
    seconds = interleave(
        ROUNDS,
        {
            "ours": lambda: bootstrap_metrics(
                *subset, THRESHOLD, Bootstrap(options.replicates, SEED)
            ),
            "peer": lambda: loop_replicates(subset, looped),
        },
    )
    peer = [each * options.replicates / NUM_LOOPED for each in seconds["peer"]]
    print(
        f"{len(METRICS)} metrics, {options.patches:,} patches of {options.cases} cases, "
        f"{options.replicates:,} replicates; {NUM_LOOPED} replicates of the plain loop measured, "
        f"its seconds for all extrapolated; largest difference of a metric {difference:.1e}"
    )
    print_result(
        **summarise("ours", seconds["ours"]),
        **summarise("peer", peer),
        ratio=statistics.median(peer) / statistics.median(seconds["ours"]),
    )


def draw_subset(num_patches: int, num_cases: int) -> Subset:
    """Return labels, scores and cases, the cases of unequal size and burden."""
    rng = np.random.default_rng(SEED)
    sizes = rng.lognormal(0.0, 0.8, num_cases)
    case = rng.choice(num_cases, num_patches, p=sizes / sizes.sum())
    burden = rng.normal(-1.0, 1.0, num_cases)[case]
    y_true = (rng.random(num_patches) < 1 / (1 + np.exp(-burden))).astype(np.int8)
    logit = rng.normal(2.0 * y_true - 1.5, 1.0) + rng.normal(0.0, 0.5, num_cases)[case]
    return y_true, 1 / (1 + np.exp(-logit)), case


def loop_replicates(subset: Subset, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the plain loop measures, (replicates,) by metric."""
    y_true, y_score, case = subset
    bins = bin_scores(y_score)
    capped = np.zeros(len(case), bool)
    capped[cap_cases(y_true, y_score, case, seed=SEED)] = True
    rows_of = [np.flatnonzero(case == number) for number in range(counts.shape[1])]
    measured = []
    for row in counts:
        drawn = [rows_of[number] for number in np.repeat(np.arange(len(row)), row)]
        rows = np.concatenate(drawn)
        within = [
            sk.roc_auc_score(y_true[each], y_score[each])
            for each in drawn
            if len(np.unique(y_true[each])) == 2
        ]
        kept = rows[capped[rows]]
        measured.append(
            _measure(y_true[rows], y_score[rows], bins[rows])
            | {
                "case_macro_auroc": float(np.mean(within)),
                "auroc_capped": sk.roc_auc_score(y_true[kept], y_score[kept]),
            }
        )
    return {name: np.array([each[name] for each in measured]) for name in METRICS}


def _measure(y_true: np.ndarray, y_score: np.ndarray, bins: np.ndarray) -> dict[str, float]:
    y_pred = y_score >= THRESHOLD
    gaps = np.bincount(bins, weights=y_score) - np.bincount(bins, weights=y_true)
    return {
        "auroc": sk.roc_auc_score(y_true, y_score),
        "balanced_accuracy": sk.balanced_accuracy_score(y_true, y_pred),
        "auprc": sk.average_precision_score(y_true, y_score),
        "sensitivity": sk.recall_score(y_true, y_pred),
        "specificity": sk.recall_score(y_true, y_pred, pos_label=0),
        "ppv": sk.precision_score(y_true, y_pred),
        "npv": sk.precision_score(y_true, y_pred, pos_label=0),
        "f1_idc": sk.f1_score(y_true, y_pred),
        "f1_weighted": sk.f1_score(y_true, y_pred, average="weighted"),
        "mcc": sk.matthews_corrcoef(y_true, y_pred),
        "brier": sk.brier_score_loss(y_true, y_score),
        "log_loss": sk.log_loss(y_true, y_score),
        "ece": float(np.abs(gaps).sum() / len(y_true)),
    }


def largest_difference(subset: Subset, counts: np.ndarray) -> float:
    """Return by how much a metric of a replicate differs at most between the loop and ours."""
    y_true, y_score, case = subset
    ours = replicate_metrics(y_true, y_score, THRESHOLD, CaseDraws(case, counts), seed=SEED)
    loop = loop_replicates(subset, counts)
    return max(float(np.abs(ours[name] - loop[name]).max()) for name in METRICS)


if __name__ == "__main__":
    main()
