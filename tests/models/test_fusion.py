import numpy as np
import pytest
import torch

from idc.core.errors import InputError
from idc.models.networks.fusion import MemberLogits, create_fusion
from idc.models.scoring.patches import PatchScorer
from tests.random_networks import random_fusion

TINY = ("test_resnet", "test_efficientnet")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return random_fusion(TINY, dropout=0.5).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (7, 50, 50, 3), dtype=np.uint8)


def test_fusion_when_built_of_the_three_real_backbones_then_joins_all_their_features():
    names = ("efficientnet_b0", "resnet50", "densenet121")
    model = random_fusion(names, dropout=0.2)
    assert [branch.num_features for branch in model.branches] == [1280, 2048, 1024]
    assert model.head[-1].in_features == 1280 + 2048 + 1024


def test_fusion_when_given_a_batch_then_returns_one_logit_per_image(model, images):
    assert model(images).shape == (6,)


@torch.inference_mode()
def test_fusion_when_images_come_in_another_order_then_logits_follow(model, images):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(model(images[order]), model(images)[order])


@torch.inference_mode()
def test_fusion_when_an_image_is_alone_then_its_logit_stays_the_same(model, images):
    torch.testing.assert_close(model(images[2:3]), model(images)[2:3])


@torch.inference_mode()
def test_fusion_when_images_differ_then_logits_differ(model, images):
    assert len(model(images).unique()) == 6


@torch.inference_mode()
def test_fusion_when_embeddings_are_classified_then_equals_the_forward_pass(model, images):
    torch.testing.assert_close(model.classify(model.embed(images)), model(images))


def test_fusion_when_trained_then_every_backbone_gets_a_gradient(images):
    model = random_fusion(TINY, dropout=0.0).train()
    model(images).square().sum().backward()
    for branch in model.branches:
        assert any(p.grad is not None and p.grad.any() for p in branch.parameters())


@torch.inference_mode()
def test_each_logit_when_backbones_have_heads_then_gives_the_fusion_logit_and_theirs(images):
    model = random_fusion(TINY, dropout=0.5, aux_heads=True).eval()
    logits = MemberLogits(model)(images)
    assert logits.shape == (6, 3)
    torch.testing.assert_close(logits[:, 0], model(images))
    alone = model.aux_heads[1](model.branches[1](images)).squeeze(1)
    torch.testing.assert_close(logits[:, 2], alone)
    assert model.scored_members == list(TINY)


@torch.inference_mode()
def test_each_logit_when_backbones_have_no_heads_then_gives_the_fusion_logit_alone(model, images):
    assert MemberLogits(model)(images).shape == (6, 1)
    assert model.scored_members == []


def test_fusion_when_backbones_are_frozen_then_their_norms_stay_in_training(images):
    model = random_fusion(TINY, dropout=0.0, freeze_backbones=True).train()
    before = {name: value.clone() for name, value in model.backbones.state_dict().items()}
    model(images).sum().backward()
    for name, value in model.backbones.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in model.backbones.parameters())
    assert model.head[-1].weight.grad is not None


def test_create_fusion_when_the_seed_is_equal_then_builds_equal_weights(change_params):
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(create_fusion(change_params().model).state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_create_fusion_when_a_backbone_is_unknown_then_names_near_ones(change_params):
    config = change_params(model={"backbones": ["resnet5000"]}).model
    with pytest.raises(InputError, match="timm has no 'resnet5000': near it: "):
        create_fusion(config)


def test_score_when_the_batch_size_differs_then_logits_agree(model, pixels):
    rows = np.array([6, 0, 3, 3, 1])
    one, all_ = (PatchScorer(model, 32, size, CPU).score(pixels, rows) for size in (2, 5))
    np.testing.assert_allclose(one, all_, rtol=1e-4, atol=1e-5)


def test_score_when_rows_are_chosen_then_scores_those_in_their_order(model, pixels):
    everything = PatchScorer(model, 32, 7, CPU).score(pixels, np.arange(7))
    rows = np.array([6, 0, 3])
    chosen = PatchScorer(model, 32, 7, CPU).score(pixels, rows)
    np.testing.assert_allclose(chosen, everything[rows], rtol=1e-4, atol=1e-5)


def test_mean_embedding_when_batches_are_unequal_then_is_the_mean_over_patches(model, pixels):
    rows = np.arange(7)
    joint, parted = (
        PatchScorer(model, 32, size, CPU).mean_embedding(pixels, rows) for size in (7, 3)
    )
    torch.testing.assert_close(parted, joint)
    assert joint.shape == (96 + 256,)
