"""The texture member alone, learnt from a handful of patches, and joined to a tiny fusion CNN."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from idc.core.checksums import SUMS
from idc.core.errors import InputError
from idc.core.files import load_json, save_json
from idc.data.images import to_images
from idc.evaluation.statistics.metrics import auroc
from idc.models.baselines.fit import score_baseline
from idc.models.bundle import load_model, save_bundle
from idc.models.networks.fusion import MemberLogits
from idc.models.networks.texture_member import TextureMember, to_grey_levels
from idc.models.scoring.inference import create_scorer
from idc.models.texture import dictionary as dictionary_module
from idc.training.texture_member import learn_texture_member
from tests.random_networks import random_fusion, tiny_spec

NUM_PATCHES = 160
LABELS = np.arange(NUM_PATCHES) % 2
TRAIN = np.arange(100)
TESTED = np.arange(100, NUM_PATCHES)
SIZE_PX = 32
CPU = torch.device("cpu")
TINY = ("test_resnet", "test_efficientnet")


@pytest.fixture(scope="module")
def pixels():
    """Stripes across (IDC-) and down (IDC+), faint beside the noise; of equal mean colour."""
    rng = np.random.default_rng(0)
    pixels = np.empty((NUM_PATCHES, 50, 50, 3), np.uint8)
    for patch, label in enumerate(LABELS):
        wave = 7 * np.sign(np.sin((np.arange(50) + rng.integers(0, 8)) * np.pi / 4 + 0.1))
        stripes = np.broadcast_to(wave, (50, 50)) if label else np.broadcast_to(wave, (50, 50)).T
        level = rng.integers(100, 160, 3)
        noise = rng.normal(0, 20, (50, 50, 3))
        pixels[patch] = np.clip(level + stripes[..., None] + noise, 0, 255)
    return pixels


@pytest.fixture(scope="module", autouse=True)
def _few_windows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dictionary_module, "_WINDOWS", 2000)
        yield


@pytest.fixture(scope="module")
def texture(pixels):
    return learn_texture_member(pixels, TRAIN, LABELS[TRAIN], size_px=SIZE_PX, seed=17)


@pytest.fixture
def fusion(texture):
    torch.manual_seed(1)
    model = random_fusion(TINY, dropout=0.5, aux_heads=True).eval()
    model.join_texture(texture)
    return model.eval()


def images_of(patches, size_px=SIZE_PX):
    return to_images(torch.from_numpy(patches), size_px=size_px, device=CPU)


@torch.no_grad()
def test_learn_when_textures_have_equal_colour_then_separates_them(texture, pixels):
    logits = texture(images_of(pixels[TESTED]))
    assert logits.shape == (len(TESTED), 1)
    assert auroc(LABELS[TESTED], logits[:, 0].numpy()) > 0.9


@torch.no_grad()
def test_learn_when_the_network_sees_native_patches_then_is_the_baseline(pixels):
    texture = learn_texture_member(pixels, TRAIN, LABELS[TRAIN], size_px=50, seed=17)
    score = score_baseline("dictionary", pixels, TRAIN, LABELS[TRAIN], TESTED, 17)
    logits = texture(images_of(pixels[TESTED], 50))[:, 0].numpy()
    expected = np.log(score / (1 - score))
    assert np.abs(logits - expected).max() < 0.02 * np.ptp(expected)


def test_learn_when_repeated_then_gives_equal_bits_and_another_seed_others(texture, pixels):
    again, other = (
        learn_texture_member(pixels, TRAIN, LABELS[TRAIN], size_px=SIZE_PX, seed=seed)
        for seed in (17, 18)
    )
    for name, tensor in texture.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(texture.filters, other.filters)


def test_learn_when_done_then_no_tensor_is_trained_by_gradients(texture):
    assert set(texture.state_dict()) == set(dict(texture.named_parameters()))
    assert not any(parameter.requires_grad for parameter in texture.parameters())


def test_gradient_when_a_patch_is_white_black_or_of_tissue_then_is_finite(texture, pixels):
    images = images_of(pixels[:3]).clone()
    images[1], images[2] = 1.0, 0.0
    images.requires_grad_()
    texture(images).sum().backward()
    assert torch.isfinite(images.grad).all()
    assert images.grad[0].abs().max() > 0


@torch.no_grad()
def test_texture_when_a_gpu_convolves_with_few_digits_then_its_logits_hardly_move(
    texture, pixels, monkeypatch
):
    images = images_of(200 + pixels // 8)  # bright and faint, as the most of a slide is
    exact = texture(images)
    convolve = functional.conv2d

    def to_tf32(values):
        bits = values.contiguous().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)

    def convolve_in_tf32(images, filters, stride):
        return convolve(to_tf32(images), to_tf32(filters), stride=stride)

    monkeypatch.setattr(functional, "conv2d", convolve_in_tf32)
    moved = (texture(images) - exact).abs().max()
    assert 0 < moved < 0.01 * exact.std()


@torch.no_grad()
def test_texture_when_a_mosaic_is_larger_then_its_textures_keep_their_size(texture, pixels):
    cell = pixels[7]
    alone = texture(images_of(cell[None]))
    mosaic = np.tile(cell, (2, 2, 1))[None]
    tiled = texture(images_of(mosaic, 2 * SIZE_PX))
    assert abs(tiled - alone) < 0.25 * texture(images_of(pixels)).std()


def test_to_grey_levels_when_patches_are_native_then_gives_their_pixels(pixels):
    grey = to_grey_levels(images_of(pixels[:2], 50), size_px=50)
    expected = torch.from_numpy(pixels[:2]).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(grey, expected, rtol=0, atol=1e-3)


@torch.no_grad()
def test_reset_when_done_then_filters_know_nothing_and_still_sum_to_nothing(texture, pixels):
    fresh = TextureMember(SIZE_PX)
    fresh.load_state_dict(texture.state_dict())
    torch.manual_seed(3)
    fresh.reset_parameters()
    assert fresh.filters.sum(dim=(1, 2, 3)).abs().max() < 1e-4
    for name in ("filters", "weight"):
        before, after = texture.state_dict()[name], fresh.state_dict()[name]
        assert not torch.equal(before, after)
        torch.testing.assert_close(before.flatten().sort()[0], after.flatten().sort()[0])
    images = images_of(pixels[TESTED])
    correlation = np.corrcoef(texture(images)[:, 0], fresh(images)[:, 0])[0, 1]
    assert abs(correlation) < 0.8


@torch.inference_mode()
def test_fusion_when_a_texture_member_joins_then_the_logit_is_the_mean_of_both(texture, pixels):
    torch.manual_seed(1)
    model = random_fusion(TINY, dropout=0.5, aux_heads=True).eval()
    images = images_of(pixels[:6])
    before, own = MemberLogits(model)(images), texture(images)[:, 0]
    model.join_texture(texture)
    after = MemberLogits(model)(images)
    assert model.scored_members == [*TINY, "cnn", "texture"]
    assert own.std() > 1e-2
    torch.testing.assert_close(after[:, 0], (before[:, 0] + own) / 2)
    torch.testing.assert_close(model(images), after[:, 0])
    torch.testing.assert_close(after[:, 1:3], before[:, 1:])
    torch.testing.assert_close(after[:, 3], before[:, 0])
    torch.testing.assert_close(after[:, 4], own)
    torch.testing.assert_close(model.classify(model.embed(images)), after[:, 0])


@torch.inference_mode()
def test_fusion_when_it_has_no_auxiliary_heads_then_the_texture_member_still_has_a_logit(
    texture, pixels
):
    model = random_fusion(TINY, dropout=0.0).eval()
    model.join_texture(texture)
    assert model.scored_members == ["cnn", "texture"]
    assert MemberLogits(model)(images_of(pixels[:2])).shape == (2, 3)
    assert [member.name for member in model.members] == [*TINY, "texture"]


@torch.inference_mode()
def test_bundle_when_a_texture_member_is_in_it_then_gives_the_same_logits(fusion, pixels, tmp_path):
    save(fusion, tmp_path)
    images = images_of(pixels[:6])
    loaded, spec = load_model(tmp_path / "fusion")
    assert spec.texture_member
    torch.testing.assert_close(MemberLogits(loaded)(images), MemberLogits(fusion)(images))


def test_bundle_when_it_is_of_a_version_before_texture_members_then_asks_to_retrain(
    fusion, tmp_path
):
    save(fusion, tmp_path)
    path = tmp_path / "fusion/spec.json"
    save_json(path, {k: v for k, v in load_json(path).items() if k != "texture_member"})
    (path.parent / SUMS).unlink()  # that version wrote no digests
    with pytest.raises(InputError, match=r"is of another version .*texture_member.*: retrain"):
        load_model(tmp_path / "fusion")


def save(model, folder):
    spec = tiny_spec(
        TINY,
        size_px=SIZE_PX,
        dropout=0.5,
        aux_heads=True,
        texture_member=True,
        num_training_patches=[6, 4],
    )
    history = pd.DataFrame({"epoch": [1]})
    save_bundle(folder / "fusion", model.state_dict(), spec, history, torch.zeros(1))


@pytest.mark.parametrize("size_px", [32, 50, 96])
def test_scorer_when_images_are_many_then_onnx_takes_the_texture_member(
    texture, pixels, caplog, size_px
):
    model = random_fusion(["test_resnet"], dropout=0.0, aux_heads=True)
    images = images_of(pixels[:20], size_px)
    for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
        norm.momentum = None
    with torch.no_grad():
        model.train()(images)
        member = TextureMember(size_px)
        member.load_state_dict(texture.state_dict())
        model.join_texture(member)
    each = MemberLogits(model).eval()
    with caplog.at_level(logging.WARNING):
        scorer = create_scorer(each, CPU, size_px, num_images=10**6)
    assert caplog.records == []
    called = []
    hook = member.register_forward_hook(lambda *_: called.append(1))
    scored = scorer(images)
    hook.remove()
    assert called == []
    with torch.inference_mode():
        torch.testing.assert_close(scored, each(images), rtol=1e-3, atol=1e-3)
