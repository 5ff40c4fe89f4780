"""What `idc check` tries: what it passes, the stages can use."""

import json
import os
import shutil
import zipfile

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from idc.core.errors import InputError
from idc.core.git import git
from idc.data.ingest.pixel_store import size_of_store
from idc.models.backbones.sources import describe_weights
from idc.models.bundle import save_bundle
from idc.ops import inputs
from idc.ops.inputs import (
    bytes_needed,
    require_archive,
    require_git,
    require_inputs,
    require_space,
)
from idc.synthetic import ArchivePlan, create_archive
from tests.random_networks import random_backbone, tiny_spec


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with an archive, whose cache DVC need not be asked for."""
    (tmp_path / "data/raw").mkdir(parents=True)
    create_archive(
        tmp_path / "data/raw/a.zip", ArchivePlan(num_cases=3, patches_per_case=4, seed=1)
    )
    monkeypatch.setattr(inputs, "dvc", lambda root, *_: ".dvc/cache\n")
    return tmp_path


def add_case(folder, name="99", content=None):
    """Add a case of one patch to a folder of cases."""
    place = folder / name / "0"
    place.mkdir(parents=True)
    content = content or cv2.imencode(".png", np.full((50, 50, 3), 200, np.uint8))[1].tobytes()
    (place / f"{name}_idx5_x1_y1_class0.png").write_bytes(content)


def test_inputs_when_all_is_there_then_nothing_is_said_and_nothing_is_left(project, change_params):
    before = sorted(project.rglob("*"))
    require_inputs(change_params(), project)
    assert sorted(project.rglob("*")) == before


def test_archive_when_cases_lie_behind_a_link_then_they_are_counted(project, tmp_path_factory):
    num_zipped = require_archive(project)
    disk = tmp_path_factory.mktemp("shared disk")
    add_case(disk)
    (project / "data/raw/IDC").symlink_to(disk)
    assert require_archive(project) == num_zipped + 1


def test_archive_when_no_first_patch_of_a_source_decodes_then_its_name_and_reason(project):
    add_case(project / "data/raw", content=b"not a picture")
    said = r"raw:99/0/99_idx5_x1_y1_class0.png: none of the first 1 patches can be read: "
    with pytest.raises(InputError, match=said):
        require_archive(project)


def test_archive_when_one_patch_of_many_is_unreadable_then_ingest_may_leave_it_out(project):
    num_zipped = require_archive(project)
    for name, content in (("98", b"not a picture"), ("99", None)):
        add_case(project / "data/raw", name, content)
    assert require_archive(project) == num_zipped + 2


def test_archive_when_a_zip_is_cut_off_then_it_is_named(project):
    path = project / "data/raw/a.zip"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"a\.zip is not a readable zip"):
        require_archive(project)


def test_archive_when_a_zip_holds_no_patch_then_says_what_is_expected(project):
    with zipfile.ZipFile(project / "data/raw/a.zip", "w") as archive:
        archive.writestr("README.txt", "nothing")
    with pytest.raises(InputError, match="the archives hold no patch"):
        require_archive(project)


def test_git_when_its_folder_cannot_be_written_then_says_what_needs_it(project, monkeypatch):
    git(project, "init", "--quiet")
    git(project, "commit", "--quiet", "--allow-empty", "-m", "first")
    require_git(project)
    monkeypatch.setattr(os, "access", lambda path, mode: path != project / ".git")
    with pytest.raises(InputError, match=r"\.git cannot be written, so no run can be recorded"):
        require_git(project)


def test_cache_when_its_disk_cannot_be_written_then_names_it(project, change_params, monkeypatch):
    monkeypatch.setattr(inputs, "dvc", lambda root, *_: "/proc/cache\n")
    with pytest.raises(InputError, match=r"DVC's cache /proc/cache cannot be written"):
        require_inputs(change_params(), project)


def test_space_when_the_disk_is_small_then_says_how_much_a_run_needs(project, monkeypatch):
    full = shutil.disk_usage(project)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(InputError, match=r"a run needs some 6\.2 GB, the disk has 1\.0 GB free"):
        require_space(project, 277_524)


@pytest.fixture
def pretrained(tmp_path_factory):
    """A folder with a network as timm saves it, of the licence CC BY-NC 4.0."""
    folder = tmp_path_factory.mktemp("weights") / "net"
    folder.mkdir()
    net = random_backbone("test_resnet").net
    config = {"architecture": "test_resnet", "pretrained_cfg": {"license": "CC-BY-NC-4.0"}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(net.state_dict(), folder / "model.safetensors")
    return folder


def record_training(project, params, spec):
    """What a finished `train` leaves: its parameters in the lock, and the model's folder."""
    model = params.model.model_dump(mode="json")
    train = {"cmd": "c", "params": {"params.yaml": {"model": model}}}
    (project / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"train": train}}))
    folder = project / "models/fusion"
    save_bundle(folder, {"w": torch.zeros(1)}, spec, pd.DataFrame({"epoch": [1]}), torch.zeros(1))


