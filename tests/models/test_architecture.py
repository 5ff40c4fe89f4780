"""Backbones of every family, by name, from a folder and from the hub's cache."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from idc.core.checksums import file_sha256
from idc.core.config import short_name
from idc.core.errors import InputError
from idc.explain.maps.attributions import AttributionBudget
from idc.explain.maps.explainer import Explainer
from idc.models.backbones.architecture import build_net, find_architecture, native_shapes
from idc.models.backbones.backbone import create_backbone, rebuild_backbone
from idc.models.backbones.places import find_place
from idc.models.backbones.sources import (
    describe_weights,
    fetch_weights,
    find_weights,
    require_weights,
)
from idc.models.networks.fusion import FusionCNN
from idc.models.spec import Architecture, StartingWeights

# tiny ones of: class token, mean, attention pooling; convolutions between
TRANSFORMERS = ["test_vit", "test_vit2", "test_vit3", "test_maxvit"]
SWIN = Architecture(
    "swin_tiny_patch4_window7_224",
    {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 4},
)
EVA = Architecture(
    "eva02_tiny_patch14_224",
    {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 16, "img_size": 224},
)


# as UNI2-h and Virchow: gated layers, tokens of the positions, images of any size
GATED_ARGS = {
    "depth": 2, "mlp_ratio": 5.5, "init_values": 1e-5, "reg_tokens": 2, "no_embed_class": True,
    "dynamic_img_size": True,
}  # fmt: skip
GATED_PARTS = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
GATED_CLASSES = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}


def save(folder, architecture, **classes):
    """Save a random network as timm does, and return it."""
    net = timm.create_model(architecture.name, num_classes=3, **{**architecture.args, **classes})
    folder.mkdir(parents=True, exist_ok=True)
    facts = {key: value for key, value in net.pretrained_cfg.items() if key != "tag"}
    config = {
        "architecture": architecture.name,
        "num_classes": 3,
        "model_args": architecture.args,
        "pretrained_cfg": facts | {"mean": [0.1, 0.2, 0.3], "num_classes": 3},
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors"
    )
    return net


def explain(model, size_px, method, edge_px):
    total = sum(backbone.num_features for backbone in model.branches)
    explainer = Explainer(
        model, size_px, torch.zeros(total), torch.device("cpu"), AttributionBudget(4, 1)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, edge_px, edge_px, 3), dtype=np.uint8)
    return explainer.explain(method, pixels)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_backbone_when_it_has_attention_then_size_maps_and_embedding_are_right(name):
    backbone = create_backbone(name, "none", 64).eval()
    shapes = []
    backbone.cam_layer().register_forward_hook(lambda _, __, maps: shapes.append(tuple(maps.shape)))
    embedding = backbone(torch.rand(2, 3, 64, 64))
    assert embedding.shape == (2, backbone.num_features)
    ((batch, _, *edges),) = shapes
    assert (batch, *edges) == (2, 4, 4)


def test_backbone_when_its_patches_are_of_32_px_then_cams_read_a_coarser_map():
    architecture = Architecture("test_vit", {"patch_size": 32})
    backbone = rebuild_backbone("coarse", architecture, 96).eval()
    backbone.net.feature_info = [each | {"reduction": 32} for each in backbone.net.feature_info]
    shapes = []
    backbone.cam_layer().register_forward_hook(lambda _, __, maps: shapes.append(tuple(maps.shape)))
    backbone(torch.rand(1, 3, 96, 96))
    assert shapes[0][2:] == (3, 3)
    assert backbone.last_mapped_layer() is backbone.net.blocks[-2]


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3", "test_maxvit"])
def test_backbone_when_given_a_mosaic_then_takes_it_at_twice_the_size(name):
    backbone = create_backbone(name, "none", 64).eval()
    assert backbone(torch.rand(1, 3, 128, 128)).shape == (1, backbone.num_features)


def test_backbone_when_it_takes_one_size_alone_then_is_refused_for_the_mosaics():
    with pytest.raises(InputError, match=r"test_vit_relpos takes images of one size alone"):
        create_backbone("test_vit_relpos", "none", 64)


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "ablation_cam", "saliency"])
@pytest.mark.parametrize("name", ["test_vit", "test_vit3"])
def test_explain_when_a_backbone_is_a_transformer_then_its_maps_differ_from_place_to_place(
    name, method
):
    torch.manual_seed(0)
    model = FusionCNN([create_backbone(name, "none", 64)], dropout=0.0).eval()
    for edge_px in (50, 100):
        maps = explain(model, 64, method, edge_px)[name]
        assert maps.shape == (2, edge_px, edge_px)
        assert np.isfinite(maps).all()
        assert maps.std(axis=(1, 2)).max() > 0


@pytest.mark.parametrize("architecture", [SWIN, EVA], ids=["windows", "rotary positions"])
def test_backbone_when_a_folder_says_how_it_is_built_then_it_is_built_so(tmp_path, architecture):
    saved = save(tmp_path / "tiny net", architecture).state_dict()
    name = f"local-dir:{tmp_path}/tiny net"
    require_weights([name], "imagenet", 64)
    backbone = create_backbone(name, "imagenet", 64).eval()
    assert backbone.name == "tiny_net"
    assert backbone.architecture == architecture
    assert backbone.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    own = backbone.net.state_dict()
    first = f"{backbone.net.pretrained_cfg['first_conv']}.weight"
    assert torch.equal(own[first], saved[first])
    shapes = []
    backbone.cam_layer().register_forward_hook(lambda _, __, maps: shapes.append(tuple(maps.shape)))
    images = torch.rand(1, 3, 64, 64)
    expected = backbone(images)
    assert shapes[0][2:] == (4, 4)

    rebuilt = rebuild_backbone(backbone.name, backbone.architecture, 64)
    rebuilt.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(rebuilt.eval()(images), expected)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """`hub_cache(repository)`: its folder in an otherwise empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def add(repository):
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("0" * 40)
        return folder / "snapshots" / ("0" * 40)

    return add


