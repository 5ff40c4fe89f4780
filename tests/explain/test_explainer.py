"""Maps of networks small enough that the right answer is known by hand, and of a real one."""

import gc
from typing import get_args

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from idc.core.config import ExplanationMethod
from idc.core.errors import InputError
from idc.data.images import to_images
from idc.explain.maps.attributions import AttributionBudget, blur
from idc.explain.maps.explainer import Explainer, NotFiniteMapError
from idc.explain.maps.methods import METHODS
from tests.random_networks import random_fusion

AFFORDABLE = [name for name, method in METHODS.items() if not method.costly]
CPU = torch.device("cpu")


class ToyBackbone(nn.Module):
    """Embedding f = mean over pixels of where * act(conv_f(image))."""

    def __init__(self, name, colours, where, act=None):
        super().__init__()
        self.name = name
        self.num_features = len(colours)
        self.net = nn.Sequential(nn.Conv2d(3, len(colours), 1), act or nn.Identity())
        self.net[0].weight.data = torch.tensor(colours)[:, :, None, None]
        self.net[0].bias.data.zero_()
        self.where = where

    def forward(self, images):
        return (self.net(images) * self.where).mean(dim=(2, 3))

    def cam_layer(self):
        return self.net[1]


class ToyModel(nn.Module):
    def __init__(self, branches, weights):
        super().__init__()
        self.branches = branches
        self.members = nn.ModuleList(branches)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(len(weights), 1))
        self.head[1].weight.data = torch.tensor([weights])

    def classify(self, embeddings):
        return self.head(torch.cat(list(embeddings), dim=1)).squeeze(1)


def explain_by(model, *, size_px=50, batch_size=8, mean=None, **changes):
    if mean is None:
        mean = torch.zeros(sum(backbone.num_features for backbone in model.branches))
    return Explainer(
        model, size_px, mean, CPU, AttributionBudget(batch_size, 3), **changes,
    )  # fmt: skip


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (3, 50, 50, 3), dtype=np.uint8)


@pytest.fixture
def left():
    where = torch.zeros(50, 50)
    where[:, :25] = 1.0
    return where


@pytest.fixture
def linear(left):
    """Backbone a sees red and green on the left, b sees blue on the right; b speaks against."""
    a = ToyBackbone("a", [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], left)
    b = ToyBackbone("b", [[0.0, 0.0, 1.0]], 1.0 - left)
    return ToyModel([a, b], [3.0, -1.0, -4.0])


@pytest.fixture(scope="module")
def fusion():
    torch.manual_seed(5)
    model = random_fusion(["test_resnet", "test_efficientnet"], dropout=0.1)
    return model.eval()


def images_of(pixels):
    return pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255


def linear_gradient(left):
    """d logit / d image: red 3 x 2 and green -1 x 1 on the left, blue -4 on the right."""
    left = left.numpy() / 2500
    right = (1 / 2500) - left
    return np.stack([6 * left, -1 * left, -4 * right])


def test_saliency_when_the_network_is_linear_then_is_the_strongest_weight(linear, pixels, left):
    maps = explain_by(linear).explain("saliency", pixels)
    expected = np.abs(linear_gradient(left))
    np.testing.assert_allclose(maps["a"][0], expected[:2].max(axis=0), atol=1e-9)
    np.testing.assert_allclose(maps["b"][0], expected[2], atol=1e-9)
    np.testing.assert_allclose(maps["fused"][0], expected.max(axis=0), atol=1e-9)


@pytest.mark.parametrize(
    ("method", "start"), [("input_x_gradient", "black"), ("integrated_gradients", "blurred")]
)
def test_pixel_attribution_when_the_network_is_linear_then_is_weight_times_change(
    linear, pixels, left, method, start
):
    images = torch.from_numpy(images_of(pixels))
    change = images - (0 if start == "black" else blur(images))
    expected = (change.numpy() * linear_gradient(left)).sum(axis=1)
    maps = explain_by(linear).explain(method, pixels)
    np.testing.assert_allclose(maps["fused"], expected, atol=1e-7)
    np.testing.assert_allclose(maps["fused"], maps["a"] + maps["b"], atol=1e-7)
    assert (maps["b"][:, :, :25] == 0).all()


