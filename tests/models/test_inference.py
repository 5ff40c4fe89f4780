import logging

import numpy as np
import pytest
import torch
from torch import nn

from idc.models.scoring import inference
from idc.models.scoring.inference import create_scorer
from idc.models.scoring.patches import PatchScorer
from tests.random_networks import random_fusion

CPU = torch.device("cpu")
MANY = 10**6
SIZE_PX = 32


def create_used_fusion(*backbones):
    """A network whose batch norms have weights and running statistics as after training."""
    torch.manual_seed(2)
    model = random_fusion(backbones, dropout=0.5)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.uniform_(norm.bias, -0.1, 0.1)
        norm.momentum = None  # the mean over what it has seen, so that activations keep their scale
    with torch.no_grad():
        model.train()(torch.rand(32, 3, SIZE_PX, SIZE_PX))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return create_used_fusion("test_resnet", "test_efficientnet")


@pytest.fixture(scope="module")
def images():
    return torch.rand(37, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0))


def assert_scores_like_plain(scorer, model, images):
    with torch.inference_mode():
        plain = model(images)
    logits = scorer(images)
    assert logits.dtype == torch.float32
    assert plain.std() > 0.01, "logits that are all alike would show nothing"
    torch.testing.assert_close(logits, plain, rtol=0, atol=1e-3)


def reject_warnings(caplog):
    assert [record.message for record in caplog.records] == []


@pytest.mark.slow
def test_scorer_when_the_three_real_backbones_are_used_then_converts_them_rightly(images, caplog):
    model = create_used_fusion("efficientnet_b0", "resnet50", "densenet121")
    scorer = create_scorer(model, CPU, SIZE_PX, num_images=MANY)
    reject_warnings(caplog)
    assert_scores_like_plain(scorer, model, images)


@pytest.mark.parametrize("num_images", [1, MANY])
def test_scorer_when_images_are_few_or_many_then_logits_are_those_of_the_network(
    model, images, caplog, num_images
):
    scorer = create_scorer(model, CPU, SIZE_PX, num_images=num_images)
    reject_warnings(caplog)
    assert_scores_like_plain(scorer, model, images)


def test_scorer_when_images_are_many_then_no_longer_asks_torch(model, images):
    scorer = create_scorer(model, CPU, SIZE_PX, num_images=MANY)
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    scorer(images)
    hook.remove()
    assert calls == []


def test_scorer_when_made_and_used_twice_then_gives_equal_bits(model, images):
    first, second = (create_scorer(model, CPU, SIZE_PX, num_images=MANY)(images) for _ in range(2))
    assert torch.equal(first, second)


def test_scorer_when_made_then_leaves_the_network_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    create_scorer(model, CPU, SIZE_PX, num_images=MANY)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def score_in(precision, model, images):
    return create_scorer(model, CPU, SIZE_PX, num_images=1, precision=precision)(images)


def test_scorer_when_in_bf16_then_logits_are_near_and_the_network_stays_as_it_was(model, images):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exact, reduced = (score_in(precision, model, images) for precision in ("fp32", "bf16"))
    assert reduced.dtype == torch.float32
    assert not torch.equal(reduced, exact)
    assert (reduced - exact).abs().max() < exact.std() / 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_scorer_when_in_bf16_then_norms_keep_what_they_have_learnt(model):
    reduced = inference._reduce_to_bf16(model, on_cpu=True)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    others = [module for module in reduced.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for norm, other in zip(norms, others, strict=True):
        assert other.weight.dtype == torch.float32
        assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize(("has_amx", "same_as"), [(False, "fp32"), (True, "bf16")])
def test_scorer_when_precision_is_auto_then_the_processor_decides(
    model, images, monkeypatch, has_amx, same_as
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_amx}, raising=False)
    found, other = (score_in(precision, model, images) for precision in ("auto", same_as))
    assert torch.equal(found, other)


class BranchOnBatchSize(nn.Module):
    """Tracing sees only one of its branches."""

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))
        return mean if len(images) == 2 else mean + 1.0


class NotInOnnx(nn.Module):
    """ONNX has no such operator."""

    def forward(self, images):
        return torch.special.bessel_j0(images).mean(dim=(1, 2, 3))


@pytest.mark.parametrize(
    ("network", "reason"), [(BranchOnBatchSize(), "differ by"), (NotInOnnx(), "bessel_j0")]
)
def test_scorer_when_the_network_cannot_be_converted_then_warns_and_scores_it_plainly(
    network, reason, images, caplog
):
    with caplog.at_level(logging.WARNING):
        scorer = create_scorer(network, CPU, SIZE_PX, num_images=MANY)
    assert reason in caplog.text
    torch.testing.assert_close(scorer(images), network(images))


def test_score_when_done_twice_by_onnx_then_gives_equal_bytes(model, monkeypatch):
    monkeypatch.setattr(inference, "_WORTH_CONVERTING", 1)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 50, 3), dtype=np.uint8)
    first, second = (
        PatchScorer(model, SIZE_PX, 16, CPU).score(pixels, np.arange(40), d4_average=True)
        for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()
