import numpy as np
import pytest
import torch

from idc.models.scoring.patches import PatchScorer, symmetries
from tests.random_networks import random_fusion

CPU = torch.device("cpu")
CORNERS = np.arange(4).reshape(2, 2)
TURNS = [(turns, mirror) for turns in range(4) for mirror in (False, True)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return random_fusion(["test_resnet"], dropout=0.5).eval()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 50, 50, 3), dtype=np.uint8)


def turn(pixels, turns, mirror):
    turned = np.rot90(pixels, turns, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if mirror else turned)


def score(model, pixels, **options):
    return PatchScorer(model, 32, 3, CPU).score(pixels, np.arange(len(pixels)), **options)


def test_symmetries_when_of_four_different_corners_then_are_eight_different_ones():
    views = list(symmetries(torch.from_numpy(CORNERS)))
    assert torch.equal(views[0], torch.from_numpy(CORNERS))
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8


@pytest.mark.parametrize(("turns", "mirror"), TURNS)
def test_score_when_averaged_then_turning_and_mirroring_change_nothing(
    model, pixels, turns, mirror
):
    averaged = score(model, pixels, d4_average=True)
    turned = score(model, turn(pixels, turns, mirror), d4_average=True)
    np.testing.assert_allclose(turned, averaged, rtol=0, atol=1e-5)


def test_score_when_averaged_then_is_the_plain_mean_of_eight_scorings(model, pixels):
    single = np.stack([score(model, turn(pixels, *each)) for each in TURNS])
    assert single.std(axis=0).min() > 1e-4, "the network itself must tell the symmetries apart"
    averaged = score(model, pixels, d4_average=True)
    assert averaged.dtype == np.float32
    np.testing.assert_allclose(averaged, single.mean(axis=0), rtol=0, atol=1e-5)


def embed(model, pixels, rows, batch_size=2):
    return PatchScorer(model, 32, batch_size, CPU).embed(pixels, np.array(rows, int))


def test_embed_when_of_two_backbones_then_each_gives_its_own_in_the_order_asked(pixels):
    torch.manual_seed(1)
    model = random_fusion(["test_resnet", "test_efficientnet"], dropout=0.5)
    forward, backward = embed(model, pixels, [0, 1, 2, 4]), embed(model, pixels, [4, 2, 1, 0], 3)
    assert [part.shape for part in forward] == [
        (4, branch.num_features) for branch in model.branches
    ]
    for part, reverse in zip(forward, backward, strict=True):
        assert part.dtype == np.float32
        np.testing.assert_allclose(part, reverse[::-1], rtol=0, atol=1e-5)
        assert np.ptp(part, axis=0).max() > 1e-4, "patches must be told apart"


def test_embed_when_there_are_none_then_no_rows_but_the_features(model, pixels):
    (part,) = embed(model, pixels, [])
    assert part.shape == (0, model.branches[0].num_features)


def test_embed_when_there_is_a_texture_member_then_it_comes_last(pixels, draw_texture):
    model = random_fusion(["test_resnet", "test_efficientnet"], dropout=0.0)
    model.join_texture(draw_texture(32))
    assert [part.shape for part in embed(model, pixels, [0, 1])] == [(2, 96), (2, 256), (2, 1)]
