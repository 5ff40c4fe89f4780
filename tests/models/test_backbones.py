import pytest
import torch
from safetensors.torch import save_file

from idc.core.errors import InputError
from idc.models.networks.backbones import Backbone, require_weights


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_backbone_when_given_images_then_its_embedding_has_num_features(name):
    backbone = Backbone(name, "none").eval()
    assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, backbone.num_features)


def test_backbone_when_weights_are_in_a_folder_then_loads_them(tmp_path):
    saved = Backbone("test_resnet", "none").net
    save_file(saved.state_dict(), tmp_path / "test_resnet.safetensors")
    loaded = Backbone("test_resnet", str(tmp_path)).net.state_dict()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_cam_layer_when_asked_then_its_maps_have_stride_16():
    backbone, shapes = Backbone("test_resnet", "none").eval(), []
    backbone.cam_layer().register_forward_hook(lambda _, __, maps: shapes.append(maps.shape[2:]))
    backbone(torch.rand(1, 3, 64, 64))
    assert shapes == [(4, 4)]


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet50", "densenet121"])
def test_cam_layer_when_an_image_has_96_px_then_its_maps_have_6x6_cells(name):
    backbone, shapes = Backbone(name, "none").eval(), []
    backbone.cam_layer().register_forward_hook(lambda _, __, maps: shapes.append(maps.shape[2:]))
    with torch.no_grad():
        backbone(torch.rand(1, 3, 96, 96))
    assert shapes == [(6, 6)]


def test_require_weights_when_none_are_wanted_then_asks_for_nothing():
    assert require_weights(("test_resnet",), "none") is None


def test_require_weights_when_the_hub_cannot_be_asked_then_says_so_in_a_line(monkeypatch):
    class ConnectError(Exception):
        """As an HTTP client's own errors: of no common kind."""

    def file_exists(*_):
        raise ConnectError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.file_exists", file_exists)
    with pytest.raises(InputError, match=r"resnet50 cannot be fetched \(no route to host\)"):
        require_weights(("resnet50",), "imagenet")


def test_require_weights_when_the_folder_lacks_one_then_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"test_resnet\.safetensors does not exist"):
        require_weights(("test_resnet",), str(tmp_path))


@pytest.fixture
def hub(monkeypatch):
    """`hub(cached=..., found=...)`: what lies in the hub's cache, and what the hub has."""

    def install(*, cached, found):
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        path = "/cache/model.safetensors" if cached else None
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: path)
        monkeypatch.setattr("huggingface_hub.file_exists", lambda *_: found)

    return install


@pytest.mark.parametrize(("cached", "found"), [(True, False), (False, True)])
def test_require_weights_when_the_cache_or_the_hub_has_them_then_passes(hub, cached, found):
    hub(cached=cached, found=found)
    require_weights(("resnet50",), "imagenet")


def test_require_weights_when_nobody_has_them_then_says_so_in_a_line(hub):
    hub(cached=False, found=False)
    with pytest.raises(InputError, match=r"resnet50.*has no model\.safetensors") as raised:
        require_weights(("resnet50",), "imagenet")
    assert len(str(raised.value).splitlines()) == 1


def test_require_weights_when_timm_offers_none_then_names_the_backbone(hub):
    hub(cached=False, found=True)
    with pytest.raises(
        InputError, match="no ImageNet weights for beit3_giant_patch14_224: use none"
    ):
        require_weights(("beit3_giant_patch14_224",), "imagenet")
