"""Predictions -> operating point from val, metrics with intervals, points of the curves."""

import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit

from idc import layout
from idc.config import EvaluateConfig, Params
from idc.data.tables import PREDICTIONS, SPLITS, load_table
from idc.errors import InputError
from idc.evaluation.bootstrap import (
    Estimates,
    bootstrap_metrics,
    bootstrap_share,
    flatten_estimates,
    summarise_cases,
)
from idc.evaluation.calibration import (
    Calibration,
    bootstrap_threshold,
    choose_threshold,
    fit_calibration,
    prior_shift,
)
from idc.evaluation.curves import (
    confusion_rows,
    pr_points,
    reliability_points,
    roc_points,
    threshold_points,
)
from idc.evaluation.metrics import MIN_CASES
from idc.evaluation.operating_point import OperatingPoint
from idc.files import replacing_folder, save_json
from idc.models.bundle import digest_bundle, load_spec

log = logging.getLogger(__name__)

_CLASSES = ("IDC-", "IDC+")


def run(params: Params) -> None:
    """Freeze the operating point on val, then look at test.

    Raises:
        InputError: If predictions are missing, NaN, of one class only on a side, or of cases that
            the split does not have there.
    """
    predictions = load_table(layout.PREDICTIONS, PREDICTIONS)
    _refuse_strange_cases(predictions)
    val = predictions[predictions["split"] == "val"]
    test = predictions[predictions["split"] == "test"]
    sides = {"val": val, "test": test, "test_manifest": test[test["in_manifest"]]}
    for name, side in sides.items():
        _refuse_one_class(name, side)
    point = _choose_operating_point(val, params)
    metrics = _measure(sides, point, params.evaluate)
    # written only now: a fault on test must not leave half of the results behind
    point.save(layout.OPERATING_POINT)
    save_json(layout.METRICS, metrics)
    _save_curves(test, point, params.evaluate)
    log.info(
        "test AUROC %.3f [%.3f, %.3f], colour floor %.3f",
        *(metrics[f"test/auroc{end}"] for end in ("", "_low", "_high")),
        metrics["test_colour/auroc"],
    )


def _refuse_strange_cases(predictions: pd.DataFrame) -> None:
    splits = load_table(layout.SPLITS, SPLITS)
    dealt = pd.MultiIndex.from_frame(splits[["case", "split"]])
    scored = pd.MultiIndex.from_frame(predictions[["case", "split"]])
    strange = scored.difference(dealt)
    if len(strange):
        case, side = strange[0]
        raise InputError(
            f"{layout.PREDICTIONS} has case {case} on {side}, {layout.SPLITS} has not: "
            "run `dvc repro predict`"
        )


def _refuse_one_class(name: str, side: pd.DataFrame) -> None:
    if side["y_true"].nunique() < len(_CLASSES):
        held = f"are all {_CLASSES[side['y_true'].iloc[0]]}" if len(side) else "are there"
        raise InputError(
            f"{layout.PREDICTIONS}: {len(side)} patches of {name} {held}, metrics need both "
            "classes: change the sections sample or split of params.yaml and run `dvc repro`"
        )


def _choose_operating_point(val: pd.DataFrame, params: Params) -> OperatingPoint:
    y_true, logits = val["y_true"].to_numpy(), val["logit"].to_numpy()
    calibration = fit_calibration(logits, y_true)
    threshold = bootstrap_threshold(
        y_true,
        calibration.apply(logits),
        val["case"].to_numpy(),
        params.evaluate.threshold_rule,
        num_replicates=params.evaluate.num_replicates,
        seed=params.evaluate.seed,
    )
    spec = load_spec(layout.BUNDLE)
    shift = prior_shift(float(y_true.mean()), spec.num_training_patches, spec.class_weights)
    log.info(
        "calibration: slope %.3f, intercept %.3f; prevalence alone gives intercept %.3f at slope 1",
        calibration.slope, calibration.intercept, shift,
    )  # fmt: skip
    return OperatingPoint(
        slope=calibration.slope,
        intercept=calibration.intercept,
        threshold=threshold.value,
        threshold_low=threshold.low,
        threshold_high=threshold.high,
        threshold_rule=params.evaluate.threshold_rule,
        prior_shift=shift,
        model_digest=digest_bundle(layout.BUNDLE),
        d4_average=params.predict.d4_average,
    )


