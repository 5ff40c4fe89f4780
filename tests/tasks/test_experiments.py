import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from flows.experiments import main, parse_override
from idc.data.tables import PREDICTIONS, save_table
from idc.errors import InputError
from idc.evaluation.metrics import auroc
from idc.files import load_json, save_json
from idc.layout import DVC_LOCK, LEAKAGE_REPORT
from idc.layout import PREDICTIONS as PREDICTIONS_PATH
from tasks.experiment_results import (
    compare_files,
    keep_training_minutes,
    load_scorings,
    load_training_minutes,
    pool_results,
    score_columns,
)
from tasks.experiments import (
    RESULTS,
    Plan,
    check_name,
    check_overrides,
    choose_folds,
    fold_overrides,
    load_plan,
)
from tasks.screen import describe_variant, format_screen

ROOT = Path(__file__).parents[2]
NUM_FOLDS = 3
LEAKAGE = {"sides": {"train": {"num_patches": 60, "num_cases": 3}},
           "share_touching_train": {"val": 0.0, "test": 0.25}}  # fmt: skip
PLAN = {
    "base": {"name": "tiny", "overrides": {"train.epochs": 1}},
    "folds": {"num_folds": NUM_FOLDS, "only": None},
    "variants": {"better": {"train.ema_decay": 0.9}},
}
REPEATED = PLAN["base"] | {"repeats": {"again": {"train.seed": 18}}}


@pytest.fixture
def project(tmp_path, monkeypatch):
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content["evaluate"]["num_replicates"] = 100
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_plan(project, **changes):
    path = project / "experiments.yaml"
    path.write_text(yaml.safe_dump(PLAN | changes), encoding="utf-8")
    return path