@pytest.mark.parametrize("size_px", [50, 100])
def test_weights_when_training_is_from_scratch_then_the_size_is_checked_as_well(
    project, change_params, size_px
):
    params = change_params(model={"backbones": ["test_vit"], "size_px": size_px})
    with pytest.raises(InputError, match=r"model\.size_px: test_vit takes images of a multiple of"):
        require_inputs(params, project)


def test_licences_when_they_forbid_to_publish_then_refused_before_and_after_the_training(
    project, change_params, pretrained, caplog
):
    model = {"backbones": [f"local-dir:{pretrained}"], "pretrained": "imagenet"}
    params = change_params(model=model, publish={"forbid_licences": ["cc-by-nc*"]})
    said = r"forbid_licences: forbids to publish what begins with the weights of net \(CC-BY-NC-4"
    with pytest.raises(InputError, match=said) as refused:
        require_inputs(params, project)
    assert "\n" not in str(refused.value)
    require_inputs(params, project, publishes=False)
    assert "weights of net (CC-BY-NC-4.0): whether their licence allows" in caplog.text

    weights = describe_weights(params.model.backbones, "imagenet")
    record_training(project, params, tiny_spec(pretrained="imagenet", starting_weights=weights))
    shutil.rmtree(pretrained)
    with pytest.raises(InputError, match=said):
        require_inputs(params, project)


@pytest.mark.parametrize(
    ("changed", "content"),
    [
        ("model.safetensors", "other weights"),
        ("config.json", '{"architecture": "test_resnet", "model_args": {"act_layer": "SiLU"}}'),
        ("config.json", "no configuration"),
    ],
)
def test_weights_when_a_folder_changes_after_the_training_then_says_that_dvc_does_not_see_it(
    project, change_params, pretrained, caplog, changed, content
):
    backbone = f"local-dir:{pretrained}"
    params = change_params(model={"backbones": [backbone], "pretrained": "imagenet"})
    spec = tiny_spec(
        backbones=["net"],
        pretrained="imagenet",
        starting_weights=describe_weights([backbone], "imagenet"),
    )
    record_training(project, params, spec)
    require_inputs(params, project)
    assert "dvc repro" not in caplog.text
    (pretrained / changed).write_text(content)
    caplog.clear()
    require_inputs(params, project)
    (said,) = [line for line in caplog.messages if "dvc repro" in line]
    assert f"{pretrained / changed}" in said
    assert "`dvc repro --force --single-item train` trains anew" in said


def record_ingest(project, **raw):
    """What a finished `ingest` leaves: pixels of 100 patches, and the size of data/raw."""
    pixels = project / "data/patches/pixels.npy"
    pixels.parent.mkdir()
    with pixels.open("wb") as file:
        file.truncate(size_of_store(100) + 128)
    dep = {"path": "data/raw", "md5": "0.dir"} | raw
    lock = {"schema": "2.0", "stages": {"ingest": {"cmd": "c", "deps": [dep]}}}
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))


def test_space_when_the_pixels_are_those_of_today_s_archive_then_they_need_none(project):
    both_copies = 2 * size_of_store(100)
    before = bytes_needed(project, 100)
    size = (project / "data/raw/a.zip").stat().st_size
    record_ingest(project, size=size, nfiles=1)
    assert bytes_needed(project, 100) == before - both_copies
    add_case(project / "data/raw")  # a smaller archive too is ingested anew
    assert bytes_needed(project, 100) == before
    assert bytes_needed(project, 10) == before - 0.9 * both_copies


@pytest.mark.parametrize("content", ["stages: [", "stages: {}", ""])
def test_space_when_no_lock_says_what_was_ingested_then_the_pixels_count(project, content):
    before = bytes_needed(project, 100)
    record_ingest(project)  # as an earlier DVC, without the size
    assert bytes_needed(project, 100) == before
    (project / "dvc.lock").write_text(content)
    assert bytes_needed(project, 100) == before
    (project / "dvc.lock").unlink()
    assert bytes_needed(project, 100) == before