def _measure(
    sides: dict[str, pd.DataFrame], point: OperatingPoint, config: EvaluateConfig
) -> dict[str, float]:
    """Return flat metrics: natural prevalence as `test/*`, the manifest's share apart."""
    metrics: dict[str, float] = {}
    for name, side in sides.items():
        y_true, case = side["y_true"].to_numpy(), side["case"].to_numpy()
        estimates = bootstrap_metrics(
            y_true,
            point.score(side["logit"].to_numpy()),
            case,
            point.threshold,
            num_replicates=config.num_replicates,
            seed=config.seed,
        )
        metrics |= flatten_estimates(name, estimates)
        _log_undefined(name, estimates)
        summary: dict[str, Any] = asdict(summarise_cases(y_true, case))
        metrics |= {f"{name}/{key}": value for key, value in summary.items()}
    val, test = sides["val"], sides["test"]
    metrics |= _measure_slivers(test, point, config)
    for name, score in _other_scores(val, test).items():
        estimates = _measure_other(val, test, score, config)
        metrics |= flatten_estimates(f"test_{name}", estimates)
        _log_undefined(f"test_{name}", estimates)
    return metrics


def _log_undefined(name: str, estimates: Estimates) -> None:
    for metric, reason in estimates.undefined.items():
        log.info("%s/%s is left out: %s", name, metric, reason)


def _measure_slivers(
    test: pd.DataFrame, point: OperatingPoint, config: EvaluateConfig
) -> dict[str, float]:
    """Report slide-edge patches apart: their padding must not have taught the model their label.

    They are nearly all IDC-, so specificity is what they can tell; it needs three cases or more.
    """
    slivers = test[test["sliver"]]
    called = point.predict(slivers["logit"].to_numpy()) == 1
    is_idc = slivers["y_true"].to_numpy() == 1
    metrics: dict[str, float] = {
        "test_sliver/num_patches": len(slivers),
        "test_sliver/num_idc": int(is_idc.sum()),
        "test_sliver/num_idc_found": int((is_idc & called).sum()),
    }
    case = slivers["case"].to_numpy()[~is_idc]
    if len(np.unique(case)) >= MIN_CASES:
        specificity = bootstrap_share(
            ~called[~is_idc], case, num_replicates=config.num_replicates, seed=config.seed
        )
        metrics |= flatten_estimates("test_sliver", {"specificity": specificity})
    return metrics


def _other_scores(
    val: pd.DataFrame, test: pd.DataFrame
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the logits on val and test of each backbone's own head and of the baselines."""
    scores = {
        column.removeprefix("logit_"): (val[column].to_numpy(), test[column].to_numpy())
        for column in val.columns[val.columns.str.startswith("logit_")]
    }
    for column in val.columns[val.columns.str.startswith("y_score_")]:
        scores[column.removeprefix("y_score_")] = (_as_logit(val[column]), _as_logit(test[column]))
    return scores


def _measure_other(
    val: pd.DataFrame,
    test: pd.DataFrame,
    logits: tuple[np.ndarray, np.ndarray],
    config: EvaluateConfig,
) -> Estimates:
    """Put another score through the same calibration, threshold and bootstrap."""
    y_val = val["y_true"].to_numpy()
    calibration: Calibration = fit_calibration(logits[0], y_val)
    threshold = choose_threshold(y_val, calibration.apply(logits[0]), config.threshold_rule)
    return bootstrap_metrics(
        test["y_true"].to_numpy(),
        calibration.apply(logits[1]),
        test["case"].to_numpy(),
        threshold,
        num_replicates=config.num_replicates,
        seed=config.seed,
    )


def _as_logit(probability: pd.Series) -> np.ndarray:
    return np.asarray(logit(probability.clip(1e-9, 1 - 1e-9).to_numpy()))


def _save_curves(test: pd.DataFrame, point: OperatingPoint, config: EvaluateConfig) -> None:
    y_true, logits = test["y_true"].to_numpy(), test["logit"].to_numpy()
    y_score = point.score(logits)
    reliability = reliability_points(
        y_true,
        y_score,
        test["case"].to_numpy(),
        num_replicates=config.num_replicates,
        seed=config.seed,
    )
    with replacing_folder(layout.PLOTS) as partial:
        roc_points(y_true, y_score).to_csv(partial / "roc.csv", index=False)
        pr_points(y_true, y_score).to_csv(partial / "pr.csv", index=False)
        threshold_points(y_true, y_score).to_csv(partial / "thresholds.csv", index=False)
        reliability.to_csv(partial / "reliability.csv", index=False)
        confusion_rows(y_true, point.predict(logits)).to_csv(partial / "confusion.csv", index=False)