def test_backbone_when_the_hub_has_it_then_its_cache_serves_without_a_network(hub_cache):
    folder = hub_cache("a-lab/tiny-vit")
    saved = save(folder, Architecture("test_vit", {"depth": 4})).state_dict()
    name = "hf-hub:a-lab/tiny-vit"
    assert find_weights(name, "imagenet").path == folder / "model.safetensors"
    require_weights([name], "imagenet", 48)
    backbone = create_backbone(name, "imagenet", 48)
    assert backbone.name == "tiny-vit"
    assert torch.equal(
        backbone.net.state_dict()["blocks.3.attn.qkv.weight"], saved["blocks.3.attn.qkv.weight"]
    )


def test_backbone_when_timms_weights_are_in_the_hubs_cache_then_they_are_loaded(hub_cache):
    net = timm.create_model("test_resnet", pretrained=False)
    folder = hub_cache("timm/test_resnet.r160_in1k")
    folder.mkdir(parents=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    require_weights(["test_resnet"], "imagenet", 32)
    own = create_backbone("test_resnet", "imagenet", 32).net.state_dict()
    assert all(torch.equal(tensor, net.state_dict()[key]) for key, tensor in own.items())
    (said,) = describe_weights(["test_resnet"], "imagenet")
    assert (said.origin, said.licence) == ("timm/test_resnet.r160_in1k", "apache-2.0")


@pytest.mark.parametrize("stands", ["in the configuration", "in the name"])
@pytest.mark.parametrize("source", ["a folder", "the hub"])
def test_backbone_when_its_layers_are_classes_then_their_names_build_and_rebuild_it(
    tmp_path, hub_cache, source, stands
):
    folder = tmp_path / "gated" if source == "a folder" else hub_cache("a-lab/gated")
    name = f"local-dir:{folder}" if source == "a folder" else "hf-hub:a-lab/gated"
    in_config = GATED_ARGS | (GATED_PARTS if stands == "in the configuration" else {})
    saved = save(folder, Architecture("test_vit", in_config), **GATED_CLASSES).state_dict()
    if stands == "in the name":
        name += "?mlp_layer=SwiGLUPacked&act_layer=SiLU"
    require_weights([name], "imagenet", 64)
    backbone = create_backbone(name, "imagenet", 64).eval()
    assert backbone.name == "gated"
    assert backbone.architecture == Architecture("test_vit", GATED_ARGS | GATED_PARTS)
    assert isinstance(backbone.net.blocks[0].mlp.act, torch.nn.SiLU)
    key = "blocks.1.mlp.fc1.weight"
    assert torch.equal(backbone.net.state_dict()[key], saved[key])

    recorded = json.loads(json.dumps(asdict(backbone.architecture)))
    rebuilt = rebuild_backbone(backbone.name, Architecture(**recorded), 64)
    rebuilt.load_state_dict(backbone.state_dict())
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(rebuilt.eval()(images), backbone(images))


@pytest.mark.parametrize(
    ("architecture", "in_config", "name", "num_millions"),
    [
        ("vit_giant_patch14_224", {}, "UNI2-h", 681),
        (
            "vit_huge_patch14_224",
            {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "",
             "dynamic_img_size": True, "num_classes": 0},
            "Virchow", 632,
        ),
    ],
)  # fmt: skip
def test_backbone_when_named_as_the_documentation_says_then_it_has_the_published_size(
    project_root, hub_cache, architecture, in_config, name, num_millions
):
    page = (project_root / "docs/how-to/own_backbones.md").read_text(encoding="utf-8")
    backbone = re.search(rf"- (hf-hub:\S+/{name}\?\S+)", page)[1]
    folder = hub_cache(find_place(backbone).repository)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"architecture": architecture, "model_args": in_config})
    )
    net = native_shapes(find_architecture(backbone))
    # with layers that are not gated it would have a hundred million more
    assert sum(each.numel() for each in net.parameters()) == pytest.approx(
        num_millions * 1e6, abs=1e6
    )
    require_weights([backbone], "none", 98)
    assert short_name(backbone) == name


