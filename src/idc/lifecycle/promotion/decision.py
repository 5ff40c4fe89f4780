"""The rule: superior in balanced accuracy, and not inferior by more than a margin elsewhere.

Superiority is tested by the lower bound of the paired difference; each margin by the bound on the
side of the loss, as a test of non-inferiority (ICH E9, section 3.3.2): a loss is ruled out not
because none was found, but because a loss as large as the margin would have been found. Calibration
is judged by the Brier score: a mean over patches, for which the bootstrap over few cases works,
whereas a binned calibration error is biased upwards in small samples.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from idc.core.config import PromotionConfig
from idc.evaluation.compare import paired_differences
from idc.evaluation.statistics.bootstrap import Bootstrap, bootstrap_metrics, summarise_cases
from idc.lifecycle.promotion.gate import GateScores

_HALF = 0.5  # separates the decisions 0 and 1
_OF_DECISIONS = ("balanced_accuracy", "sensitivity", "specificity")
_SUPERIORITY_ERROR = 0.025  # one-sided: probability per decision that a model no better passes
_MARGIN_ERROR = 0.05
"""One-sided: the probability, per margin, that a loss as large as the margin passes. Larger than
the other, because about 20 gate cases cannot show at .025 that an equal model stays within it."""
_OF_SCORES = ("auroc", "brier")


@dataclass(frozen=True)
class Reason:
    """One rule and whether it holds."""

    rule: str
    holds: bool
    text: str


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and all that the decision is based on."""

    promote: bool
    reasons: tuple[Reason, ...]
    figures: dict[str, Any]
    """`gate` (counts of cases and patches), `champion` and `challenger` (metrics with 95 %
    intervals; champion is None without one), `differences` (challenger minus champion, with
    `value`, `low` and `high` of the 95 % interval)."""


def decide(
    y_true: np.ndarray,
    case: np.ndarray,
    champion: GateScores | None,
    challenger: GateScores,
    config: PromotionConfig,
    bootstrap: Bootstrap,
) -> Decision:
    """Decide by the patches of the gate.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        case: Case id of each patch, (patches,).
        champion: The champion's predictions; None if there is no champion yet.
        challenger: The challenger's predictions for the same patches.
        config: The margins.
        bootstrap: Of cases.

    Raises:
        InputError: If there are fewer than three cases, or only one class.
    """
    figures: dict[str, Any] = {
        "gate": asdict(summarise_cases(y_true, case)),
        "champion": None if champion is None else _measure(y_true, case, champion, bootstrap),
        "challenger": _measure(y_true, case, challenger, bootstrap),
        "differences": {},
    }
    if champion is None:
        reasons: tuple[Reason, ...] = (_stand_above_minimum(figures["challenger"], config),)
    else:
        differences, reasons = compare(y_true, case, champion, challenger, config, bootstrap)
        figures["differences"] = differences
    return Decision(all(reason.holds for reason in reasons), reasons, figures)


def compare(
    y_true: np.ndarray,
    case: np.ndarray,
    champion: GateScores,
    challenger: GateScores,
    config: PromotionConfig,
    bootstrap: Bootstrap,
) -> tuple[dict[str, dict[str, float]], tuple[Reason, ...]]:
    """Return the paired differences with their 95 % intervals, and the outcome of each rule.

    The arguments are those of `decide`.
    """
    pairs = dict.fromkeys(_OF_DECISIONS, (champion.y_pred, challenger.y_pred))
    pairs |= dict.fromkeys(_OF_SCORES, (champion.y_score, challenger.y_score))
    differences = paired_differences(y_true, case, pairs, bootstrap)
    gain = differences["balanced_accuracy"].lower_bound(_SUPERIORITY_ERROR)
    loss = differences["sensitivity"].lower_bound(_MARGIN_ERROR)
    rise = differences["brier"].upper_bound(_MARGIN_ERROR)
    reasons = (
        Reason(
            "superiority",
            gain > 0,
            f"balanced accuracy {differences['balanced_accuracy'].value:+.4f}, lower bound "
            f"{gain:+.4f} must lie above 0",
        ),
        Reason(
            "sensitivity margin",
            loss > -config.max_sensitivity_loss,
            f"sensitivity {differences['sensitivity'].value:+.4f}, lower bound {loss:+.4f} must "
            f"lie above {-config.max_sensitivity_loss:+.4f}",
        ),
        Reason(
            "calibration margin",
            rise < config.max_brier_rise,
            f"Brier score {differences['brier'].value:+.4f}, upper bound {rise:+.4f} must lie "
            f"below {config.max_brier_rise:+.4f}",
        ),
    )
    estimates = {name: asdict(each.estimate()) for name, each in differences.items()}
    return estimates, reasons


def _measure(
    y_true: np.ndarray, case: np.ndarray, scored: GateScores, bootstrap: Bootstrap
) -> dict[str, dict[str, float]]:
    measured: dict[str, dict[str, float]] = {}
    for names, values in (
        (_OF_DECISIONS, scored.y_pred.astype(np.float64)),
        (_OF_SCORES, scored.y_score),
    ):
        estimates = bootstrap_metrics(
            y_true, values, case, _HALF, bootstrap, names=names,
        )  # fmt: skip
        measured |= {name: asdict(estimate) for name, estimate in estimates.items()}
    return measured


def _stand_above_minimum(figures: dict[str, dict[str, float]], config: PromotionConfig) -> Reason:
    value, low = (figures["balanced_accuracy"][key] for key in ("value", "low"))
    return Reason(
        "minimum for the first champion",
        low > config.first_balanced_accuracy,
        f"balanced accuracy {value:.4f}, lower end {low:.4f} of its 95 % interval must lie above "
        f"{config.first_balanced_accuracy:.4f}",
    )
