import numpy as np
import pytest
import torch

from idc.core.errors import InputError
from idc.models.networks.fusion import create_fusion
from idc.training import contrastive
from idc.training.checkpoint import Checkpoint
from idc.training.contrastive import pretrain_backbones

NUM_PATCHES = 24
CPU = torch.device("cpu")


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def pixels():
    """Patches that differ in colour, so that views of one are alike."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, (NUM_PATCHES, 1, 1, 3))
    return np.clip(colours + rng.normal(0, 8, (NUM_PATCHES, 50, 50, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def pretrain(pixels, change_params, tmp_path):
    def run(name="a", *, weights_seed=3, rows=None, **changes):
        pretraining = {"method": "simclr", "epochs": 3, "batch_size": 8, "learning_rate": 0.003}
        params = change_params(pretrain={**pretraining, **changes})
        torch.manual_seed(weights_seed)
        model = create_fusion(params.model)
        pretrain_backbones(
            model, pixels, np.arange(NUM_PATCHES) if rows is None else rows, params,
            device=CPU,
            checkpoint=Checkpoint(tmp_path / f"{name}-states"),
            kept=tmp_path / f"{name}.safetensors",
        )  # fmt: skip
        return model

    return run


def state_of(model):
    return {name: value.clone() for name, value in model.backbones.state_dict().items()}


def assert_equal(first, second):
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_pretrain_when_done_then_the_loss_fell_and_the_head_is_untouched(pretrain, caplog):
    caplog.set_level("INFO")
    fresh = pretrain("fresh", epochs=1, learning_rate=1e-12)
    model = pretrain("a", epochs=8)
    losses = [float(r.message.split()[-1]) for r in caplog.records if "loss" in r.message][1:]
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(model.head[-1].weight, fresh.head[-1].weight)


def test_pretrain_when_found_then_loads_it_without_training(pretrain, monkeypatch):
    first = state_of(pretrain())
    monkeypatch.setattr(contrastive._Run, "train_epoch", None)
    assert_equal(first, state_of(pretrain(weights_seed=99)))


def test_pretrain_when_killed_then_ends_as_if_uninterrupted(pretrain, monkeypatch):
    whole = state_of(pretrain("a"))
    step = contrastive._Run._step
    done = iter(range(1, 6))

    def step_or_die(run, patches):
        if next(done) > 4:
            raise KilledError
        return step(run, patches)

    monkeypatch.setattr(contrastive._Run, "_step", step_or_die)
    with pytest.raises(KilledError):
        pretrain("b")
    monkeypatch.undo()
    assert_equal(whole, state_of(pretrain("b", weights_seed=99)))


def test_pretrain_when_the_loss_diverges_then_names_the_rate(pretrain):
    with pytest.raises(InputError, match=r"lower pretrain\.learning_rate"):
        pretrain(learning_rate=1e30)


def test_crop_when_drawn_then_shows_a_part_of_each_image_at_full_size():
    ramp = torch.linspace(0, 1, 64).expand(16, 3, 64, 64).contiguous()
    cropped = contrastive._crop(ramp, np.random.default_rng(0))
    span = cropped.amax(dim=(1, 2, 3)) - cropped.amin(dim=(1, 2, 3))
    assert cropped.shape == ramp.shape
    assert span.min() > 0.5 * np.sqrt(0.3)
    assert span.max() <= 1.0
    assert len(span.unique()) == 16
