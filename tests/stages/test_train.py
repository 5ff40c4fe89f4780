import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import idc
from idc.core import layout
from idc.core.errors import InputError
from idc.data.images import to_images
from idc.data.subsets import select_subset
from idc.data.tables import INDEX_SCHEMA, SPLITS_SCHEMA, save_table
from idc.models.backbones.backbone import create_backbone
from idc.models.bundle import load_mean_embedding, load_model
from idc.models.networks.fusion import MemberLogits
from idc.models.texture import dictionary
from idc.stages import train
from idc.training.checkpoint import Checkpoint
from idc.training.texture_member import learn_texture_member
from tests.random_networks import random_backbone


@pytest.fixture
def index(make_index):
    """Case a trains, b is test."""
    return make_index({"a": (6, 2), "b": (2, 2)})


@pytest.fixture
def splits(index):
    """Half of a's patches are in the manifest; all of b's are test."""
    table = index.rename_axis("row").reset_index()[["row", "case", "x", "y", "label"]]
    table["split"] = table["case"].map({"a": "train", "b": "test"})
    table["in_manifest"] = table["row"] % 2 == 0
    return table[table["in_manifest"] | (table["split"] == "test")].reset_index(drop=True)


@pytest.fixture
def trainable_pixels(index, splits, tmp_path, monkeypatch):
    """What `train` reads, in the current folder; half of b's patches are val."""
    monkeypatch.chdir(tmp_path)
    splits.loc[splits["split"] == "test", "split"] = ["val", "test", "val", "test"]
    save_table(layout.INDEX, index, INDEX_SCHEMA)
    save_table(layout.SPLITS, splits, SPLITS_SCHEMA)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 50, 50, 3), dtype=np.uint8)
    np.save(layout.PIXELS, pixels)
    return pixels


def test_name_other_checkpoints_when_there_are_some_then_says_they_are_not_used(tmp_path, caplog):
    caplog.set_level("INFO")
    mine, other = (Checkpoint(tmp_path / name) for name in ("mine", "other"))
    for checkpoint in (mine, other):
        checkpoint.save({"weights": 1}, 1)
    train._name_other_checkpoints(mine)
    assert "1 checkpoints of other parameters, data or code are not used" in caplog.text


