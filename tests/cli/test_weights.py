"""`idc weights`, of each source of weights."""

import json

import pytest
import torch
from safetensors.torch import save_file

from idc.cli import EXIT_INPUT, main
from idc.core.checksums import file_sha256
from idc.models.backbones.packaged import PACKAGES
from idc.runs.workspace import override_params

LITE = "tf_efficientnet_lite0"


@pytest.fixture
def list_weights(project, capsys):
    """`list_weights(backbones, pretrained, *options)`: exit code and what was printed."""

    def run(backbones, pretrained, *options):
        model = {"backbones": backbones, "pretrained": pretrained}
        override_params(
            project / "params.yaml", {f"model.{name}": value for name, value in model.items()}
        )
        code = main(["weights", *options])
        printed = capsys.readouterr()
        return code, printed.out or printed.err

    return run


def test_weights_when_they_are_packaged_then_lists_file_licence_and_digest(list_weights):
    code, said = list_weights([LITE], "packaged", "--json")
    assert code == 0
    (weights,) = json.loads(said)["weights"]
    assert weights["path"].endswith("efficientnet-lite0-57934424.pth")
    assert weights["licence"] == "Apache-2.0"
    assert weights["sha256"] == PACKAGES[LITE].sha256


def test_weights_when_they_are_in_a_folder_then_says_that_no_licence_is_known(
    list_weights, tmp_path
):
    save_file({"a": torch.zeros(1)}, tmp_path / "test_resnet.safetensors")
    code, said = list_weights(["test_resnet"], str(tmp_path))
    assert code == 0
    path = tmp_path / "test_resnet.safetensors"
    assert [" ".join(line.split()) for line in said.splitlines()] == [
        "test_resnet",
        f"from {path}",
        "licence not said by the source",
        f"sha256 {file_sha256(path)}",
    ]


def test_weights_when_the_hub_has_them_then_fetch_brings_them_into_its_cache(
    list_weights, tmp_path, monkeypatch
):
    cached = {}
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda *_, **__: cached.get("path")
    )
    code, said = list_weights(["resnet50"], "imagenet")
    assert code == 0
    assert "timm/resnet50.a1_in1k" in said
    assert "not here yet: idc weights --fetch" in said

    def download(repository, name, revision):
        assert revision is None
        assert (repository, name) == ("timm/resnet50.a1_in1k", "model.safetensors")
        (tmp_path / name).write_bytes(b"weights")
        cached["path"] = str(tmp_path / name)
        return cached["path"]

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    code, said = list_weights(["resnet50"], "imagenet", "--fetch")
    assert code == 0
    assert f"sha256   {file_sha256(tmp_path / 'model.safetensors')}" in said


def test_weights_when_the_hub_cannot_be_reached_then_fetch_fails_in_a_line(
    list_weights, monkeypatch
):
    def download(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    code, said = list_weights(["resnet50"], "imagenet", "--fetch")
    assert code == EXIT_INPUT
    assert "the pretrained weights of resnet50 cannot be fetched (no route to host)" in said
    assert said.count("\n") == 1


def test_weights_when_training_begins_at_random_then_says_so(list_weights):
    assert list_weights(["test_resnet"], "none") == (
        0, "model.pretrained is none: every backbone begins at random\n",
    )  # fmt: skip
