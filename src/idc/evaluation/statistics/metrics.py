"""The figures a model is judged by, on the patches as they come.

Primary are `auroc` and `balanced_accuracy`; the others say where those come from. IDC+ is the
positive class throughout. How sure these figures are is `idc.evaluation.statistics.bootstrap`'s
matter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn import metrics as sk

from idc.core.errors import InputError

PRIMARY = ("auroc", "balanced_accuracy")
METRICS = (
    *PRIMARY,
    "auprc",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1_idc",
    "f1_weighted",
    "mcc",
    "brier",
    "log_loss",
    "ece",
    "case_macro_auroc",
    "auroc_capped",
)

MIN_CASES = 3
NUM_ECE_BINS = 15
MAX_PATCHES_PER_CASE = 160


class UndefinedMetricError(InputError):
    """A metric means nothing on these patches; the message says why, to stand behind its name."""


@dataclass(frozen=True)
class Metrics:
    """What could be measured, and why the rest could not."""

    values: dict[str, float]
    undefined: dict[str, str]
    """The reason, by metric."""


def compute_metrics(
    y_true: np.ndarray,
    y_score: np.ndarray,
    case: np.ndarray,
    threshold: float,
    *,
    seed: int,
    names: Sequence[str] = METRICS,
) -> Metrics:
    """Return the named metrics, in the order of the names.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, in [0, 1], (patches,).
        case: Case id of each patch, any sortable type, (patches,).
        threshold: A patch is predicted IDC+ where its score is at least this.
        seed: Seed of the draw behind `auroc_capped`.
        names: Some of `METRICS`.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or outside [0, 1].
    """
    require_probabilities(y_true, y_score)
    y_pred = (y_score >= threshold).astype(np.int8)
    compute: dict[str, Callable[[], float]] = {
        "auroc": lambda: auroc(y_true, y_score),
        "balanced_accuracy": lambda: balanced_accuracy(y_true, y_pred),
        "auprc": lambda: auprc(y_true, y_score),
        "sensitivity": lambda: sensitivity(y_true, y_pred),
        "specificity": lambda: specificity(y_true, y_pred),
        "ppv": lambda: ppv(y_true, y_pred),
        "npv": lambda: npv(y_true, y_pred),
        "f1_idc": lambda: f1_idc(y_true, y_pred),
        "f1_weighted": lambda: f1_weighted(y_true, y_pred),
        "mcc": lambda: mcc(y_true, y_pred),
        "brier": lambda: brier(y_true, y_score),
        "log_loss": lambda: log_loss(y_true, y_score),
        "ece": lambda: ece(y_true, y_score),
        "case_macro_auroc": lambda: case_macro_auroc(y_true, y_score, case),
        "auroc_capped": lambda: auroc_capped(y_true, y_score, case, seed=seed),
    }
    values, undefined = {}, {}
    for name in names:
        try:
            values[name] = compute[name]()
        except UndefinedMetricError as error:
            undefined[name] = str(error)
    return Metrics(values, undefined)


def auroc(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """Return the share of (IDC+, IDC-) pairs ranked rightly, ties counting half.

    Any finite score will do, logits too.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or infinite.
    """
    require_both_classes(y_true, y_score)
    return float(sk.roc_auc_score(y_true, y_score))


def auprc(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """Return the average precision: the area under the step-wise precision-recall curve.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or infinite.
    """
    require_both_classes(y_true, y_score)
    return float(sk.average_precision_score(y_true, y_score))


def balanced_accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the mean of sensitivity and specificity.

    Raises:
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    return float(sk.balanced_accuracy_score(y_true, y_pred))


def sensitivity(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the share of IDC+ patches that are predicted IDC+.

    Raises:
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    return float(sk.recall_score(y_true, y_pred, pos_label=1))


def specificity(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the share of IDC- patches that are predicted IDC-.

    Raises:
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    return float(sk.recall_score(y_true, y_pred, pos_label=0))


def ppv(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the positive predictive value: the share of patches predicted IDC+ that are IDC+.

    Raises:
        UndefinedMetricError: If no patch is predicted IDC+.
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    if not np.any(y_pred):
        raise UndefinedMetricError("no patch is predicted IDC+")
    return float(sk.precision_score(y_true, y_pred, pos_label=1))


def npv(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the negative predictive value: the share of patches predicted IDC- that are IDC-.

    Raises:
        UndefinedMetricError: If no patch is predicted IDC-.
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    if np.all(y_pred):
        raise UndefinedMetricError("no patch is predicted IDC-")
    return float(sk.precision_score(y_true, y_pred, pos_label=0))


def f1_idc(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the F1 score of the IDC+ class.

    Raises:
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    return float(sk.f1_score(y_true, y_pred, pos_label=1))


def f1_weighted(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the mean of both classes' F1 scores, weighted by their numbers of patches.

    At natural prevalence IDC- dominates it, so it is higher than `f1_idc` and no match for it.

    Raises:
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    return float(sk.f1_score(y_true, y_pred, average="weighted"))


def mcc(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return Matthews' correlation coefficient, in [-1, 1].

    Raises:
        UndefinedMetricError: If all patches are called alike.
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    if np.all(y_pred) or not np.any(y_pred):
        raise UndefinedMetricError("all patches are called alike")
    return float(sk.matthews_corrcoef(y_true, y_pred))


def brier(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """Return the mean squared difference of score and label; lower is better.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or outside [0, 1].
    """
    require_probabilities(y_true, y_score)
    return float(sk.brier_score_loss(y_true, y_score, pos_label=1))


def log_loss(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the labels, natural logarithm; lower is better.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or outside [0, 1].
    """
    require_probabilities(y_true, y_score)
    return float(patch_losses(y_true, y_score).mean())


