"""Whether a case has any IDC+ patch, told from its highest scores.

Nearly every case of the public archive has one, because every case is a cancer; a case without is
a slide, or the part of one at hand, that shows no tumour. So the figure says whether a few IDC+
patches among many are found, never whether somebody is healthy.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from idc.core.errors import InputError
from idc.evaluation.cases.burden import Absent
from idc.evaluation.statistics.bootstrap import Bootstrap, Estimate, bootstrap_metrics

NUM_TOP_PATCHES = 3
MIN_CASES_EACH = 5

_HALF = 0.5  # a threshold, which moves no AUROC


@dataclass(frozen=True)
class AnyIdc:
    """How well cases with and without IDC+ are told apart."""

    min_idc_patches: int
    """From how many IDC+ patches on a case has IDC."""
    num_cases: int
    num_without: int
    auroc: Estimate | Absent
    """By the score of `score_any_idc`."""
    auroc_of_size: Estimate | Absent
    """By the number of patches alone: more patches hold an IDC+ one more easily."""


def score_any_idc(case: np.ndarray, y_score: np.ndarray) -> pd.Series:
    """Return per case, sorted, the mean of its three highest scores (of all if it has fewer).

    Three was fixed beforehand: the highest alone is the most extreme of up to a thousand errors,
    and a quantile asks for a share of IDC+, which is the burden's matter.

    Args:
        case: Case id of each patch, any sortable type, (patches,).
        y_score: Probability of IDC+, in [0, 1], averaged over the patches around where the
            operating point has a context: IDC+ patches lie together, (patches,).

    Raises:
        InputError: If the lengths differ.
    """
    if len(case) != len(y_score):
        raise InputError(f"{len(case)} case ids but {len(y_score)} scores: one each per patch")
    falling = pd.DataFrame({"case": case, "score": y_score}).sort_values("score", ascending=False)
    return falling.groupby("case").head(NUM_TOP_PATCHES).groupby("case")["score"].mean()


def measure_any_idc(
    case: np.ndarray,
    y_true: np.ndarray,
    y_score: np.ndarray,
    bootstrap: Bootstrap,
    *,
    min_idc_patches: int,
) -> AnyIdc:
    """Return how well the cases with IDC are told from those without, each case counting once.

    Args:
        case: Case id of each patch, any sortable type, (patches,).
        y_true: Labels, 0 or 1, (patches,).
        y_score: As `score_any_idc` takes it.
        bootstrap: How cases are drawn.
        min_idc_patches: From how many IDC+ patches on a case has IDC.

    Returns:
        The AUROCs, absent with a reason where there are fewer than five cases of either kind.

    Raises:
        InputError: If the lengths differ or a score is not in [0, 1].
    """
    score = score_any_idc(case, y_score).to_numpy(np.float64)
    patches = pd.Series(np.asarray(y_true)).groupby(np.asarray(case))
    has_idc = (patches.sum() >= min_idc_patches).to_numpy(np.int8)
    size = patches.size().to_numpy(np.float64)
    return AnyIdc(
        min_idc_patches=min_idc_patches,
        num_cases=len(has_idc),
        num_without=int(np.count_nonzero(has_idc == 0)),
        auroc=_rank(has_idc, score, bootstrap),
        auroc_of_size=_rank(has_idc, size / size.max(), bootstrap),
    )


def _rank(has_idc: np.ndarray, score: np.ndarray, bootstrap: Bootstrap) -> Estimate | Absent:
    for kind, name in ((1, "with"), (0, "without")):
        number = int(np.count_nonzero(has_idc == kind))
        if number < MIN_CASES_EACH:
            return Absent(f"{number} {name} IDC: an AUROC needs {MIN_CASES_EACH} or more of each")
    each = np.arange(len(has_idc))
    return bootstrap_metrics(has_idc, score, each, _HALF, bootstrap, names=("auroc",))["auroc"]