def write_fold(workspace, fold, strength, digest="1a.dir"):
    """What the stages of a fold leave behind: it tests block k, its val side is the next block."""
    parts = []
    for split, block in (("test", fold), ("val", (fold + 1) % NUM_FOLDS)):
        rng = np.random.default_rng([1, block])
        y_true = (rng.random(120) < 0.4).astype(np.int8)
        noise, number = rng.normal(size=120), rng.integers(0, 3, 120)
        parts.append(
            pd.DataFrame(
                {
                    "case": [f"b{block}c{n}" for n in number],
                    "x": 50 * np.arange(120, dtype=np.int32) + 1,
                    "y": np.int32(1),
                    "split": split,
                    "in_manifest": False,
                    "sliver": False,
                    "mean_optical_density": 0.3,
                    "white_share": 0.1,
                    "y_true": y_true,
                    "logit": (strength * y_true + noise).astype(np.float32),
                    "y_score_colour": 0.5,
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "row", np.arange(len(table), dtype=np.int64))
    save_table(workspace / PREDICTIONS_PATH, table, PREDICTIONS)
    save_json(workspace / LEAKAGE_REPORT, LEAKAGE)
    lock = {"stages": {"train": {"outs": [{"path": "models/fusion", "md5": digest}]}}}
    (workspace / DVC_LOCK).write_text(yaml.safe_dump(lock), encoding="utf-8")
    return workspace


def write_results(project, name, strength, models_of=None):
    """The results of a training; or of the models of another one, scored otherwise."""
    workspaces = {
        fold: write_fold(
            project / f"{name.replace('/', '-')}-{fold}", fold, strength,
            digest=f"{models_of or name} {fold}.dir",
        )
        for fold in range(NUM_FOLDS)
    }  # fmt: skip
    pool_results.fn(project, name, "case", workspaces)
    return project / RESULTS / name / "predictions.parquet"


def write_baselines(project, like, **columns):
    table = pd.read_parquet(like)[["case", "x", "y", "y_true", "fold"]].assign(**columns)
    path = project / "baselines.parquet"
    table.sample(frac=1.0, random_state=2).to_parquet(path, index=False)
    return path


def test_pool_results_when_folds_are_done_then_writes_table_and_figures(project):
    first = write_fold(project / "0", 0, 1.5, digest="aa.dir")
    second = write_fold(project / "1", 1, 1.5, digest="bb.dir")
    keep_training_minutes(project, first, 90.0)
    pool_results.fn(project, "one/two", "case", {0: first, 1: second})
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


def test_training_minutes_when_another_workspace_has_the_same_model_then_they_are_its_too(project):
    trained = write_fold(project / "trained", 0, 1.0, digest="aa.dir")
    reused = write_fold(project / "reused", 0, 1.0, digest="aa.dir")
    other = write_fold(project / "other", 0, 1.0, digest="bb.dir")
    keep_training_minutes(project, trained, 120.0)
    assert load_training_minutes(project, reused) == 2.0
    assert load_training_minutes(project, other) is None


def test_describe_variant_when_it_is_clearly_better_then_it_earns_its_place(project):
    plan = Plan.model_validate(PLAN | {"variants": {"better": {}, "worse": {}, "same": {}}})
    write_results(project, "tiny/base", 1.0)
    for name, strength in (("better", 3.0), ("worse", 0.1), ("same", 1.0)):
        write_results(project, f"tiny/{name}", strength)
    found = {name: describe_variant.fn(project, plan, name) for name in plan.all_overrides()}
    assert "differences" not in found["base"]
    assert found["better"]["earns_its_place"]
    assert found["better"]["differences"]["auroc"]["low"] > 0
    assert not found["worse"]["earns_its_place"]
    assert not found["same"]["earns_its_place"]
    assert found["same"]["differences"]["auroc"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    content = {"base": {"name": "tiny", "repeats": {}}, "folds": PLAN["folds"],
               "failed": {"odd": "diverged"},
               "variants": [{"name": name, **each} for name, each in found.items()]}  # fmt: skip
    rows = {line.split(" | ")[0]: line for line in format_screen(content).splitlines()}
    assert "| **yes** | unknown |" in rows["| better"]
    assert "| no, it is worse |" in rows["| worse"]
    assert "| +0.000 [+0.000, +0.000] | no |" in rows["| same"]
    assert "| odd | failed: diverged |" in format_screen(content)


def test_describe_variant_when_a_repeat_of_the_base_is_as_good_then_it_does_not_earn_its_place(
    project,
):
    plan = Plan.model_validate(PLAN | {"base": REPEATED, "variants": {"lucky": {}, "better": {}}})
    strengths = {"base": 0.5, "again": 1.5, "lucky": 1.5, "better": 4.0}
    for name, strength in strengths.items():
        write_results(project, f"tiny/{name}", strength)
    assert list(plan.all_overrides()) == list(strengths)
    found = {name: describe_variant.fn(project, plan, name) for name in plan.all_overrides()}
    assert found["again"]["overrides"] == {"train.seed": 18}
    assert "earns_its_place" not in found["again"]
    assert found["lucky"]["differences"]["auroc"]["low"] > 0
    assert not found["lucky"]["earns_its_place"]
    assert found["better"]["earns_its_place"]
    content = {"base": REPEATED, "folds": PLAN["folds"], "failed": {"odd": "diverged"},
               "variants": [{"name": name, **each} for name, each in found.items()]}  # fmt: skip
    table = [line for line in format_screen(content).splitlines() if line.startswith("|")]
    assert "| AUROC against base | AUROC against again |" in table[0]
    assert len({line.count("|") for line in table}) == 1
    assert "| no |" in next(line for line in table if line.startswith("| lucky"))


def test_describe_variant_when_it_scores_the_models_of_the_base_then_no_repeat_is_its_match(
    project,
):
    plan = Plan.model_validate(PLAN | {"base": REPEATED, "variants": {"rescored": {}, "lucky": {}}})
    write_results(project, "tiny/base", 0.5)
    write_results(project, "tiny/again", 1.5)
    write_results(project, "tiny/rescored", 1.5, models_of="tiny/base")
    write_results(project, "tiny/lucky", 1.5)
    found = {name: describe_variant.fn(project, plan, name) for name in plan.all_overrides()}
    assert not found["rescored"]["trained"]
    assert found["rescored"]["against_repeats"] == {}
    assert found["rescored"]["earns_its_place"]
    assert found["lucky"]["trained"]
    assert list(found["lucky"]["against_repeats"]) == ["again"]
    content = {"base": REPEATED, "folds": PLAN["folds"], "failed": {},
               "variants": [{"name": name, **each} for name, each in found.items()]}  # fmt: skip
    row = next(line for line in format_screen(content).splitlines() if "| rescored" in line)
    assert "|  | **yes** |" in row


def test_format_screen_when_folds_are_left_out_then_says_which_were_run():
    content = {"base": {"name": "t", "repeats": {}}, "folds": {"num_folds": 5, "only": [0, 2]},
               "variants": [], "failed": {}}  # fmt: skip
    assert "5 folds, only 0, 2;" in format_screen(content)


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


def test_load_plan_when_read_then_variants_change_the_base(project):
    plan = load_plan(write_plan(project), project)
    assert plan.all_overrides() == {
        "base": {"train.epochs": 1},
        "better": {"train.epochs": 1, "train.ema_decay": 0.9},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": {"num_folds": 2, "only": None}}, "folds.num_folds: input should be greater"),
        ({"folds": {"num_folds": 3, "only": [3]}}, "fold 3 was asked for: .* 0 to 2"),
        ({"variant": {}}, "variant: extra inputs are not permitted"),
        ({"variants": {"a b": {}}}, r"variants\.a b.*should match pattern"),
        ({"variants": {"base": {}}}, r"variants\.base: that name is taken"),
        ({"base": {**REPEATED, "repeats": {"base": {}}}}, r"base\.repeats\.base: that name is t"),
        ({"base": REPEATED, "variants": {"again": {}}}, r"variants\.again: that name is taken"),
        ({"variants": {"v": {"train.epoch": 3}}}, "v: override train.epoch: .* no such parameter"),
        ({"variants": {"v": {"train.epochs": 0}}}, "v: params.yaml: train.epochs = 0: input"),
        (
            {"variants": {"v": {"split.folds": None}}},
            "v: override split.folds: the experiment sets it",
        ),
    ],
)
def test_screen_when_the_plan_is_wrong_then_one_line_says_so_and_nothing_runs(
    project, capsys, changes, message
):
    write_plan(project, **changes)
    assert main(["screen"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("experiments: error: ")
    with pytest.raises(InputError, match=message):
        raise InputError(line)
    assert not (project / ".workspaces").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["screen", "nowhere.yaml"], "nowhere.yaml is missing"),
        (["folds", "../out"], "'../out' cannot name a folder of results"),
        (["folds", "a", "--set", "train.epochs"], "write key=value"),
        (["folds", "a", "--set", "split.mode=patch"], "the experiment sets it itself"),
        (["folds", "a", "--folds", "2"], "2 folds: there must be 3 to 50"),
        (["folds", "a", "--only", "5"], "fold 5 was asked for"),
        (["optimism", "a b"], "'a b' cannot name a folder of results"),
        (["optimism", "a", "--folds", "2"], "2 folds: there must be 3 to 50"),
        (["optimism", "a", "--set", "split.max_train_cases=9"], "the experiment sets it itself"),
        (["learning-curve", "a", "--patches", "21"], "split.max_train_patches = 21: input should"),
        (["learning-curve", "a", "--patches", "20", "--cases", "0"], "max_train_cases = 0: input"),
        (["learning-curve", "a", "--patches", "20", "--only", "5"], "fold 5 was asked for"),
        (
            ["learning-curve", "a", "--patches", "20", "--set", "split.max_train_patches=2"],
            "the experiment sets it itself",
        ),
        (["audit", "../a"], "'../a' cannot name a folder of results"),
        (["audit", "a"], "a/predictions.parquet is missing"),
        (["compare", "a.parquet", "b.parquet"], "a.parquet is missing"),
    ],
)
def test_command_when_the_input_is_wrong_then_one_line_says_so(project, capsys, arguments, message):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("experiments: error: ")
    assert message in line


def test_parse_override_when_given_values_then_they_are_read_as_in_the_parameter_file():
    assert parse_override("model.backbones=[resnet50]") == ("model.backbones", ["resnet50"])
    assert parse_override("train.ema_decay=null") == ("train.ema_decay", None)
    assert parse_override("train.epochs=3") == ("train.epochs", 3)


def test_choose_folds_when_some_are_asked_for_then_those_in_order():
    assert choose_folds(5, [3, 0, 3]) == [0, 3]
    assert choose_folds(3, None) == [0, 1, 2]


@pytest.mark.parametrize("dealt", ["case", "patch"])
def test_fold_overrides_when_made_then_the_fold_is_tested(dealt):
    assert fold_overrides({"train.epochs": 1}, dealt, 4, 2) == {
        "train.epochs": 1,
        "split.mode": dealt,
        "split.folds": {"num_folds": 4, "test_fold": 2},
    }


@pytest.mark.parametrize("name", ["a/../b", "/a", "a/", ".a", "a b", ""])
def test_check_name_when_it_would_leave_the_folder_then_refuses(name):
    with pytest.raises(InputError, match="cannot name a folder"):
        check_name(name)


def test_experiments_file_when_shipped_then_every_override_fits_the_parameters(tmp_path):
    shutil.copy2(ROOT / "params.yaml", tmp_path)
    plan = load_plan(ROOT / "experiments.yaml", tmp_path)
    assert (ROOT / "data/case_lists" / plan.base.overrides["split.exclude"]).is_file()
    check_overrides(tmp_path, plan.base.overrides)
