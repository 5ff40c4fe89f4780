import shutil

import pytest
import yaml

from idc.core.config import dot_keys
from idc.core.errors import InputError
from idc.experiments.sweep import load_sweep, result_rows

PLAN = {
    "name": "rates",
    "overrides": {"train.epochs": 3},
    "grid": {"train.learning_rate": [0.001, 0.01], "train.batch_size": [8, 16]},
    "max_parallel": 2,
    "gpu_slots": None,
}


@pytest.fixture
def load(project_root, tmp_path):
    shutil.copy2(project_root / "params.yaml", tmp_path)

    def load(**changes):
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False), encoding="utf-8")
        return load_sweep(path, tmp_path)

    return load


@pytest.mark.parametrize(
    ("file", "num_points"),
    [
        ("configs/sweep.yaml", 6),
        ("configs/benchmark_val.yaml", 1),
        ("configs/benchmark_val_scratch.yaml", 1),
    ],
)
def test_load_sweep_when_given_the_projects_file_then_every_point_is_possible(
    project_root, file, num_points
):
    sweep = load_sweep(project_root / file, project_root)
    assert len(sweep.points) == num_points


def test_points_when_two_parameters_vary_then_every_combination_is_one_with_a_readable_name(load):
    sweep = load()
    assert [point.label for point in sweep.points] == [
        "learning_rate=0.001 batch_size=8", "learning_rate=0.001 batch_size=16",
        "learning_rate=0.01 batch_size=8", "learning_rate=0.01 batch_size=16",
    ]  # fmt: skip
    first = sweep.points[0]
    assert first.name == "rates-learning_rate=0.001,batch_size=8"
    assert first.overrides["train.epochs"] == 3
    assert first.overrides["train.batch_size"] == 8


def test_points_when_made_then_they_move_no_alias_and_lie_in_an_experiment_of_their_own(load):
    sweep = load()
    assert sweep.experiment == "idc sweep rates"
    for point in sweep.points:
        assert point.overrides["publish.move_challenger"] is False
        assert point.overrides["publish.experiment"] == "idc sweep rates"
        assert point.overrides["publish.run_name"] == point.label


def test_points_when_two_keys_end_alike_then_their_names_are_whole(load):
    sweep = load(grid={"train.precision": ["fp32"], "predict.precision": ["bf16"]})
    assert sweep.points[0].label == "train.precision=fp32 predict.precision=bf16"


def test_points_when_a_value_is_a_list_or_a_path_then_names_fit_a_folder(load):
    grid = {"model.backbones": [["resnet50", "densenet121"]], "model.pretrained": ["a/b c"]}
    (point,) = load(grid=grid).points
    assert point.label == "backbones=resnet50+densenet121 pretrained=a/b c"
    assert point.name == "rates-backbones=resnet50+densenet121,pretrained=a,b,c"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grid": {"train.epoch": [1]}}, "epoch=1: override train.epoch: .* no such parameter"),
        ({"grid": {"train.epochs": [0]}, "overrides": {}}, "epochs=0: params.yaml: train.epochs"),
        ({"grid": {"train.epochs": [1]}}, "train.epochs is in overrides and in grid"),
        ({"grid": {"publish.move_challenger": [True]}}, "the sweep sets it itself"),
        ({"overrides": {"publish.experiment": "x"}}, "the sweep sets it itself"),
        ({"grid": {"seeds.training": [1, 1]}}, "two points are called rates-training=1"),
        ({"grid": {}}, "grid: .* at least 1 item"),
        ({"grid": {"seeds.training": []}}, r"grid\.seeds\.training: .* at least 1 item"),
        ({"max_parallel": 0}, "max_parallel"),
        ({"name": "a/b"}, "name: "),
    ],
)  # fmt: skip
def test_load_sweep_when_a_plan_is_wrong_then_names_what_and_why(load, changes, said):
    with pytest.raises(InputError, match=said):
        load(**changes)


def test_load_sweep_when_the_file_is_missing_then_says_so(tmp_path):
    with pytest.raises(
        InputError, match=r"rates\.yaml is missing: name a file like configs/sweep\.yaml"
    ):
        load_sweep(tmp_path / "rates.yaml", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"), [("grid: [", "is not YAML: "), ("- 1", "the whole file: ")]
)
def test_load_sweep_when_the_file_is_no_plan_at_all_then_says_so_in_one_line(tmp_path, text, said):
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"sweep\.yaml:? {said}") as caught:
        load_sweep(path, tmp_path)
    assert "\n" not in str(caught.value)


def test_result_rows_when_points_differ_then_the_best_by_the_first_key_comes_first():
    metrics = {
        "seed=1": {"val/auroc": 0.7},
        "seed=2": {"val/auroc": 0.81234, "test/auroc": 0.5},
        "seed=3": {},
    }
    assert result_rows(metrics, ("val/auroc", "test/auroc")) == [
        {"point": "seed=2", "val/auroc": 0.8123, "test/auroc": 0.5},
        {"point": "seed=1", "val/auroc": 0.7},
        {"point": "seed=3"},
    ]


def test_benchmark_val_when_compared_with_the_recipe_from_scratch_then_says_the_same(project_root):
    configs = project_root / "configs"
    scratch = dot_keys(yaml.safe_load((configs / "scratch.yaml").read_text(encoding="utf-8")))
    plan = yaml.safe_load((configs / "benchmark_val_scratch.yaml").read_text(encoding="utf-8"))
    said = plan["overrides"] | {key: value for key, (value,) in plan["grid"].items()}
    own = {"train.epochs", "train.patience", "split.exclude"}
    assert {key: said.get(key) for key in scratch if key not in own} == {
        key: value for key, value in scratch.items() if key not in own
    }
    assert said["split.fractions"] == {"val": 0.12, "gate": 0.0, "test": 0.0}


def test_benchmark_val_when_it_takes_the_recipe_of_params_yaml_then_changes_no_training(
    project_root,
):
    plans = [
        yaml.safe_load((project_root / "configs" / name).read_text(encoding="utf-8"))["overrides"]
        for name in ("benchmark_val.yaml", "benchmark_val_scratch.yaml")
    ]
    assert {key.partition(".")[0] for key in plans[0]} == {"sample", "split", "baselines"}
    assert plans[0].items() <= plans[1].items()
