"""What others published on the 49 test cases of the benchmark, and whether a run may stand beside.

Balanced accuracy hardly moves with prevalence, so it is the figure that can be compared; F1 and
accuracy cannot.
"""

from collections.abc import Collection
from typing import Any

from idc.evaluation.statistics.bootstrap import Estimate

PUBLISHED_RESULTS = (
    ("Cruz-Roa 2014, three-layer CNN", 0.842),
    ("Janowczyk & Madabhushi 2016, AlexNet", 0.847),
    ("Inception, as reported by Romero 2019 (DeepHP)", 0.868),
    ("Romero 2019 (DeepHP), Inception with multi-level batch norm", 0.890),
)
"""Balanced accuracy on the 49 test cases."""

NUM_PATCHES = 50_963
"""Patches of the 49 test cases (Cruz-Roa 2014)."""

PREVALENCE = 0.21
"""Their share of IDC+, derived from Cruz-Roa's precision, recall and specificity."""

_PREVALENCE_TOLERANCE = 0.02
NO_ROW = "no benchmark row: other cases"


def benchmark_row(
    tested: Collection[str],
    published_cases: Collection[str],
    *,
    num_patches: int,
    prevalence: float,
    balanced_accuracy: Estimate,
) -> dict[str, Any]:
    """Return this run's place beside the published figures, if its test cases are the same.

    Args:
        tested: Case ids of the test set.
        published_cases: Case ids of the benchmark's test list.
        num_patches: Patches of the test set.
        prevalence: Their share of IDC+, in [0, 1].
        balanced_accuracy: At the threshold frozen on val.

    Returns:
        `text`, one line; and, if the cases are the same, `rows`: name and balanced accuracy of
        each publication, and `balanced_accuracy` of this run (value, low, high).
    """
    if set(tested) != set(published_cases):
        return {"text": NO_ROW}
    same_count = num_patches == NUM_PATCHES
    same_prevalence = abs(prevalence - PREVALENCE) <= _PREVALENCE_TOLERANCE
    return {
        "text": (
            f"the published {len(tested)} test cases; {num_patches:,} patches "
            f"({_verdict(same_count)} the published {NUM_PATCHES:,}), {prevalence:.1%} IDC+ "
            f"({_verdict(same_prevalence)} about {PREVALENCE:.0%})"
        ),
        "rows": [{"name": name, "balanced_accuracy": value} for name, value in PUBLISHED_RESULTS],
        "balanced_accuracy": vars(balanced_accuracy),
    }


def _verdict(same: bool) -> str:
    return "matches" if same else "differs from"