def patch_losses(y_true: np.ndarray, y_score: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood of each label, float64 (patches,).

    Scores keep the machine epsilon away from 0 and 1, as in scikit-learn, so none is infinite.
    """
    epsilon = np.finfo(np.float64).eps
    y_score = np.clip(np.asarray(y_score, np.float64), epsilon, 1 - epsilon)
    return -np.log(np.where(np.asarray(y_true, bool), y_score, 1 - y_score))


def ece(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """Return the expected calibration error over adaptive bins; lower is better.

    In each bin of `bin_scores` the mean score is held against the share of IDC+; the absolute
    differences are averaged, weighted by patches (Naeini et al. 2015; bins of equal mass: Nguyen &
    O'Connor 2015). Chance never makes it negative, so it is above 0 for a calibrated model too.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or outside [0, 1].
    """
    require_probabilities(y_true, y_score)
    excess = np.asarray(y_score, np.float64) - y_true
    return float(np.abs(np.bincount(bin_scores(y_score), weights=excess)).sum() / len(excess))


def bin_scores(y_score: np.ndarray, num_bins: int = NUM_ECE_BINS) -> np.ndarray:
    """Return the number of each score's bin, from 0, int64 (patches,).

    The bins are cut at the scores of rank n/15, 2n/15, ... (rounded up), so each holds as many
    patches as the others, to one. Equal scores stay together in the lower bin: with ties the bins
    differ in size, and those left empty have no number.
    """
    ordered = np.sort(y_score)
    ranks = (np.arange(1, num_bins) * len(ordered) + num_bins - 1) // num_bins
    cuts = np.unique(ordered[ranks - 1])
    return np.unique(np.searchsorted(cuts, y_score, side="left"), return_inverse=True)[1]


def case_macro_auroc(y_true: np.ndarray, y_score: np.ndarray, case: np.ndarray) -> float:
    """Return the mean of the AUROCs within cases, each case counting once.

    It tells how well patches are told apart within a case, whatever the cases' sizes and burdens.

    Raises:
        UndefinedMetricError: If fewer than three cases hold both classes.
        InputError: If there is no patch or only one class, or a score is NaN or infinite.
    """
    require_both_classes(y_true, y_score)
    names, case_index = np.unique(case, return_inverse=True)
    within = case_aurocs(y_true, y_score, case_index, len(names))
    num_both = int(np.count_nonzero(np.isfinite(within)))
    if num_both < MIN_CASES:
        raise UndefinedMetricError(
            f"{num_both} cases hold both classes, at least {MIN_CASES} are needed"
        )
    return float(np.nanmean(within))


def case_aurocs(
    y_true: np.ndarray, y_score: np.ndarray, case_index: np.ndarray, num_cases: int
) -> np.ndarray:
    """Return the AUROC within each case, NaN where it lacks a class, float64 (cases,).

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Any finite score, (patches,).
        case_index: Number of each patch's case, from 0, (patches,).
        num_cases: How many cases there are.
    """
    order = np.argsort(case_index, kind="stable")
    ends = np.searchsorted(case_index[order], np.arange(num_cases), side="right")
    within = np.full(num_cases, np.nan)
    for number, rows in enumerate(np.split(order, ends[:-1])):
        if np.any(y_true[rows]) and not np.all(y_true[rows]):
            within[number] = sk.roc_auc_score(y_true[rows], y_score[rows])
    return within


def auroc_capped(y_true: np.ndarray, y_score: np.ndarray, case: np.ndarray, *, seed: int) -> float:
    """Return the AUROC over at most 160 patches of each case, drawn as `cap_cases` says.

    It tells what AUROC would be if a few large cases did not dominate.

    Raises:
        UndefinedMetricError: If the drawn patches are of one class.
        InputError: If there is no patch or only one class, or a score is NaN or infinite.
    """
    require_both_classes(y_true, y_score)
    rows = cap_cases(y_true, y_score, case, seed=seed)
    if np.all(y_true[rows]) or not np.any(y_true[rows]):
        raise UndefinedMetricError(
            f"the {len(rows)} patches drawn, at most {MAX_PATCHES_PER_CASE} a case, are of one "
            "class"
        )
    return float(sk.roc_auc_score(y_true[rows], y_score[rows]))


def cap_cases(
    y_true: np.ndarray, y_score: np.ndarray, case: np.ndarray, *, seed: int
) -> np.ndarray:
    """Return the rows of at most 160 patches of each case, drawn at random, int64.

    The draw depends on the seed and on what is drawn from, not on the order of the patches.
    """
    case_index, sizes = np.unique(case, return_inverse=True, return_counts=True)[1:]
    order = np.lexsort((y_true, y_score, case_index))
    shuffled = order[np.random.default_rng(seed).permutation(len(order))]
    by_case = shuffled[np.argsort(case_index[shuffled], kind="stable")]
    place_in_case = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return by_case[place_in_case < MAX_PATCHES_PER_CASE]


def require_both_classes(y_true: np.ndarray, values: np.ndarray) -> None:
    """Check that there are patches of both classes, each with a finite score or prediction.

    Raises:
        InputError: Otherwise; the message names the fault.
    """
    num_patches, num_idc = len(y_true), int(np.count_nonzero(y_true))
    if num_patches == 0:
        raise InputError("no patches to evaluate: the subset is empty")
    if len(values) != num_patches:
        raise InputError(f"{num_patches} labels but {len(values)} scores: one is needed per patch")
    num_unusable = num_patches - int(np.count_nonzero(np.isfinite(values)))
    if num_unusable:
        raise InputError(f"{num_unusable} of {num_patches} scores are NaN or infinite")
    if num_idc in (0, num_patches):
        only = "IDC+" if num_idc else "IDC-"
        raise InputError(f"all {num_patches} patches are {only}: metrics need both classes")


def require_probabilities(y_true: np.ndarray, y_score: np.ndarray) -> None:
    """Check as `require_both_classes` does, and that every score is in [0, 1].

    Raises:
        InputError: Otherwise; the message names the fault.
    """
    require_both_classes(y_true, y_score)
    low, high = float(np.min(y_score)), float(np.max(y_score))
    if low < 0.0 or high > 1.0:
        raise InputError(f"scores run from {low:g} to {high:g}: probabilities are needed")