def test_smooth_grad_when_the_network_is_linear_then_is_its_saliency(linear, pixels):
    explainer = explain_by(linear)
    smooth, plain = (explainer.explain(name, pixels) for name in ("smooth_grad", "saliency"))
    np.testing.assert_allclose(smooth["fused"], plain["fused"], rtol=1e-4)


def test_occlusion_when_the_network_is_linear_then_is_what_the_window_changes(linear, pixels, left):
    images = torch.from_numpy(images_of(pixels))
    change = ((images - blur(images)).numpy() * linear_gradient(left)).sum(axis=1)
    fused = explain_by(linear).explain("occlusion", pixels)["fused"]
    # pixel 0, 0 is covered by the first window alone, 7, 0 by two
    first, second = (change[:, top : top + 8, :8].sum(axis=(1, 2)) for top in (0, 7))
    np.testing.assert_allclose(fused[:, 0, 0], first, atol=1e-6)
    np.testing.assert_allclose(fused[:, 7, 0], (first + second) / 2, atol=1e-6)


def test_cams_when_the_network_is_linear_then_are_their_formulas(linear, pixels, left):
    red, green, blue = images_of(pixels).transpose(1, 0, 2, 3)
    left = left.numpy()
    explainer = explain_by(linear)
    # Grad-CAM: mean gradient of each channel times the channel; half of the places have one
    grad = explainer.explain("grad_cam", pixels)
    weighted = (3 * 2 * red - 1 * green) * 0.5 / 2500
    np.testing.assert_allclose(grad["a"], np.maximum(weighted, 0), atol=1e-7)
    assert (grad["b"] == 0).all(), "all that b sees speaks against IDC+"
    # HiResCAM: each place's own gradient
    hires = explainer.explain("hires_cam", pixels)
    np.testing.assert_allclose(hires["a"], np.maximum(weighted * 2 * left, 0), atol=1e-7)
    against = explainer.explain("hires_cam", pixels, negated=True)
    np.testing.assert_allclose(against["b"], 4 * blue * (1 - left) / 2500, atol=1e-7)


def test_fused_cam_then_each_map_has_the_mass_of_its_contribution(linear, pixels):
    explainer = explain_by(linear)
    maps = explainer.explain("layer_cam", pixels, negated=True)
    size = np.abs(explainer.contributions(pixels))
    expected = sum(
        size[:, place, None, None] * maps[name] / maps[name].sum(axis=(1, 2), keepdims=True)
        for place, name in enumerate("ab")
    )
    np.testing.assert_allclose(maps["fused"], expected, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_when_the_network_reacts_to_a_square_then_points_at_it(method):
    reddish = ToyBackbone(
        "red", [[1.0, -0.5, -0.5], [0.8, -0.4, -0.4]], torch.ones(50, 50), nn.ReLU(inplace=True)
    )
    reddish.net[0].bias.data.fill_(-0.5)
    model = ToyModel([reddish], [5.0, 5.0])
    patch = np.full((1, 50, 50, 3), 128, np.uint8)
    patch[0, 14:28, 28:42] = (255, 20, 20)
    for heat in explain_by(model).explain(method, patch).values():
        positive = np.maximum(heat[0], 0)
        inside = positive[14:28, 28:42].sum() / positive.sum()
        assert inside > (0.5 if method == "occlusion" else 0.8), inside
        row, column = np.unravel_index(heat[0].argmax(), heat[0].shape)
        assert 14 <= row < 28
        assert 28 <= column < 42


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "occlusion"])
def test_signed_map_when_negated_then_changes_its_sign(fusion, pixels, method):
    explainer = explain_by(fusion, size_px=32)
    plain = explainer.explain(method, pixels)
    against = explainer.explain(method, pixels, negated=True)
    np.testing.assert_array_equal(against["fused"], -plain["fused"])
    assert plain["fused"].min() < 0 < plain["fused"].max()


