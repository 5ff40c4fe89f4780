"""When a rebuilt model counts as the same, and what is refused before anything runs."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from idc.core.errors import InputError
from idc.core.git import git
from idc.data.tables import RECORDED_LOGITS_SCHEMA, save_table
from idc.lifecycle.reproduction import rebuild
from idc.lifecycle.reproduction.rebuild import compare_predictions, reproduce
from idc.runs.lineage import file_md5, folder_md5

ELSEWHERE = {"torch": ("2.11", "2.15")}


@pytest.fixture
def predictions():
    number = 6
    return pd.DataFrame(
        {
            "row": np.arange(number),
            "case": ["a", "b"] * 3,
            "x": np.arange(number, dtype=np.int32),
            "y": np.int32(1),
            "split": "val",
            "in_manifest": True,
            "sliver": False,
            "mean_optical_density": 0.2,
            "white_share": 0.1,
            "y_true": np.array([0, 1] * 3, np.int8),
            "logit": np.linspace(-1, 1, number).astype(np.float32),
            "y_score_colour": 0.5,
        }
    )


def compare(first, second, different=None):
    return compare_predictions(first, second, different=different or {}, tolerance=0.01)


def shifted(predictions, by):
    return predictions.assign(logit=(predictions["logit"] + by).astype(np.float32))


def test_compare_when_every_bit_agrees_then_is_reproduced(predictions):
    found = compare(predictions, predictions.sample(frac=1, random_state=1))
    assert (found.bit_equal, found.max_logit_difference, found.reproduced) == (True, 0.0, True)


def test_compare_when_a_bit_differs_on_the_same_machine_then_is_not_reproduced(predictions):
    found = compare(predictions, shifted(predictions, 1e-6))
    assert found.same_environment
    assert not found.reproduced


@pytest.mark.parametrize(("by", "reproduced"), [(0.005, True), (0.02, False)])
def test_compare_when_the_environment_differs_then_the_tolerance_decides(
    predictions, by, reproduced
):
    found = compare(predictions, shifted(predictions, by), ELSEWHERE)
    assert found.max_logit_difference == pytest.approx(by, abs=1e-6)
    assert found.reproduced is reproduced


def test_compare_when_patches_differ_then_refuses(predictions):
    with pytest.raises(InputError, match="other patches"):
        compare(predictions, predictions.iloc[1:])


@pytest.fixture
def workspace(project, predictions, monkeypatch, tmp_path):
    """What a version recorded, and the folder that stands for its workspace."""
    folder = tmp_path / "workspace"
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/raw/a.zip").write_bytes(b"archive")
    (folder / "src").mkdir()
    (folder / "src/code.py").write_text("code = 1\n")
    monkeypatch.setattr(rebuild, "create_workspace", lambda *_: folder)
    save_table(tmp_path / "predictions.parquet", predictions, RECORDED_LOGITS_SCHEMA)
    deps = [
        {"path": "data/raw", "md5": folder_md5(folder / "data/raw")},
        {"path": "src/code.py", "md5": file_md5(folder / "src/code.py")},
    ]
    project.recorded = {
        "dvc.lock": yaml.safe_dump({"stages": {"ingest": {"deps": deps}}}),
        "params.yaml": yaml.safe_dump(project.params.model_dump(mode="json")),
        "predictions.parquet": (tmp_path / "predictions.parquet").read_bytes(),
    }
    return folder


def refuse(project, message):
    version = project.add_version("r1", files=project.recorded)
    with pytest.raises(InputError, match=message):
        reproduce(project.root, project.params, version)


@pytest.mark.parametrize("name", ["dvc.lock", "params.yaml", "predictions.parquet"])
def test_reproduce_when_a_record_is_missing_then_names_it(project, workspace, name):
    del project.recorded[name]
    refuse(project, f"holds no {name}")


def test_reproduce_when_the_archive_is_missing_then_names_its_md5(project, workspace):
    md5 = folder_md5(workspace / "data/raw")
    (workspace / "data/raw/a.zip").write_bytes(b"another")
    refuse(project, f"raw archive with md5 {md5} is missing")


def test_reproduce_when_the_code_is_missing_then_names_file_and_commit(project, workspace):
    (workspace / "src/code.py").write_text("code = 2\n")
    refuse(project, "src/code.py is not what it was made with, and its commit abc")


def test_reproduce_when_the_model_is_missing_then_names_it(project):
    with pytest.raises(InputError, match="no idc-fusion version 3"):
        reproduce(project.root, project.params, "3")


@pytest.mark.parametrize("outs", [["data/splits.csv"], ["data/case_sides.csv"]])
def test_reproduce_when_the_code_is_of_before_the_renaming_then_it_finds_the_subsets_of_the_cases(
    tmp_path, outs
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/case_subsets.csv").write_text("# seed 17\ncase,subset\na,test\n")
    workspace = tmp_path / "workspace"
    (workspace / "data").mkdir(parents=True)
    stages = {"split": {"outs": [{"path": path} for path in outs]}}
    rebuild._take_case_subsets(tmp_path, workspace, stages)
    there = {path.name: path.read_text() for path in (workspace / "data").iterdir()}
    assert there.pop("case_subsets.csv") == "# seed 17\ncase,subset\na,test\n"
    expected = {"case_sides.csv": "# seed 17\ncase,side\na,test\n"}
    assert there == (expected if outs == ["data/case_sides.csv"] else {})


def test_reproduce_when_the_parameters_are_of_an_earlier_version_then_the_device_is_read(
    tmp_path, change_params
):
    (tmp_path / "params.yaml").write_text("pretrain: {gone: 1}\nruntime: {device: cuda, gone: 1}\n")
    assert rebuild._load_device(tmp_path, change_params()).device == "cuda"


@pytest.fixture
def stages(monkeypatch, workspace, predictions):
    """Stands for the five stages: notes what runs where, and leaves these predictions."""
    played = SimpleNamespace(ran=[], made=predictions, failing=None)

    def run(command, *, cwd, env, **_):
        stage = command[-1]
        played.ran.append((stage, cwd, env["MLFLOW_TRACKING_URI"]))
        if stage == "predict":
            save_table(cwd / "data/predictions.parquet", played.made, RECORDED_LOGITS_SCHEMA)
        failed = stage == played.failing
        return subprocess.CompletedProcess(command, failed, "", "first\nlast line\n")

    monkeypatch.setattr(rebuild, "subprocess", SimpleNamespace(run=run))
    return played


def test_reproduce_when_all_is_there_then_runs_five_stages_and_compares(
    project, workspace, stages, predictions
):
    version = project.add_version("r1", files=project.recorded)
    stages.made = shifted(predictions, 0.005)
    found = reproduce(project.root, project.params, version)
    order = ["ingest", "sample", "split", "train", "predict"]
    assert [stage for stage, _, _ in stages.ran] == order
    # nothing of it reaches the project's own store
    own = f"sqlite:///{workspace}/mlruns/mlflow.db"
    assert {(cwd, store) for _, cwd, store in stages.ran} == {(workspace, own)}
    assert found.num_patches == len(predictions)
    assert found.max_logit_difference == pytest.approx(0.005, abs=1e-6)
    # the version records no environment, so nothing here is the same
    assert found.different["torch"][0] == "unknown"
    assert found.reproduced


def test_reproduce_when_a_stage_fails_then_names_it_with_its_last_line(project, workspace, stages):
    stages.failing = "train"
    refuse(project, "train failed in .*: last line")
    assert [stage for stage, _, _ in stages.ran][-1] == "train"


def test_reproduce_when_git_has_the_commit_then_the_code_is_of_then(tmp_path):
    root, workspace = tmp_path / "root", tmp_path / "workspace"
    for folder in (root / "src/idc", workspace / "src/idc"):
        folder.mkdir(parents=True)
    (root / "src/idc/code.py").write_text("of then")
    (root / "notes.txt").write_text("no code")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    commit = git(root, "rev-parse", "HEAD")
    (root / "src/idc/code.py").write_text("of today")
    (workspace / "src/idc/new.py").write_text("of today")
    rebuild._take_code(root, workspace, f"{commit}-dirty")
    assert (workspace / "src/idc/code.py").read_text() == "of then"
    assert not (workspace / "src/idc/new.py").exists()
    assert not (workspace / "notes.txt").exists()


@pytest.mark.parametrize("commit", ["none", "0" * 40])
def test_reproduce_when_git_lacks_the_commit_then_todays_code_stays(tmp_path, caplog, commit):
    caplog.set_level("INFO")
    (tmp_path / "code.py").write_text("of today")
    rebuild._take_code(tmp_path, tmp_path, commit)
    assert (tmp_path / "code.py").read_text() == "of today"
    assert "today's code is used" in caplog.text
