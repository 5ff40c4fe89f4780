"""What a user reads when something is wrong: one line, exit code 2, nothing half-written."""

import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from idc.cli import EXIT_INPUT, EXIT_UNAVAILABLE, main
from idc.core.dvc import dvc
from idc.ops import prefect_api

ROOT = Path(__file__).parents[2]


def set_param(project, section, key, value):
    path = project / "params.yaml"
    content = yaml.safe_load(path.read_text())
    content[section][key] = value
    path.write_text(yaml.safe_dump(content))


def error_of(capsys, *arguments, code=EXIT_INPUT):
    assert main(arguments) == code
    lines = capsys.readouterr().err.splitlines()
    return lines[-1]


def test_ingest_when_there_is_no_archive_then_it_says_what_to_download_and_where(project, capsys):
    message = error_of(capsys, "ingest")
    assert message.startswith("idc ingest: error: data/raw holds no archive")
    assert "dvc add data/raw/" in message


def test_ingest_when_a_patch_does_not_decode_then_nothing_is_left_behind(project, capsys):
    raw = project / "data/raw"
    raw.mkdir(parents=True)
    with zipfile.ZipFile(raw / "a.zip", "w") as archive:
        archive.writestr("7/0/7_idx5_x1_y1_class0.png", b"no picture")
    assert "7_idx5_x1_y1_class0.png" in error_of(capsys, "ingest")
    assert not (project / "data/patches").exists()
    assert list((project / "data").iterdir()) == [raw]


def test_any_stage_when_a_parameter_is_unknown_then_the_line_names_it(project, capsys):
    set_param(project, "train", "epoch", 3)
    message = error_of(capsys, "sample")
    assert message == (
        "idc sample: error: params.yaml: train.epoch is not a parameter; "
        "remove it or fix its spelling"
    )


def test_any_stage_when_a_value_is_out_of_range_then_the_line_gives_value_and_rule(project, capsys):
    set_param(project, "model", "dropout", 1.5)
    assert "model.dropout = 1.5: input should be less than 1" in error_of(capsys, "train")


def test_any_stage_when_not_in_the_root_then_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "run from the project's root" in error_of(capsys, "sample")


def test_any_stage_when_the_code_is_another_checkouts_then_it_refuses(project, capsys):
    shutil.copytree(ROOT / "src/idc/report", project / "src/idc")
    assert "set PYTHONPATH=" in error_of(capsys, "sample")


def test_check_when_the_tracking_server_is_down_then_the_code_says_try_again(
    project, capsys, monkeypatch
):
    main(["synth", "data/raw/a.zip", "--cases", "2", "--patches-per-case", "6"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "does not answer" in error_of(capsys, "check", code=EXIT_UNAVAILABLE)


def test_check_when_weights_cannot_be_had_then_it_names_the_ways_out(project, capsys, monkeypatch):
    main(["synth", "data/raw/a.zip", "--cases", "2", "--patches-per-case", "6"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(project))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    set_param(project, "model", "backbones", ["efficientnet_b0"])
    set_param(project, "model", "pretrained", "imagenet")
    message = error_of(capsys, "check")
    assert "pretrained weights of efficientnet_b0" in message
    assert "none (training from scratch)" in message


def test_check_when_a_pointer_has_no_archive_then_no_run_goes_on_without_it(project, capsys):
    main(["synth", "data/raw/a.zip", "--cases", "2", "--patches-per-case", "6"])
    (project / "data/raw/b.zip.dvc").write_text("outs:\n- {md5: '0', size: 7, path: b.zip}\n")
    message = error_of(capsys, "check")
    assert "b.zip.dvc names is not here" in message
    assert "`dvc pull" in message


def test_check_when_a_method_of_explanation_is_unknown_then_it_names_those_there_are(
    project, capsys
):
    set_param(project, "explain", "methods", ["salience"])
    message = error_of(capsys, "check")
    assert "explain.methods" in message
    assert "'saliency'" in message


def test_check_when_the_store_cannot_be_written_then_it_names_it(project, capsys, monkeypatch):
    main(["synth", "data/raw/a.zip", "--cases", "2", "--patches-per-case", "6"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    (project / "mlruns").write_text("a file in its place")
    assert "mlflow.db cannot be written" in error_of(capsys, "check")


def test_check_when_the_subsets_have_their_earlier_name_then_gives_the_command_that_renames_them(
    project, capsys
):
    (project / "data").mkdir()
    (project / "data/case_sides.csv").write_text("# seed 17\ncase,side\n7,test\n")
    message = error_of(capsys, "check")
    data = project / "data"
    assert f"`git mv {data / 'case_sides.csv'} {data / 'case_subsets.csv'}`" in message
    (data / "case_sides.csv").rename(data / "case_subsets.csv")
    assert "holds no archive" in error_of(capsys, "check")  # the next thing that is missing


@pytest.mark.parametrize("command", ["check", "doctor", "gc"])
def test_command_when_it_says_that_it_writes_nothing_then_no_file_or_folder_appears(
    project, monkeypatch, command
):
    monkeypatch.setattr(prefect_api, "ask", refuse)
    set_param(project, "model", "pretrained", "none")
    dvc(project, "init", "--no-scm")
    main(["synth", "data/raw/a.zip", "--cases", "2", "--patches-per-case", "6"])
    before = sorted(project.rglob("*"))
    assert main([command]) == 0
    assert sorted(project.rglob("*")) == before


def refuse(path, body=None, *, method=None):
    raise ConnectionRefusedError


def test_synth_when_masks_would_lie_among_the_patches_then_it_refuses(project, capsys):
    command = ("synth", "data/raw/a.zip", "--cases", "1", "--masks", "data/raw/masks")
    assert "ingest would read it as patches" in error_of(capsys, *command)
    assert not (project / "data").exists()


def test_synth_when_a_cue_has_a_share_but_no_kind_then_it_says_what_is_missing(project, capsys):
    command = ("synth", "a.zip", "--cases", "1", "--cue-share-positive", "0.8")
    assert "--shortcut is missing" in error_of(capsys, *command)
