"""What is more than one number per metric, ready for JSON: `reports/evaluation.json`.

Each function takes a decided subset (`idc.evaluation.decisions.decide_patches`).
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from idc.evaluation.ablation import OtherScores, compare_with_others, describe_gain, name_members
from idc.evaluation.cases.any_idc import measure_any_idc
from idc.evaluation.cases.burden import (
    Absent,
    compare_burden,
    find_complete_cases,
    find_worst_cases,
    measure_agreement,
    measure_burden,
    measure_dice,
)
from idc.evaluation.statistics.bootstrap import Bootstrap
from idc.evaluation.subgroups import (
    REGION_FIGURES,
    measure_borders,
    measure_regions,
    subgroup_table,
)

NUM_WORST_CASES = 10
MIN_IDC_PATCHES = (1, 2)
"""From how many IDC+ patches on a case has IDC: any at all, or more than a slip of the pen."""


def summarise_ablation(
    test: pd.DataFrame, others: Mapping[str, OtherScores], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return how the fusion fares against each member alone and each baseline on test.

    Args:
        test: Decided test set.
        others: As `idc.evaluation.ablation.score_others` returns them.
        bootstrap: How cases are drawn.

    Returns:
        `text`: whether the fusion beats its best single member; `members`: their names and titles;
        `differences`: by name and metric, fusion minus other (value, low, high).
    """
    fusion = OtherScores(test["y_score"].to_numpy(), test["y_pred"].to_numpy())
    differences = compare_with_others(test, fusion, others, bootstrap)
    members = name_members(test)
    return {
        "text": describe_gain(differences, members),
        "members": [{"name": name, "title": title} for name, title in members.items()],
        "differences": {
            name: {metric: vars(estimate) for metric, estimate in metrics.items()}
            for name, metrics in differences.items()
        },
    }


def summarise_subgroups(
    test: pd.DataFrame, threshold: float, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """Return the rows of `subgroup_table`; numbers that cannot be given are None."""
    table = subgroup_table(test, threshold, bootstrap)
    return _records(table)


def summarise_places(
    test: pd.DataFrame, thresholds: Mapping[str, float], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return how patches fare at borders and inside, and in small and large IDC+ regions.

    Args:
        test: Decided test set.
        thresholds: As `idc.evaluation.decisions.column_thresholds` returns them.
        bootstrap: How cases are drawn.

    Returns:
        By `test` and `test_context`, and by figure, an estimate (value, low, high), or `reason`
        where it cannot be given. Regions are measured in complete cases alone.
    """
    complete = test["case"].isin(_complete_cases(test)).to_numpy()
    summary = {}
    for prefix, threshold in thresholds.items():
        patches = test.assign(log_odds=test[f"{prefix}log_odds"])
        figures = measure_borders(patches, threshold, bootstrap)
        if complete.any():
            figures |= measure_regions(patches[complete], threshold, bootstrap)
        else:
            figures |= dict.fromkeys(REGION_FIGURES, Absent("no case is complete"))
        subset = "test_context" if prefix else "test"
        summary[subset] = {name: vars(figure) for name, figure in figures.items()}
    return summary


def summarise_burden(
    test: pd.DataFrame, cases: pd.DataFrame, constant: float, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return how well whole cases are measured, beside a constant predictor.

    Args:
        test: Decided test set.
        cases: Its `burden_table`, calibrated by `idc.evaluation.cases.calibrated_burden`.
        constant: Mean burden of the val cases.
        bootstrap: How cases are drawn.

    Returns:
        `constant`; `errors`: mean absolute errors of burden and their differences; `agreement`
        (Bland & Altman), or its reason to be absent; `any_idc`: for any IDC+ patch and for two or
        more; `worst_by_burden` and `worst_by_balanced_accuracy`: up to ten cases each; `complete`:
        Dice of complete cases.
    """
    agreement = measure_agreement(cases["mean_score"].to_numpy(), cases["burden"].to_numpy())
    decisions = {"patch": test["y_pred"].to_numpy()}
    if "context_y_pred" in test:
        decisions["context"] = test["context_y_pred"].to_numpy()
    overlap = measure_dice(
        test["case"].to_numpy(), test["y_true"].to_numpy(), decisions, _complete_cases(test)
    )
    errors = compare_burden(cases, constant, bootstrap)
    return {
        "constant": constant,
        "errors": {name: vars(estimate) for name, estimate in errors.items()},
        "agreement": asdict(agreement),
        "any_idc": _summarise_any_idc(test, bootstrap),
        "worst_by_burden": _records(
            find_worst_cases(cases, "score_error", num_cases=NUM_WORST_CASES)
        ),
        "worst_by_balanced_accuracy": _records(
            find_worst_cases(cases, "balanced_accuracy", num_cases=NUM_WORST_CASES)
        ),
        "complete": _records(overlap),
    }


def burden_table(subset: pd.DataFrame) -> pd.DataFrame:
    """Return `idc.evaluation.cases.burden.measure_burden` of a decided subset."""
    columns = ("case", "y_true", "y_pred", "y_score")
    return measure_burden(*(subset[name].to_numpy() for name in columns))


def complete_patches(subset: pd.DataFrame) -> pd.DataFrame:
    """Return what slide maps are drawn from: the decided patches of the complete cases.

    Columns `case`, `x`, `y`, `y_true`, `y_score`, `y_pred` and, with a context, `context_y_score`.
    """
    names = ["case", "x", "y", "y_true", "y_score", "y_pred", "context_y_score"]
    kept = [name for name in names if name in subset]
    complete = subset["case"].isin(_complete_cases(subset))
    return subset.loc[complete, kept].sort_values(["case", "x", "y"], ignore_index=True)


def _summarise_any_idc(test: pd.DataFrame, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    score = "context_y_score" if "context_y_score" in test else "y_score"
    case, y_true, y_score = (test[name].to_numpy() for name in ("case", "y_true", score))
    return [
        asdict(measure_any_idc(case, y_true, y_score, bootstrap, min_idc_patches=least))
        for least in MIN_IDC_PATCHES
    ]


def _complete_cases(subset: pd.DataFrame) -> list[str]:
    return find_complete_cases(*(subset[name].to_numpy() for name in ("case", "x", "y")))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python values, None where a value is missing."""
    return [
        {str(name): None if pd.isna(value) else _plain(value) for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _plain(value: Any) -> Any:  # noqa: ANN401  (any cell)
    return value.item() if isinstance(value, np.generic) else value