def test_backbone_when_its_layers_are_not_named_then_says_where_to_name_them(tmp_path):
    save(tmp_path, Architecture("test_vit", GATED_ARGS), **GATED_CLASSES)
    with pytest.raises(InputError, match=r"built otherwise \(size mismatch .*\?mlp_layer=") as said:
        create_backbone(f"local-dir:{tmp_path}", "imagenet", 64)
    assert "\n" not in str(said.value)


def test_backbone_when_it_gives_tokens_then_its_name_can_say_how_it_pools(tmp_path):
    save(tmp_path, Architecture("test_vit", {"global_pool": ""}))
    name = f"local-dir:{tmp_path}"
    with pytest.raises(InputError, match=r"gives its tokens, .*: add .*\?global_pool=token"):
        require_weights([name], "imagenet", 64)
    backbone = create_backbone(f"{name}?global_pool=token", "imagenet", 64)
    assert backbone(torch.rand(1, 3, 64, 64)).shape == (1, backbone.num_features)


@pytest.mark.parametrize("word", ["gelu", "GELU"])
def test_backbone_when_a_layer_is_named_in_timms_words_then_it_is_built(tmp_path, word):
    save(tmp_path, Architecture("test_vit", {"act_layer": word, "norm_layer": "layernorm"}))
    net = create_backbone(f"local-dir:{tmp_path}", "imagenet", 64).net
    assert isinstance(net.blocks[0].norm1, torch.nn.LayerNorm)


def test_place_when_a_name_has_arguments_then_they_are_yaml():
    name = "hf-hub:a-lab/net@v1?init_values=1e-5&depth=24&no_embed_class=true&depths=[1,2]&a=b%26c"
    place = find_place(name)
    assert (place.name, place.repository) == ("hf-hub:a-lab/net@v1", "a-lab/net@v1")
    assert place.args == {
        "init_values": 1e-5, "depth": 24, "no_embed_class": True, "depths": [1, 2], "a": "b&c",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("depth", "'depth' is no argument: write each once, as `depth=24`"),
        ("depth=1&depth=2", "'depth=2' is no argument"),
        ("depth=[1", "depth of local-dir:.* is not YAML"),
        ("depth=null", "depth cannot be null"),
        ("depth=.inf", r"depth cannot be \.inf"),
        ("depth=2026-01-01", "depth cannot be 2026-01-01"),
        ("depht=3", "timm cannot build test_vit as its configuration says .*depht"),
        ("mlp_layer=SwiGLUPakced", "neither timm.layers nor torch.nn has a layer 'SwiGLUPakced'"),
        ("act_layer=functional", "neither timm.layers nor torch.nn has a layer 'functional'"),
        ("mlp_layer=create_attn", "neither timm.layers nor torch.nn has a layer 'create_attn'"),
        ("checkpoint_path=a.pth", "sets checkpoint_path, not of a network"),
        ("pretrained_cfg=a", "sets pretrained_cfg, not of a network"),
        ("features_only=true", "sets features_only, not of a network"),
    ],
)
def test_backbone_when_an_argument_is_wrong_then_says_so_before_anything_is_loaded(
    tmp_path, monkeypatch, query, says
):
    save(tmp_path, Architecture("test_vit"))
    monkeypatch.setattr(
        "timm.models._builder.load_pretrained", lambda *_, **__: pytest.fail("loaded")
    )
    name = f"local-dir:{tmp_path}?{query}"
    for use in (
        lambda: require_weights([name], "imagenet", 64),
        lambda: create_backbone(name, "imagenet", 64),
    ):
        with pytest.raises(InputError, match=says) as said:
            use()
        assert "\n" not in str(said.value)


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained", "cache_dir", "pretrained_cfg"])
def test_backbone_when_the_hubs_configuration_sets_what_is_timms_then_nothing_is_loaded(
    hub_cache, monkeypatch, key
):
    folder = hub_cache("a-lab/net")
    save(folder, Architecture("test_resnet"))  # of no fixed size: timm alone would build it
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_args": {key: "a.pth"}}))
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("it was built"))
    for use in (
        lambda: require_weights(["hf-hub:a-lab/net"], "imagenet", 64),
        lambda: create_backbone("hf-hub:a-lab/net", "imagenet", 64),
    ):
        with pytest.raises(InputError, match=f"sets {key}, not of a network"):
            use()