@pytest.mark.parametrize("method", AFFORDABLE)
def test_every_method_when_patches_are_explained_together_then_each_map_is_as_alone(
    fusion, pixels, method
):
    together = explain_by(fusion, size_px=32, batch_size=2).explain(method, pixels)
    alone = explain_by(fusion, size_px=32, batch_size=2).explain(method, pixels[2:])
    assert list(together) == ["test_resnet", "test_efficientnet", "fused"]
    for source, heat in together.items():
        assert heat.shape == (3, 50, 50)
        assert heat.dtype == np.float32
        # of an untrained network, nothing may speak for IDC+
        assert heat[2].any() or method in ("grad_cam", "hires_cam"), f"{source} is blank"
        np.testing.assert_allclose(heat[2], alone[source][0], rtol=1e-3, atol=1e-4 * heat.max())


def test_smooth_grad_when_repeated_then_is_the_same_and_leaves_the_random_numbers_alone(
    fusion, pixels
):
    explainer = explain_by(fusion, size_px=32)
    torch.manual_seed(1)
    first = explainer.explain("smooth_grad", pixels)["fused"]
    drawn = torch.rand(1)
    second = explainer.explain("smooth_grad", pixels)["fused"]
    np.testing.assert_array_equal(first, second)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn


def test_contributions_when_summed_then_are_the_logit_less_that_of_the_mean(fusion, pixels):
    mean = torch.rand(sum(backbone.num_features for backbone in fusion.branches)) - 0.5
    explainer = explain_by(fusion, size_px=40, mean=mean)
    with torch.no_grad():
        images = to_images(torch.from_numpy(pixels), size_px=40, device=CPU)
        logit, logit_of_mean = fusion(images).numpy(), fusion.head(mean[None]).item()
    contributions = explainer.contributions(pixels)
    assert contributions.shape == (3, 2)
    np.testing.assert_allclose(contributions.sum(axis=1), logit - logit_of_mean, rtol=0.01)
    logits = explainer.logits(pixels)
    np.testing.assert_allclose(logits[:, 0], logit, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(logits[:, 1:], contributions)


@pytest.mark.parametrize("method", ["saliency", "occlusion", "grad_cam"])
def test_mosaic_of_four_patches_then_the_map_is_as_large(fusion, method):
    mosaic = np.random.default_rng(2).integers(0, 256, (2, 100, 100, 3), dtype=np.uint8)
    maps = explain_by(fusion, size_px=32).explain(method, mosaic)
    assert {heat.shape for heat in maps.values()} == {(2, 100, 100)}


def test_no_patch_then_no_map(fusion):
    explainer = explain_by(fusion, size_px=32)
    nothing = np.zeros((0, 50, 50, 3), np.uint8)
    assert explainer.explain("grad_cam", nothing)["fused"].shape == (0, 50, 50)
    assert explainer.contributions(nothing).shape == (0, 2)


@pytest.mark.parametrize("method", AFFORDABLE)
def test_every_method_when_layers_are_frozen_and_no_gradient_is_wanted_then_maps_stay(
    pixels, method
):
    # DenseNet's activations work in place, and so does the sum in ResNet's blocks
    torch.manual_seed(5)
    model = random_fusion(["test_resnet"], dropout=0.1).eval()
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    before = explain_by(model, size_px=32).explain(method, pixels[:1])
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = True
    model.requires_grad_(False)
    explainer = explain_by(model, size_px=32)
    with torch.inference_mode():
        after = explainer.explain(method, pixels[:1])
    assert before["fused"].any()
    np.testing.assert_allclose(after["fused"], before["fused"], rtol=1e-4, atol=1e-12)


def test_densenet_whose_activations_work_in_place_then_its_maps_are_not_blank(pixels):
    torch.manual_seed(5)
    model = random_fusion(["densenet121"], dropout=0.0).eval()
    explainer = explain_by(model, size_px=32)
    for method in ("saliency", "layer_cam"):
        assert explainer.explain(method, pixels[:1])["densenet121"].any()


def test_cam_when_the_next_operation_works_in_place_then_reads_the_layer_as_it_was(pixels):
    class Doubling(nn.Module):
        def forward(self, images):
            return images.mul_(-2.0)

    backbone = ToyBackbone("a", [[1.0, 0.0, 0.0]], torch.ones(50, 50))
    backbone.net[1] = Doubling()
    model = ToyModel([backbone], [-3.0])
    maps = explain_by(model, cam_layers={"a": "0"}).explain("hires_cam", pixels)
    np.testing.assert_allclose(maps["a"], 6 * images_of(pixels)[:, 0] / 2500, rtol=1e-4)


def hooks_of(model):
    return [
        hook for module in model.modules() for hook in (*module._forward_hooks.values(),
        *module._forward_pre_hooks.values(), *module._backward_hooks.values())
    ]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_when_done_then_leaves_no_hook_and_no_gradient(linear, pixels, method):
    explain_by(linear).explain(method, pixels)
    assert hooks_of(linear) == []
    assert all(parameter.grad is None for parameter in linear.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_when_the_network_fails_midway_then_leaves_no_hook(linear, pixels, method):
    backbone = linear.branches[1]
    layers = list(backbone.net)
    calls = []

    def fail_late(self, images):
        calls.append(1)
        result = self.net(images)
        # ablation puts its own layer in before the fourth pass
        if len(calls) > 3 or method not in ("ablation_cam", "score_cam"):
            raise IndexError("a fault of the network")
        return (result * self.where).mean(dim=(2, 3))

    backbone.forward = fail_late.__get__(backbone)
    with pytest.raises(IndexError, match="a fault of the network"):
        explain_by(linear).explain(method, pixels)
    assert hooks_of(linear) == []
    assert list(backbone.net) == layers, "ablation must put the layer back"


@pytest.mark.slow
def test_100_calls_then_memory_stays(linear, pixels):
    explainer = explain_by(linear)

    def call_often(times):
        for call in range(times):
            explainer.explain(AFFORDABLE[call % len(AFFORDABLE)], pixels)
        gc.collect()
        tensors = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
        return tensors, psutil.Process().memory_info().rss

    tensors, memory = call_often(20)
    tensors_later, memory_later = call_often(100)
    assert tensors_later == tensors
    assert memory_later - memory < 30e6


@pytest.mark.parametrize("method", METHODS)
def test_map_that_is_no_number_then_names_method_source_and_patch(linear, pixels, method):
    class Overflowing(nn.Module):
        def forward(self, images):
            bright = images.amax(dim=(1, 2, 3), keepdim=True) > 1.5
            return images * torch.where(bright, torch.nan, 1.0)

    pixels[:] = 100
    pixels[1] = 255
    linear.branches[0].net[1] = Overflowing()
    with pytest.raises(NotFiniteMapError) as raised:
        explain_by(linear).explain(method, pixels)
    assert raised.value.patch == 1
    assert f"{METHODS[method].title} of a is not a number for patch 1" in str(raised.value)


def test_cam_layers_when_wrong_then_names_what_there_is(fusion, pixels):
    with pytest.raises(InputError, match=r"has no layer 'layer9'; it has .*layer3"):
        explain_by(fusion, cam_layers={"test_resnet": "layer9"})
    with pytest.raises(InputError, match="no backbone vgg; it has test_resnet, test_efficientnet"):
        explain_by(fusion, cam_layers={"vgg": "layer3"})
    explainer = explain_by(fusion, size_px=32, cam_layers={"test_resnet": "global_pool"})
    with pytest.raises(InputError, match="gives no feature map"):
        explainer.explain("grad_cam", pixels)


def test_cam_layers_when_given_then_another_layer_is_read(fusion, pixels):
    fine, plain = (
        explain_by(fusion, size_px=64, cam_layers=layers).explain("layer_cam", pixels)
        for layers in ({"test_resnet": "layer1"}, None)
    )
    assert not np.allclose(fine["test_resnet"], plain["test_resnet"])
    np.testing.assert_array_equal(fine["test_efficientnet"], plain["test_efficientnet"])


def test_table_then_the_parameter_allows_what_is_in_it():
    assert get_args(ExplanationMethod) == tuple(METHODS)


def test_table_then_only_eigen_cam_is_not_class_specific_and_two_methods_are_on_by_default(
    change_params,
):
    assert [name for name, method in METHODS.items() if not method.class_specific] == ["eigen_cam"]
    assert change_params().explain.methods == ("integrated_gradients", "grad_cam")


@pytest.fixture
def textured(draw_texture):
    torch.manual_seed(5)
    model = random_fusion(["test_resnet", "test_efficientnet"], dropout=0.1).eval()
    model.join_texture(draw_texture(40))
    return model


def test_contributions_when_there_is_a_texture_member_then_its_is_the_last_and_they_sum_up(
    textured, pixels
):
    mean = torch.rand(sum(member.num_features for member in textured.members)) - 0.5
    explainer = explain_by(textured, size_px=40, mean=mean)
    with torch.no_grad():
        images = to_images(torch.from_numpy(pixels), size_px=40, device=CPU)
        logit, logit_of_mean = textured(images).numpy(), textured.head(mean[None]).item()
        own = textured.texture(images)[:, 0].numpy()
    contributions = explainer.contributions(pixels)
    assert explainer.sources == ["test_resnet", "test_efficientnet", "fused"]
    assert explainer.members == ["test_resnet", "test_efficientnet", "texture"]
    np.testing.assert_allclose(contributions.sum(axis=1), logit - logit_of_mean, rtol=0.01)
    np.testing.assert_allclose(contributions[:, 2], (own - mean[-1].item()) / 2, rtol=0.01)
    assert explainer.contributions(pixels[:0]).shape == (0, 3)


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "occlusion"])
def test_pixel_attribution_when_there_is_a_texture_member_then_its_part_is_in_the_fused_map(
    textured, pixels, method
):
    maps = explain_by(textured, size_px=40, mean=torch.zeros(96 + 256 + 1)).explain(method, pixels)
    part = maps["fused"] - maps["test_resnet"] - maps["test_efficientnet"]
    texture = textured.texture

    class HalfLogit(nn.Module):
        def forward(self, images):
            resized = nn.functional.interpolate(images, size=(40, 40), mode="bilinear")
            return texture(resized)[:, 0] / 2

    how = METHODS[method].how
    images = torch.from_numpy(images_of(pixels))
    expected = (
        how.reduce(how.attribute(HalfLogit(), images, AttributionBudget(8, 3))).detach().numpy()
    )
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(part, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("method", AFFORDABLE)
def test_every_method_when_there_is_a_texture_member_and_a_patch_is_white_then_is_a_number(
    textured, pixels, method
):
    pixels[1] = 255
    mean = torch.zeros(sum(member.num_features for member in textured.members))
    maps = explain_by(textured, size_px=40, mean=mean).explain(method, pixels)
    assert list(maps) == ["test_resnet", "test_efficientnet", "fused"]
    assert all(np.isfinite(heat).all() for heat in maps.values())


def test_fused_cam_when_there_is_a_texture_member_then_is_of_the_backbones(textured, pixels):
    mean = torch.zeros(sum(member.num_features for member in textured.members))
    explainer = explain_by(textured, size_px=40, mean=mean)
    maps = explainer.explain("eigen_cam", pixels)
    size = np.abs(explainer.contributions(pixels))
    expected = sum(
        size[:, place, None, None] * maps[name] / maps[name].sum(axis=(1, 2), keepdims=True)
        for place, name in enumerate(("test_resnet", "test_efficientnet"))
    )
    np.testing.assert_allclose(maps["fused"], expected, rtol=1e-4)
