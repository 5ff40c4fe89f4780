"""Predictions -> operating point from val, metrics with intervals, points of the curves."""

import logging
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from idc.core import layout
from idc.core.config import Params
from idc.core.errors import InputError
from idc.core.files import replacing_folder, save_json
from idc.data.tables import SPLITS_SCHEMA, load_scores, load_table
from idc.evaluation.ablation import OtherScores, score_others
from idc.evaluation.cases.calibrated_burden import fit_burden
from idc.evaluation.cases.context import KernelName, average_context, choose_kernel
from idc.evaluation.curves import (
    confusion_rows,
    pr_points,
    reliability_points,
    roc_points,
    threshold_points,
)
from idc.evaluation.decisions import column_thresholds, decide_patches
from idc.evaluation.published import benchmark_row
from idc.evaluation.statistics.bootstrap import (
    Bootstrap,
    Estimate,
    bootstrap_metrics,
    bootstrap_share,
    flatten_estimates,
    summarise_cases,
)
from idc.evaluation.statistics.metrics import MIN_CASES
from idc.evaluation.summary import (
    burden_table,
    complete_patches,
    summarise_ablation,
    summarise_burden,
    summarise_places,
    summarise_subgroups,
)
from idc.evaluation.threshold.calibration import bootstrap_threshold, fit_calibration, prior_shift
from idc.evaluation.threshold.operating_point import OperatingPoint
from idc.models.spec import digest_bundle, load_spec

log = logging.getLogger(__name__)

_CLASSES = ("IDC-", "IDC+")
_HALF = 0.5  # between the decisions 0 and 1
_PUBLISHED_TEST = "benchmark162/test.txt"


def run(params: Params) -> None:
    """Freeze the operating point on val, then look at test.

    Raises:
        InputError: If predictions or scores of baselines are missing, NaN, of one class only on a
            subset, or of cases that the split does not have there.
    """
    predictions = load_scores(layout.PREDICTIONS, layout.BASELINE_SCORES)
    _reject_unknown_cases(predictions)
    held_out = {name: predictions[predictions["split"] == name] for name in ("val", "test")}
    for name, subset in held_out.items():
        _reject_one_class(name, subset)
    bootstrap = Bootstrap(params.evaluate.num_replicates, params.seeds.statistics)
    point = _choose_operating_point(held_out["val"], params, bootstrap)
    val, test = (decide_patches(subset, point) for subset in held_out.values())
    others = score_others(val, test, params.evaluate.threshold_rule)
    metrics, left_out = _measure(val, test, point, bootstrap)
    metrics |= _measure_slivers(test, bootstrap) | _measure_others(test, others, bootstrap)
    summary = _summarise(test, others, point, bootstrap) | {"left_out": left_out}
    summary["burden"], cases = _measure_burden(val, test, bootstrap)
    summary["benchmark"] = _compare_with_published(test, metrics)
    metrics |= _flatten(summary)
    # written only now: a fault on test must not leave half of the results behind
    point.save(layout.OPERATING_POINT)
    save_json(layout.METRICS, metrics)
    save_json(layout.EVALUATION, summary)
    _save_tables(test, cases, bootstrap)
    log.info(
        "test AUROC %.3f [%.3f, %.3f], colour baseline %.3f; %s",
        *(metrics[f"test/auroc{end}"] for end in ("", "_low", "_high")),
        metrics["test_colour/auroc"],
        summary["benchmark"]["text"],
    )


def _reject_unknown_cases(predictions: pd.DataFrame) -> None:
    splits = load_table(layout.SPLITS, SPLITS_SCHEMA)
    split_unit = pd.MultiIndex.from_frame(splits[["case", "split"]])
    scored = pd.MultiIndex.from_frame(predictions[["case", "split"]])
    strange = scored.difference(split_unit)
    if len(strange):
        case, subset = strange[0]
        raise InputError(
            f"{layout.PREDICTIONS} has case {case} on {subset}, {layout.SPLITS} has not: "
            "run `dvc repro predict`"
        )


def _reject_one_class(name: str, subset: pd.DataFrame) -> None:
    if subset["y_true"].nunique() < len(_CLASSES):
        held = f"are all {_CLASSES[subset['y_true'].iloc[0]]}" if len(subset) else "are there"
        raise InputError(
            f"{layout.PREDICTIONS}: {len(subset)} patches of {name} {held}, metrics need both "
            "classes: change the sections sample or split of params.yaml and run `dvc repro`"
        )