def test_run_when_the_training_set_is_smaller_than_a_batch_then_says_so(
    splits, index, change_params, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    splits.loc[splits["split"] == "test", "split"] = ["val", "val", "test", "test"]
    save_table(layout.INDEX, index, INDEX_SCHEMA)
    save_table(layout.SPLITS, splits, SPLITS_SCHEMA)
    np.save(layout.PIXELS, np.zeros((12, 50, 50, 3), dtype=np.uint8))
    with pytest.raises(InputError, match=r"train\.batch_size: 8 is more than the 4 patches"):
        train.run(change_params())
    assert not layout.BUNDLE.exists()


def test_digest_training_when_a_parameter_changes_then_the_checkpoint_is_another(
    splits, index, change_params, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save_table(layout.INDEX, index, INDEX_SCHEMA)
    save_table(layout.SPLITS, splits, SPLITS_SCHEMA)
    names = {
        train._checkpoint(change_params(**changes)).name
        for changes in ({}, {"train": {"weight_decay": 0.9}}, {"augment": {"d4": False}})
    }
    same = train._checkpoint(change_params(runtime={"scoring_batch_size": 3})).name
    assert len(names) == 3
    assert same in names


@pytest.mark.parametrize(
    "changed",
    ["models/networks/fusion.py", "stages/train.py", "evaluation/statistics/metrics.py"],
)
def test_digest_training_when_its_code_changes_then_the_checkpoint_is_another(
    splits, index, change_params, tmp_path, monkeypatch, changed
):
    monkeypatch.chdir(tmp_path)
    save_table(layout.INDEX, index, INDEX_SCHEMA)
    save_table(layout.SPLITS, splits, SPLITS_SCHEMA)
    package = shutil.copytree(Path(idc.__file__).parent, tmp_path / "idc")
    monkeypatch.setattr(idc, "__file__", str(package / "__init__.py"))
    before = train._checkpoint(change_params()).name
    with (package / changed).open("r+") as file:
        file.write("# another line\n")
    assert train._checkpoint(change_params()).name != before


def test_digest_training_when_weights_in_a_folder_change_then_the_checkpoint_is_another(
    splits, index, change_params, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save_table(layout.INDEX, index, INDEX_SCHEMA)
    save_table(layout.SPLITS, splits, SPLITS_SCHEMA)
    params = change_params(model={"pretrained": "weights"})
    names = set()
    for content in ("old", "new"):
        path = tmp_path / "weights/test_resnet.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        names.add(train._checkpoint(params).name)
    assert len(names) == 2


@pytest.mark.parametrize("changed", ["model.safetensors", "config.json"])
def test_digest_training_when_a_folder_that_timm_saved_changes_then_the_checkpoint_is_another(
    splits, index, change_params, tmp_path, monkeypatch, changed
):
    monkeypatch.chdir(tmp_path)
    save_table(layout.INDEX, index, INDEX_SCHEMA)
    save_table(layout.SPLITS, splits, SPLITS_SCHEMA)
    (tmp_path / "net").mkdir()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "net" / name).write_text("old")
    params = change_params(model={"backbones": ["local-dir:net"], "pretrained": "imagenet"})
    before = train._checkpoint(params).name
    (tmp_path / "net" / changed).write_text("new")
    assert train._checkpoint(params).name != before


@pytest.mark.usefixtures("trainable_pixels")
def test_run_when_backbones_are_frozen_then_the_model_holds_the_weights_it_began_with(
    change_params, tmp_path
):
    weights = random_backbone("test_resnet").net.state_dict()
    (tmp_path / "weights").mkdir()
    save_file(weights, tmp_path / "weights/test_resnet.safetensors")
    model = {"pretrained": "weights", "freeze_backbones": True}
    train.run(change_params(model=model, train={"batch_size": 2, "epochs": 2}))
    trained, _ = load_model(layout.BUNDLE)
    for name, tensor in weights.items():
        assert torch.equal(trained.branches[0].net.state_dict()[name], tensor), name
    kept = sorted((tmp_path / ".idc/embeddings").rglob("*embeddings.npy"))
    written = [path.stat().st_mtime_ns for path in kept]
    train.run(change_params(model=model, train={"batch_size": 2, "epochs": 2, "patience": 1}))
    assert [path.stat().st_mtime_ns for path in kept] == written, "the views are computed once"
    assert sorted((tmp_path / ".idc/embeddings").rglob("*embeddings.npy")) == kept


@pytest.mark.slow
@pytest.mark.usefixtures("trainable_pixels")
def test_run_when_weights_are_packaged_then_trains_from_them_and_the_model_names_them(
    change_params,
):
    name = "tf_efficientnet_lite0"
    model = {"backbones": [name], "pretrained": "packaged", "freeze_backbones": True}
    train.run(change_params(model=model, train={"batch_size": 2, "epochs": 1, "patience": 1}))
    trained, spec = load_model(layout.BUNDLE)
    began = create_backbone(name, "packaged", 32).net.state_dict()
    for key, tensor in trained.branches[0].net.state_dict().items():
        assert torch.equal(tensor, began[key]), key
    (weights,) = spec.starting_weights
    assert (weights.backbone, weights.licence) == (name, "Apache-2.0")
    assert weights.origin == "efficientnet-lite0-57934424.pth"


@pytest.mark.slow
@pytest.mark.usefixtures("trainable_pixels")
def test_run_when_a_backbone_is_a_transformer_from_a_folder_then_trains_and_is_rebuilt_without_it(
    change_params, tmp_path
):
    net = timm.create_model("test_vit", depth=3)
    (tmp_path / "net").mkdir()
    config = {"architecture": "test_vit", "model_args": {"depth": 3}}
    (tmp_path / "net/config.json").write_text(json.dumps(config | {"num_classes": 1000}))
    save_file(net.state_dict(), tmp_path / "net/model.safetensors")
    model = {"backbones": [f"local-dir:{tmp_path}/net", "test_resnet"], "aux_heads": True}
    train.run(change_params(model=model, train={"batch_size": 2, "epochs": 1, "patience": 1}))
    shutil.rmtree(tmp_path / "net")
    trained, spec = load_model(layout.BUNDLE)
    assert spec.backbones == ["net", "test_resnet"]
    assert len(trained.branches[0].net.blocks) == 3


@pytest.mark.slow
def test_run_when_a_texture_member_is_wanted_then_it_joins_what_is_trained_without_it(
    trainable_pixels, splits, change_params, monkeypatch, caplog
):
    monkeypatch.setattr(dictionary, "_WINDOWS", 2000)
    caplog.set_level("INFO")
    models, means = [], []
    for wanted in (False, True):
        train.run(change_params(model={"texture_member": wanted}, train={"batch_size": 2}))
        model, spec = load_model(layout.BUNDLE)
        assert spec.texture_member is wanted
        models.append(model)
        means.append(load_mean_embedding(layout.BUNDLE))
    plain, joined = models
    images = to_images(torch.from_numpy(trainable_pixels), size_px=32, device="cpu")
    rows, labels = select_subset(splits, "train")
    texture = learn_texture_member(trainable_pixels, rows, labels, size_px=32, seed=17)
    for name, tensor in plain.backbones.state_dict().items():
        assert torch.equal(joined.backbones.state_dict()[name], tensor), "the CNN trains as before"
    assert torch.equal(2 * joined.head[-1].weight[:, :-1], plain.head[-1].weight)
    with torch.inference_mode():
        logits = MemberLogits(joined)(images)
        torch.testing.assert_close(logits[:, 2], plain(images))
        torch.testing.assert_close(logits[:, 3], texture(images)[:, 0])
        torch.testing.assert_close(logits[:, 0], (logits[:, 2] + logits[:, 3]) / 2)
        own_mean = texture(images[rows.tolist()]).mean()
    torch.testing.assert_close(means[1], torch.cat([means[0], own_mean[None]]))
    (said,) = [each for each in caplog.messages if "with the texture member" in each]
    assert said.endswith(f"{spec.val_auroc:.4f} without")


@pytest.mark.slow
def test_run_when_the_training_set_is_large_then_a_part_of_it_is_profiled(
    trainable_pixels, splits, change_params, monkeypatch
):
    monkeypatch.setattr(train, "_NUM_PROFILED", 3)
    train.run(change_params(train={"batch_size": 2}))
    model, _ = load_model(layout.BUNDLE)
    rows = select_subset(splits, "train")[0][[0, 2, 3]]
    with torch.inference_mode():
        images = to_images(torch.from_numpy(trainable_pixels[rows]), size_px=32, device="cpu")
        expected = torch.cat(model.eval().embed(images), dim=1).mean(dim=0)
    torch.testing.assert_close(load_mean_embedding(layout.BUNDLE), expected)


def test_digest_training_when_a_texture_member_is_wanted_then_the_checkpoint_stays(
    splits, index, change_params, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save_table(layout.INDEX, index, INDEX_SCHEMA)
    save_table(layout.SPLITS, splits, SPLITS_SCHEMA)
    names = {
        train._checkpoint(change_params(model={"texture_member": wanted})).name
        for wanted in (True, False)
    }
    assert len(names) == 1
