import numpy as np
import pytest
import torch

from idc.explain.scores.sanity import MAX_SIMILARITY, STEPS, changes, randomised, similarity
from idc.explain.scores.similarity import rank_correlation
from tests.random_networks import random_fusion


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return random_fusion(["test_resnet", "test_efficientnet"], dropout=0.0).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def changed_tensors(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    weights = {name for name in ours if name.endswith(("weight", "bias")) and ours[name].dim() > 1}
    return {name for name in weights if not torch.equal(ours[name], theirs[name])}


def test_cascade_when_it_goes_down_then_each_step_keeps_the_damage_of_those_before(model, images):
    damage = [changed_tensors(model, randomised(model, step, images, seed=3)) for step in STEPS]
    assert damage[0] == {"head.1.weight"}
    assert damage[0] < damage[1] < damage[2]
    for name in ("test_resnet", "test_efficientnet"):
        branch = next(b for b in model.branches if b.name == name)
        assert branch.cam_layer() is not None
    every = {name for name, value in model.state_dict().items()
             if name.endswith("weight") and value.dim() > 1}  # fmt: skip
    assert damage[2] == every


def test_cascade_when_the_layers_behind_the_cam_layer_are_replaced_then_it_and_those_before_stay(
    model, images
):
    deep = randomised(model, "deep", images, seed=3)
    for before, after in zip(model.branches, deep.branches, strict=True):
        kept = zip(before.cam_layer().parameters(), after.cam_layer().parameters(), strict=True)
        assert all(torch.equal(first, second) for first, second in kept)
        assert torch.equal(_stem(before).weight, _stem(after).weight)


def _stem(backbone):
    return backbone.net.get_submodule(backbone.net.pretrained_cfg["first_conv"])


def test_cascade_when_done_then_the_model_handed_in_and_the_generator_are_untouched(model, images):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    damaged = randomised(model, "all", images, seed=3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module.training for module in (*model.modules(), *damaged.modules()))
    assert torch.equal(damaged(images), randomised(model, "all", images, seed=3)(images))


def test_cascade_when_all_is_random_then_activations_neither_vanish_nor_explode(model, images):
    damaged = randomised(model, "all", images, seed=3)
    with torch.no_grad():
        spread = torch.cat(damaged.embed(images), dim=1).std()
    assert 1e-3 < spread < 1e3


def test_similarity_when_maps_are_constant_or_unchanged_then_the_method_fails():
    constant = np.ones((3, 50, 50))
    assert not changes(similarity(constant, 2 * constant)["signed"].mean())
    maps = np.random.default_rng(0).normal(size=(3, 50, 50))
    assert not changes(similarity(maps, maps)["signed"].mean())


def test_similarity_when_maps_are_unrelated_then_the_method_passes():
    rng = np.random.default_rng(0)
    alike = similarity(*(rng.normal(size=(3, 50, 50)) for _ in range(2)))
    assert changes(alike["signed"].mean())
    assert abs(alike["absolute"].mean()) < MAX_SIMILARITY


def test_similarity_when_only_the_sign_turns_then_the_strengths_are_still_alike():
    maps = np.random.default_rng(0).normal(size=(3, 50, 50))
    alike = similarity(maps, -maps)
    assert alike["signed"] == pytest.approx(-np.ones(3))
    assert alike["absolute"] == pytest.approx(np.ones(3))


def test_rank_correlation_when_one_row_is_constant_then_0_and_both_then_1():
    rows = np.array([[1.0, 1.0, 1.0], [3.0, 1.0, 2.0], [5.0, 5.0, 5.0]])
    other = np.array([[1.0, 2.0, 3.0], [30.0, 10.0, 20.0], [0.0, 0.0, 0.0]])
    assert rank_correlation(rows, other) == pytest.approx([0.0, 1.0, 1.0])


def test_cascade_when_there_is_a_texture_member_then_the_last_step_alone_changes_it(
    images, draw_texture
):
    torch.manual_seed(1)
    model = random_fusion(["test_resnet"], dropout=0.0).eval()
    model.join_texture(draw_texture(64))
    before = {name: value.clone() for name, value in model.texture.state_dict().items()}
    head, deep, everything = (randomised(model, step, images, seed=3).texture for step in STEPS)
    for name, value in before.items():
        kept = (model.texture, head, deep)
        assert all(torch.equal(each.state_dict()[name], value) for each in kept), name
    for name in ("filters", "weight"):
        assert not torch.equal(everything.state_dict()[name], before[name])
    with torch.no_grad():
        intact, damaged = model.texture(images), everything(images)
    assert (damaged - intact).abs().min() > 1e-3
    assert damaged.abs().max() < 10 * intact.abs().max(), "it must not outshout the backbones"