def _choose_operating_point(
    val: pd.DataFrame, params: Params, bootstrap: Bootstrap
) -> OperatingPoint:
    y_true, logits = val["y_true"].to_numpy(), val["logit"].to_numpy()
    calibration = fit_calibration(logits, y_true)
    threshold = bootstrap_threshold(
        y_true,
        calibration.apply(logits),
        val["case"].to_numpy(),
        params.evaluate.threshold_rule,
        bootstrap,
    )
    spec = load_spec(layout.BUNDLE)
    shift = prior_shift(float(y_true.mean()), spec.num_training_patches, spec.class_weights)
    log.info(
        "calibration: slope %.3f, intercept %.3f; prevalence alone gives intercept %.3f at slope 1",
        calibration.slope, calibration.intercept, shift,
    )  # fmt: skip
    point = OperatingPoint(
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
    context = params.evaluate.context
    return point if context == "none" else _add_context(point, val, context, bootstrap)


def _add_context(
    point: OperatingPoint, val: pd.DataFrame, context: KernelName, bootstrap: Bootstrap
) -> OperatingPoint:
    """Choose kernel, calibration and threshold of averaged scores, on val as well."""
    log_odds = point.slope * val["logit"].to_numpy(np.float64) + point.intercept
    case, x, y, y_true = (val[name].to_numpy() for name in ("case", "x", "y", "y_true"))
    kernel = choose_kernel(context, case, x, y, log_odds, y_true)
    around = average_context(case, x, y, log_odds, kernel)
    calibration = fit_calibration(around, y_true)
    threshold = bootstrap_threshold(
        y_true, calibration.apply(around), case, point.threshold_rule, bootstrap
    )
    return replace(
        point,
        context=kernel.name,
        context_width=kernel.width,
        context_slope=calibration.slope,
        context_intercept=calibration.intercept,
        context_threshold=threshold.value,
        context_threshold_low=threshold.low,
        context_threshold_high=threshold.high,
    )


def _measure(
    val: pd.DataFrame, test: pd.DataFrame, point: OperatingPoint, bootstrap: Bootstrap
) -> tuple[dict[str, float], dict[str, dict[str, str]]]:
    """Return flat metrics: natural prevalence as `test/*`, the manifest's share apart.

    And by subset and metric why one is not among them; `every metric` stands for all of a subset.
    """
    manifest = test[test["in_manifest"]]
    subsets = {"val": (val, ""), "test": (test, ""), "test_manifest": (manifest, "")}
    thresholds = column_thresholds(point)
    if "context_" in thresholds:
        subsets["test_context"] = (test, "context_")
    metrics: dict[str, float] = {}
    left_out: dict[str, dict[str, str]] = {}
    for name, (subset, prefix) in subsets.items():
        if name == "test_manifest" and (reason := _why_unmeasurable(subset)):
            left_out[name] = {"every metric": reason}
            continue
        y_true, case = subset["y_true"].to_numpy(), subset["case"].to_numpy()
        estimates = bootstrap_metrics(
            y_true,
            subset[f"{prefix}y_score"].to_numpy(),
            case,
            thresholds[prefix],
            bootstrap,
        )
        metrics |= flatten_estimates(name, estimates)
        if estimates.undefined:
            left_out[name] = estimates.undefined
        counts: dict[str, Any] = asdict(summarise_cases(y_true, case))
        metrics |= {f"{name}/{key}": value for key, value in counts.items()}
    for name, reasons in left_out.items():
        for metric, reason in reasons.items():
            log.info("%s/%s is left out: %s", name, metric, reason)
    return metrics, left_out


def _why_unmeasurable(manifest: pd.DataFrame) -> str:
    """Return what the manifest's patches of a subset lack; nothing is lacking where it is empty."""
    num_cases = manifest["case"].nunique()
    if manifest["y_true"].nunique() < len(_CLASSES):
        return f"its {len(manifest)} patches lack a class"
    return f"{num_cases} of {MIN_CASES} cases needed" if num_cases < MIN_CASES else ""


def _measure_others(
    test: pd.DataFrame, others: dict[str, OtherScores], bootstrap: Bootstrap
) -> dict[str, float]:
    """Measure each member alone and each baseline, by the primary metrics only."""
    metrics: dict[str, float] = {}
    for name, other in others.items():
        for metric, score in (("auroc", other.y_score), ("balanced_accuracy", other.y_pred)):
            estimates = bootstrap_metrics(
                test["y_true"].to_numpy(),
                score.astype(np.float64),
                test["case"].to_numpy(),
                _HALF,
                bootstrap,
                names=(metric,),
            )
            metrics |= flatten_estimates(f"test_{name}", estimates)
    return metrics


def _summarise(
    test: pd.DataFrame,
    others: dict[str, OtherScores],
    point: OperatingPoint,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Return what `reports/evaluation.json` holds of patches."""
    return {
        "ablation": summarise_ablation(test, others, bootstrap),
        "subgroups": summarise_subgroups(test, point.threshold, bootstrap),
        "places": summarise_places(test, column_thresholds(point), bootstrap),
    }


def _measure_burden(
    val: pd.DataFrame, test: pd.DataFrame, bootstrap: Bootstrap
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return what `reports/evaluation.json` holds of whole cases, and the test cases."""
    val_cases = burden_table(val)
    line = fit_burden(val_cases)
    cases = line.add_to(burden_table(test))
    constant = float(val_cases["burden"].mean())
    summary = summarise_burden(test, cases, constant, bootstrap)
    return summary | {"calibration": asdict(line)}, cases


def _compare_with_published(test: pd.DataFrame, metrics: dict[str, float]) -> dict[str, Any]:
    published = (layout.CASE_LISTS / _PUBLISHED_TEST).read_text(encoding="utf-8").split()
    return benchmark_row(
        set(test["case"]),
        published,
        num_patches=len(test),
        prevalence=float(test["y_true"].mean()),
        balanced_accuracy=Estimate(
            *(metrics[f"test/balanced_accuracy{end}"] for end in ("", "_low", "_high"))
        ),
    )


def _flatten(summary: dict[str, Any]) -> dict[str, float]:
    """Return the summary's estimates as flat metrics, so that MLflow's runs can be compared."""
    flat: dict[str, float] = {}
    for name, metrics in summary["ablation"]["differences"].items():
        flat |= flatten_estimates(
            f"fusion_minus_{name}", {key: Estimate(**value) for key, value in metrics.items()}
        )
    errors = summary["burden"]["errors"]
    flat |= flatten_estimates(
        "test_burden", {key: Estimate(**value) for key, value in errors.items()}
    )
    for subset, figures in summary["places"].items():
        known = {key: Estimate(**value) for key, value in figures.items() if "value" in value}
        flat |= flatten_estimates(subset, known)
    return flat


def _measure_slivers(test: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, float]:
    """Report slide-edge patches apart: their padding must not have taught the model their label.

    They are nearly all IDC-, so specificity is what they can tell; it needs three cases or more.
    """
    slivers = test[test["sliver"]]
    called = slivers["y_pred"].to_numpy() == 1
    is_idc = slivers["y_true"].to_numpy() == 1
    metrics: dict[str, float] = {
        "test_sliver/num_patches": len(slivers),
        "test_sliver/num_idc": int(is_idc.sum()),
        "test_sliver/num_idc_found": int((is_idc & called).sum()),
    }
    case = slivers["case"].to_numpy()[~is_idc]
    if len(np.unique(case)) >= MIN_CASES:
        specificity = bootstrap_share(~called[~is_idc], case, bootstrap)
        metrics |= flatten_estimates("test_sliver", {"specificity": specificity})
    return metrics


def _save_tables(test: pd.DataFrame, cases: pd.DataFrame, bootstrap: Bootstrap) -> None:
    y_true, y_score = test["y_true"].to_numpy(), test["y_score"].to_numpy()
    reliability = reliability_points(
        y_true,
        y_score,
        test["case"].to_numpy(),
        bootstrap,
    )
    with replacing_folder(layout.PLOTS) as partial:
        roc_points(y_true, y_score).to_csv(partial / "roc.csv", index=False)
        pr_points(y_true, y_score).to_csv(partial / "pr.csv", index=False)
        threshold_points(y_true, y_score).to_csv(partial / "thresholds.csv", index=False)
        reliability.to_csv(partial / "reliability.csv", index=False)
        confusion = confusion_rows(y_true, test["y_pred"].to_numpy())
        confusion.to_csv(partial / "confusion.csv", index=False)
    # apart: DVC would draw them as curves
    with replacing_folder(layout.CASES) as partial:
        cases.to_csv(partial / "burden.csv", index=False)
        complete_patches(test).to_csv(partial / "slides.csv", index=False)
