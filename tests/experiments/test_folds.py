import shutil

import pytest
import yaml

from idc.cli import main
from idc.core.errors import InputError
from idc.experiments.folds import (
    check_name,
    check_overrides,
    choose_folds,
    fold_overrides,
    load_plan,
)
from idc.experiments.plan_files import parse_setting, read_overrides
from tests.experiments.finished_folds import PLAN, REPEATED


def write_plan(project, **changes):
    path = project / "configs/screen.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(PLAN | changes), encoding="utf-8")
    return path


def test_load_plan_when_read_then_variants_change_the_base(project):
    plan = load_plan(write_plan(project), project)
    assert plan.all_overrides() == {
        "base": {"train.epochs": 1},
        "better": {"train.epochs": 1, "train.learning_rate": 0.01},
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
    assert line.startswith("idc screen: error: ")
    with pytest.raises(InputError, match=message):
        raise InputError(line)
    assert not (project / ".workspaces").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["screen", "nowhere.yaml"], "nowhere.yaml is missing"),
        (["cross-validate", "../out"], "'../out' cannot name a folder of results"),
        (["cross-validate", "a", "--set", "train.epochs"], "write KEY=VALUE"),
        (["cross-validate", "a", "--set", "split.mode=patch"], "the experiment sets it itself"),
        (["cross-validate", "a", "--folds", "2"], "2 folds: there must be 3 to 50"),
        (["cross-validate", "a", "--only", "5"], "fold 5 was asked for"),
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
        (["compare", "a", "b.parquet"], "a is neither a scoring file nor a result in"),
        (["cross-validate", "a", "--config", "b.yaml"], "b.yaml is missing"),
    ],
)
def test_command_when_the_input_is_wrong_then_one_line_says_so(project, capsys, arguments, message):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"idc {arguments[0]}: error: ")
    assert message in line


def test_parse_setting_when_given_values_then_they_are_read_as_in_the_parameter_file():
    assert parse_setting("model.backbones=[resnet50]") == ("model.backbones", ["resnet50"])
    assert parse_setting("runtime.num_threads=null") == ("runtime.num_threads", None)
    assert parse_setting("train.epochs=3") == ("train.epochs", 3)


def test_read_overrides_when_file_and_settings_name_a_key_then_the_setting_wins(tmp_path):
    plan = tmp_path / "scratch.yaml"
    plan.write_text("train: {epochs: 7, seed: 18}\nmodel: {pretrained: none}\n", encoding="utf-8")
    assert read_overrides(plan, ["train.epochs=3"]) == {
        "train.epochs": 3, "train.seed": 18, "model.pretrained": "none",
    }  # fmt: skip


def test_read_overrides_when_the_file_holds_no_keys_then_says_so(tmp_path):
    plan = tmp_path / "scratch.yaml"
    plan.write_text("- train\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no parameters: nest keys"):
        read_overrides(plan, [])


def test_choose_folds_when_some_are_asked_for_then_those_in_order():
    assert choose_folds(5, [3, 0, 3]) == [0, 3]
    assert choose_folds(3, None) == [0, 1, 2]


@pytest.mark.parametrize("split_unit", ["case", "patch"])
def test_fold_overrides_when_made_then_the_fold_is_tested(split_unit):
    assert fold_overrides({"train.epochs": 1}, split_unit, 4, 2) == {
        "train.epochs": 1,
        "split.mode": split_unit,
        "split.folds": {"num_folds": 4, "test_fold": 2},
    }


@pytest.mark.parametrize("name", ["a/../b", "/a", "a/", ".a", "a b", ""])
def test_check_name_when_it_would_leave_the_folder_then_refuses(name):
    with pytest.raises(InputError, match="cannot name a folder"):
        check_name(name)


@pytest.mark.parametrize("file", ["screen.yaml", "screen_pretrained.yaml"])
def test_experiments_file_when_shipped_then_every_override_fits_the_parameters(
    tmp_path, project_root, file
):
    shutil.copy2(project_root / "params.yaml", tmp_path)
    plan = load_plan(project_root / "configs" / file, tmp_path)
    assert (project_root / "data/case_lists" / plan.base.overrides["split.exclude"]).is_file()
    check_overrides(tmp_path, plan.base.overrides)
