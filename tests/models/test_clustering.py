import numpy as np
import pytest
import torch

from idc.models.networks.fusion import FusionCNN
from idc.models.texture.clustering import cluster_on_sphere, fill_stems, whiten

TINY = ("test_resnet", "test_efficientnet")


@pytest.fixture
def pixels():
    """Grey patches of smooth noise: no colour anywhere."""
    rng = np.random.default_rng(0)
    grey = rng.normal(size=(40, 54, 54, 1)).cumsum(axis=1).cumsum(axis=2)[:, 4:, 4:]
    grey = (grey - grey.min()) / (grey.max() - grey.min()) * 255
    return np.repeat(grey, 3, axis=3).astype(np.uint8)


def create(seed=1):
    torch.manual_seed(seed)
    return FusionCNN(TINY, pretrained="none", dropout=0.0)


def test_whiten_when_applied_then_the_covariance_is_the_identity():
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(5000, 6)) @ rng.normal(size=(6, 6))
    white = windows @ whiten(windows, 0.0)
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(6), atol=1e-4)


def test_cluster_when_windows_lie_on_few_axes_then_atoms_find_them():
    rng = np.random.default_rng(0)
    axes = np.eye(5, dtype=np.float32)[rng.integers(0, 5, 2000)]
    white = axes * rng.normal(size=(2000, 1)).astype(np.float32)
    atoms = cluster_on_sphere(white + 0.01 * rng.normal(size=white.shape), 5, rng)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, rtol=1e-5)
    assert (np.abs(atoms).max(axis=1) > 0.95).all()


def test_fill_stems_when_patches_are_grey_then_filters_look_for_no_colour(pixels):
    model = create()
    of_colour = [_share_of_colour(backbone) for backbone in model.branches]
    assert min(of_colour) > 0.4
    fill_stems(model, pixels, np.arange(40), size_px=50, seed=3)
    for backbone in model.branches:
        assert _share_of_colour(backbone) < 0.2, backbone.name


def _share_of_colour(backbone):
    """The part of the filters in which their three channels differ."""
    weight = backbone.stem().weight.detach()
    return float(weight.var(dim=1, correction=0).sum() / weight.pow(2).mean(dim=1).sum())


def test_fill_stems_when_done_then_filters_keep_their_length_and_all_else_stays(pixels):
    before, model = create(), create()
    fill_stems(model, pixels, np.arange(40), size_px=32, seed=3)
    changed = {
        name for name, tensor in model.state_dict().items()
        if not torch.equal(tensor, before.state_dict()[name])
    }  # fmt: skip
    assert len(changed) == len(TINY)
    for branch, own in zip(model.branches, before.branches, strict=True):
        length = branch.stem().weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(
            length, own.stem().weight.flatten(1).norm(dim=1).mean().expand_as(length)
        )


def test_fill_stems_when_repeated_then_gives_the_same_and_other_seeds_give_others(pixels):
    weights = []
    for seed in (3, 3, 4):
        model = create()
        fill_stems(model, pixels, np.arange(40), size_px=32, seed=seed)
        weights.append(model.branches[0].stem().weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_fill_stems_when_other_rows_change_then_does_not_see_them(pixels):
    other = pixels.copy()
    other[20:] = 0
    weights = []
    for each in (pixels, other):
        model = create()
        fill_stems(model, each, np.arange(20), size_px=32, seed=3)
        weights.append(model.branches[1].stem().weight)
    assert torch.equal(*weights)
