"""All that turns a model's logit into a decision, frozen on val and kept in one file."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from idc.core.config import required_sensitivity
from idc.core.errors import InputError
from idc.core.files import load_json, save_json
from idc.evaluation.cases.context import WIDTHS, Kernel
from idc.evaluation.threshold.calibration import Calibration

Context = Literal["none", "mean9", "gaussian"]

_NUMBERS = ("slope", "intercept", "threshold", "threshold_low", "threshold_high", "prior_shift")
_LARGEST = 1e9
_MAX_SHOWN = 200  # characters of a wrong value
_CONTEXT_NUMBERS = (
    "context_slope",
    "context_intercept",
    "context_threshold",
    "context_threshold_low",
    "context_threshold_high",
)
# of files of a time when only `mean9` was known, whose means were not calibrated anew
_OLD_CONTEXT = {"context_width": None, "context_slope": 1.0, "context_intercept": 0.0}


@dataclass(frozen=True)
class OperatingPoint:
    """Calibration and thresholds of one model, and how the logits they fit are made."""

    slope: float
    intercept: float
    threshold: float
    threshold_low: float
    """End of the threshold's 95 % interval over val's cases, the calibration held."""
    threshold_high: float
    threshold_rule: str
    prior_shift: float
    """The intercept that the prevalences of val's pool and of training alone would give."""
    model_digest: str
    """Digest of the model these numbers were fitted to; they mean nothing for another."""
    d4_average: bool
    """Whether they were fitted to logits averaged over the eight symmetries of the square. It is
    `predict.d4_average`, kept here because whoever applies the point, as the served model does,
    has no params.yaml and must score the same way."""
    context: Context = "none"
    """What scores are averaged over before the decision: `mean9` is each patch and its up to eight
    touching pool patches, `gaussian` those around it by their distance."""
    context_width: float | None = None
    """Standard deviation of `gaussian`, in patches; None for the others."""
    context_slope: float = 1.0
    """Calibration of the averaged log-odds, which are milder than those of a patch alone."""
    context_intercept: float = 0.0
    context_threshold: float | None = None
    """Threshold of scores averaged so; None where none was chosen."""
    context_threshold_low: float | None = None
    """End of its 95 % interval over val's cases, the calibration held."""
    context_threshold_high: float | None = None

    def score(self, logit: np.ndarray) -> np.ndarray:
        """Return the calibrated probability of IDC+ for each logit, float64 in [0, 1]."""
        return Calibration(self.slope, self.intercept).apply(logit)

    def predict(self, logit: np.ndarray) -> np.ndarray:
        """Return the decision for each logit: int8, 1 where the score reaches the threshold."""
        return (self.score(logit) >= self.threshold).astype(np.int8)

    @property
    def kernel(self) -> Kernel | None:
        """What scores are averaged by; None where each patch is alone."""
        return None if self.context == "none" else Kernel(self.context, self.context_width)

    def score_context(self, log_odds: np.ndarray) -> np.ndarray:
        """Return the calibrated probability of IDC+ for averaged log-odds, float64 in [0, 1]."""
        return Calibration(self.context_slope, self.context_intercept).apply(log_odds)

    def save(self, path: Path) -> None:
        """Write as JSON; every number is read back bit for bit."""
        save_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path, *, model_digest: str) -> "OperatingPoint":
        """Read what `save` wrote, to apply it to a model.

        Args:
            path: The file.
            model_digest: Digest of that model, by `idc.models.bundle.digest_bundle`.

        Raises:
            InputError: If the file is missing, is not JSON, has a missing, unknown or wrong key, or
                was fitted to another model.
        """
        content = load_json(path)
        if isinstance(content, dict):
            content = _OLD_CONTEXT | content
        _require_operating_point(content, path)
        if content["model_digest"] != model_digest:
            raise InputError(
                f"{path} was fitted to the model {content['model_digest']}, but is to be applied "
                f"to the model {model_digest}: run `dvc repro evaluate`"
            )
        return cls(**content)


def _require_operating_point(content: Any, path: Path) -> None:  # noqa: ANN401  (any JSON value)
    remedy = f"delete {path} and run `dvc repro`"
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no operating point: {remedy}")
    known = {field.name for field in fields(OperatingPoint)}
    for keys, fault in ((known - content.keys(), "lacks"), (content.keys() - known, "has unknown")):
        if keys:
            raise InputError(f"{path} {fault} {', '.join(sorted(keys))}: {remedy}")
    wrong = _find_wrong_value(content)
    if wrong:
        raise InputError(f"{path}: {wrong}: {remedy}")


def _find_wrong_value(content: dict[str, Any]) -> str | None:
    if content["context"] not in get_args(Context):
        return f"context = {_shorten(content['context'])} is none of {', '.join(get_args(Context))}"
    for key in (*_NUMBERS, *_CONTEXT_NUMBERS):
        may_lack = key in _CONTEXT_NUMBERS and content["context"] == "none"
        value = content[key]
        if may_lack and value is None:
            continue
        # no number, or none that a score can be computed with; NaN is not below anything
        if type(value) not in (int, float) or not abs(value) < _LARGEST:
            return f"{key} = {_shorten(value)} is not a number of use"
    width = content["context_width"]
    if (width is not None) != (content["context"] == "gaussian") or not _is_width(width):
        return f"context_width = {_shorten(width)} is no width of {content['context']}"
    if not isinstance(content["model_digest"], str):
        return "model_digest is not text"
    if not isinstance(content["d4_average"], bool):
        return "d4_average is neither true nor false"
    try:
        required_sensitivity(content["threshold_rule"])
    except (AttributeError, TypeError, ValueError):
        return f"threshold_rule = {_shorten(content['threshold_rule'])}"
    return None


def _is_width(value: object) -> bool:
    return value is None or (type(value) in (int, float) and WIDTHS[0] <= value <= WIDTHS[1])  # type: ignore[operator]


def _shorten(value: object) -> str:
    return repr(value)[:_MAX_SHOWN]