def test_weights_when_a_revision_is_pinned_then_every_question_to_the_hub_names_it(
    hub_cache, monkeypatch
):
    asked = []

    def ask(name, file, revision=None):
        asked.append((name, file, revision))
        return str(folder / file)

    folder = hub_cache("a-lab/other")
    save(folder, Architecture("test_resnet"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", ask)
    monkeypatch.setattr("huggingface_hub.file_exists", ask)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    require_weights(["hf-hub:a-lab/net@v2"], "imagenet", 64)
    weights = find_weights("hf-hub:a-lab/net@v2", "imagenet")
    fetch_weights(weights)
    assert weights.place == "a-lab/net@v2"
    assert {(name, revision) for name, _, revision in asked} == {("a-lab/net", "v2")}
    assert asked[-1][1] == "model.safetensors"


@pytest.mark.parametrize(
    ("name", "size_px", "says"),
    [
        ("test_vit", 50, "test_vit takes images of a multiple of 16 px, not of 50: set it to 48"),
        ("test_vit", 8, "multiple of 16 px, not of 8: set it to 16"),
    ],
)
def test_backbone_when_patches_cannot_have_its_size_then_says_which_it_takes(name, size_px, says):
    with pytest.raises(InputError, match=says):
        build_net(find_architecture(name), size_px)
    with pytest.raises(InputError, match=says):
        require_weights([name], "none", size_px)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"config\.json is missing"),
        ("{", r"config\.json names no architecture of timm"),
        ("[]", r"config\.json names no architecture of timm"),
        ('{"architecture": ["test_resnet"]}', r"config\.json names no architecture of timm"),
        *(
            (json.dumps({"architecture": "test_resnet", key: value}), "names no architecture of")
            for key in ("pretrained_cfg", "model_args")
            for value in ("apache-2.0", ["license"], 3, True)
        ),
        ('{"architecture": "resnet_of_ours"}', "timm has no 'resnet_of_ours', which local-dir:"),
        (
            '{"architecture": "test_resnet", "model_args": {"depht": 3}}',
            "timm cannot build test_res",
        ),
        (
            '{"architecture": "test_resnet", "model_args": {"checkpoint_path": "a.pth"}}',
            "sets checkpoint_path, not of a network",
        ),
    ],
)
def test_backbone_when_its_configuration_is_wrong_then_says_so_in_a_line(tmp_path, content, says):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=says) as refused:
        create_backbone(f"local-dir:{tmp_path}", "none", 64)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("in_config", "card", "licence"),
    [
        ({"license": "apache-2.0"}, None, "apache-2.0"),
        ({}, "---\nlicense: cc-by-nc-4.0\n---\nA network.\n", "cc-by-nc-4.0"),
        ({}, "A network.\n", None),
        ({}, "---\n- no facts\n---\n", None),
        ({}, None, None),
        ({"license": ["mit", "cc-by-4.0"]}, None, "mit, cc-by-4.0"),
        ({"license": {"name": "mit"}}, None, None),
        ({"license": 4}, None, None),
        ({}, "---\nlicense: 4\n---\n", None),
    ],
)
def test_weights_when_their_source_names_a_licence_then_the_model_says_it(
    tmp_path, in_config, card, licence
):
    save(tmp_path / "net", Architecture("test_resnet"))
    config = json.loads((tmp_path / "net/config.json").read_text())
    config["pretrained_cfg"].pop("license", None)
    config["pretrained_cfg"] |= in_config
    (tmp_path / "net/config.json").write_text(json.dumps(config))
    if card is not None:
        (tmp_path / "net/README.md").write_text(card)
    (said,) = describe_weights([f"local-dir:{tmp_path}/net"], "imagenet")
    digest = file_sha256(tmp_path / "net/model.safetensors")
    assert said == StartingWeights("net", "model.safetensors", licence, digest)


def test_backbone_when_its_tag_is_of_no_weights_then_says_so():
    with pytest.raises(InputError, match=r"timm has no 'resnet18\.foo' .*leave out the tag"):
        find_architecture("resnet18.foo")


def test_backbone_when_its_folder_has_no_weights_then_says_so(tmp_path):
    save(tmp_path, Architecture("test_resnet"))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors does not exist"):
        require_weights([f"local-dir:{tmp_path}"], "imagenet", 64)


def test_backbone_when_the_hub_refuses_then_names_the_token(monkeypatch):
    def refuse(*_, **__):
        raise OSError("401: gated")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(InputError, match=r"cannot be fetched \(401: gated\): .*HF_TOKEN"):
        find_architecture("hf-hub:a-lab/gated")
