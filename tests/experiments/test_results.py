import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from idc.cli import main
from idc.core.errors import InputError
from idc.core.files import load_json
from idc.evaluation.statistics.metrics import auroc
from idc.experiments.folds import RESULTS
from idc.experiments.results import (
    compare_files,
    keep_training_minutes,
    load_scorings,
    load_training_minutes,
    pool_results,
    score_columns,
)
from tests.experiments.finished_folds import NUM_FOLDS, write_baselines, write_fold, write_results


def test_pool_results_when_folds_are_done_then_writes_table_and_figures(project):
    first = write_fold(project / "0", 0, 1.5, digest="aa.dir")
    second = write_fold(project / "1", 1, 1.5, digest="bb.dir")
    keep_training_minutes(project, first, 90.0)
    pool_results(project, "one/two", "case", {0: first, 1: second})
    table = pd.read_parquet(project / RESULTS / "one/two/predictions.parquet")
    figures = load_json(project / RESULTS / "one/two/metrics.json")
    assert set(table["fold"]) == {0, 1}
    assert figures["logit/auroc"] == pytest.approx(auroc(table["y_true"], table["logit"]))
    assert figures["logit/auroc_low"] < figures["logit/auroc"] < figures["logit/auroc_high"]
    assert [figures["folds"][fold]["model"] for fold in ("0", "1")] == ["aa.dir", "bb.dir"]
    assert figures["folds"]["0"]["training_minutes"] == 1.5
    assert figures["folds"]["1"]["training_minutes"] is None
    training = ("num_training_patches", "num_training_cases", "share_touching_train")
    assert [figures["folds"]["1"][key] for key in training] == [60, 3, 0.25]
    cases = load_json(project / RESULTS / "one/two/cases.json")
    assert [cases["calibration"][fold]["num_cases"] for fold in ("0", "1")] == [3, 3]
    assert cases["errors"]["mae_calibrated"] == cases["errors"]["mae_score"]
    assert [row["num_cases"] for row in cases["any_idc"]] == [6, 6]


def test_training_minutes_when_another_workspace_has_the_same_model_then_they_are_its_too(project):
    trained = write_fold(project / "trained", 0, 1.0, digest="aa.dir")
    reused = write_fold(project / "reused", 0, 1.0, digest="aa.dir")
    other = write_fold(project / "other", 0, 1.0, digest="bb.dir")
    keep_training_minutes(project, trained, 120.0)
    assert load_training_minutes(project, reused) == 2.0
    assert load_training_minutes(project, other) is None


def test_compare_files_when_the_second_holds_baselines_then_each_column_is_compared(project):
    ours = write_results(project, "ours", 1.0)
    y_true = pd.read_parquet(ours)["y_true"]
    peers = write_baselines(project, ours, trees=y_true * 9.0, coin=0.5)
    found = compare_files(project, ours, peers)
    ours_columns, others = ("logit", "logit_colour", "logit_context"), ("trees", "coin")
    assert list(found) == [f"{one} - {other}" for one in ours_columns for other in others]
    assert found["logit - trees"]["auroc"].high < 0 < found["logit - coin"]["auroc"].low
    assert list(found["logit - trees"]) == ["auroc"]


def test_compare_files_when_both_have_decisions_then_balanced_accuracy_is_compared(project):
    ours, other = (write_results(project, name, s) for name, s in (("ours", 2.0), ("other", 1.0)))
    found = compare_files(project, ours, other)["logit - logit"]
    assert found["auroc"].value > 0
    assert found["balanced_accuracy"].value > 0


def test_compare_files_when_folds_differ_then_refuses(project):
    ours = write_results(project, "ours", 1.0)
    peers = write_baselines(project, ours, trees=0.5)
    table = pd.read_parquet(peers)
    table["fold"] = (table["fold"] + 1) % NUM_FOLDS
    table.to_parquet(peers)
    with pytest.raises(InputError, match=r"9 cases were tested in different folds \(case b0c0"):
        compare_files(project, ours, peers)


def test_compare_when_called_then_prints_a_table_and_writes_it_beside_the_first(project, capsys):
    ours = write_results(project, "ours", 1.0)
    peers = write_baselines(project, ours, trees=0.5)
    assert main(["compare", str(ours), str(peers)]) == 0
    assert "| logit - trees | auroc | +0." in capsys.readouterr().out
    saved = load_json(ours.parent / "against-baselines.json")
    assert saved["logit - trees"]["auroc"]["value"] > 0
    assert main(["compare", "ours", str(peers), "--json"]) == 0  # a result by its name
    assert json.loads(capsys.readouterr().out) == saved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="fold"), "lacks the column fold"),
        (lambda t: t[["case", "x", "y", "y_true", "fold"]], "holds no scores"),
        (lambda t: t.assign(trees=np.nan), "of column trees are NaN"),
        (lambda t: t.assign(y_true=2), "y_true must be 0 or 1"),
    ],
)
def test_load_scorings_when_the_file_is_wrong_then_says_what(project, change, message):
    ours = write_results(project, "ours", 1.0)
    path = write_baselines(project, ours, trees=0.5)
    change(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(InputError, match=rf"baselines\.parquet.*{message}"):
        load_scorings(path)


def test_load_scorings_when_it_is_no_parquet_then_says_so(project):
    with pytest.raises(InputError, match=r"params\.yaml cannot be read"):
        load_scorings(Path("params.yaml"))


def test_score_columns_when_there_are_logits_then_they_are_the_scorings():
    keys = {name: [1] for name in ("case", "x", "y", "y_true", "fold", "y_pred")}
    assert score_columns(pd.DataFrame({**keys, "logit": [1.0], "logit_context": [1.0]})) == [
        "logit",
        "logit_context",
    ]
    assert score_columns(pd.DataFrame({**keys, "trees": [1.0], "note": ["x"]})) == ["trees"]
