import numpy as np
import pytest
import torch

from idc.errors import InputError
from idc.models.fusion import create_fusion
from idc.training import loop
from idc.training.checkpoint import Checkpoint
from idc.training.loop import EpochResult, Patches, TrainedModel, train_fusion

NUM_PATCHES = 48
COLOURS = np.array([[200, 120, 160], [120, 160, 200]])


class KilledError(Exception):
    """Stands for the end of the process between two epochs."""


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    base = COLOURS[np.arange(NUM_PATCHES) % 2][:, None, None]
    noisy = base + rng.normal(0, 10, (NUM_PATCHES, 50, 50, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def take(start, stop):
    rows = np.arange(start, stop)
    return Patches(rows, (rows % 2).astype(np.int8))


TRAIN, VAL = take(0, 32), take(32, NUM_PATCHES)


@pytest.fixture
def train(pixels, change_params, tmp_path):
    def run(
        *, checkpoint="a", seed=17, weights_seed=3, on_epoch=None, val=VAL, workers=0, **changes
    ):
        params = change_params(
            train={"epochs": 3, "batch_size": 8, "precision": "fp32", "seed": seed, **changes},
            runtime={"num_workers": workers},
        )
        torch.manual_seed(weights_seed)
        model = create_fusion(params.model)
        trained = train_fusion(
            model, pixels, TRAIN, val, params,
            class_weights=np.ones(2),
            device=torch.device("cpu"),
            checkpoint=Checkpoint(tmp_path / checkpoint),
            on_epoch=on_epoch or (lambda result, speed: None),
        )  # fmt: skip
        return trained, model.state_dict()

    return run


def assert_equal_states(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def differ(first, second):
    return any(not torch.equal(tensor, second[name]) for name, tensor in first.items())


def kill_after(epoch):
    def on_epoch(result, speed):
        if result.epoch == epoch:
            raise KilledError

    return on_epoch


def test_train_fusion_when_colours_tell_the_class_then_learns_it(train):
    trained, _ = train(epochs=8, learning_rate=0.005)
    assert trained.best.val_auroc > 0.95
    assert trained.history[-1].train_loss < 0.6 * trained.history[0].train_loss


def test_train_fusion_when_done_then_reports_every_epoch_once(train):
    told = []
    trained, _ = train(on_epoch=lambda result, speed: told.append((result, speed > 0)))
    assert told == [(result, True) for result in trained.history]
    assert [result.epoch for result in trained.history] == [1, 2, 3]


def test_train_fusion_when_run_twice_with_a_seed_then_weights_are_equal(train):
    (first, _), (second, _) = train(checkpoint="a"), train(checkpoint="b")
    assert first.history == second.history
    assert_equal_states(first.state, second.state)


def test_train_fusion_when_the_seed_differs_then_weights_differ(train):
    (_, first), (_, second) = train(checkpoint="a"), train(checkpoint="b", seed=18)
    assert differ(first, second)


def test_train_fusion_when_two_workers_augment_then_weights_equal_those_of_none(train):
    (_, alone), (_, shared) = train(checkpoint="a"), train(checkpoint="b", workers=2)
    assert_equal_states(alone, shared)


def test_train_fusion_when_killed_and_resumed_then_ends_as_if_uninterrupted(train):
    whole, whole_weights = train(checkpoint="a")
    with pytest.raises(KilledError):
        train(checkpoint="b", on_epoch=kill_after(1))
    resumed, resumed_weights = train(checkpoint="b", weights_seed=99)
    assert resumed.history == whole.history
    assert_equal_states(resumed.state, whole.state)
    assert_equal_states(resumed_weights, whole_weights)


def test_train_fusion_when_resumed_then_does_not_repeat_finished_epochs(train):
    with pytest.raises(KilledError):
        train(on_epoch=kill_after(2))
    told = []
    train(on_epoch=lambda result, speed: told.append(result.epoch))
    assert told == [3]


@pytest.fixture
def val_never_improves(monkeypatch):
    # not by equal val patches: their logits may differ in the last bits with their place in a batch
    monkeypatch.setattr(loop, "auroc", lambda *_: 0.5)


@pytest.mark.usefixtures("val_never_improves")
def test_train_fusion_when_val_does_not_improve_then_stops_after_patience(train):
    trained, _ = train(epochs=6, patience=2)
    assert [result.epoch for result in trained.history] == [1, 2, 3]


@pytest.mark.usefixtures("val_never_improves")
def test_train_fusion_when_a_later_epoch_is_not_better_then_keeps_the_first_weights(train):
    trained, last = train(epochs=2)
    assert trained.best.epoch == 1
    assert differ(trained.state, last)


def test_train_fusion_when_the_loss_diverges_then_says_to_lower_the_rate(train):
    with pytest.raises(InputError, match=r"lower train\.learning_rate"):
        train(learning_rate=1e30)


def test_best_when_two_epochs_tie_then_is_the_earlier():
    history = [
        EpochResult(epoch, 0.5, auroc, 0.1) for epoch, auroc in ((1, 0.7), (2, 0.9), (3, 0.9))
    ]
    assert TrainedModel({}, history).best.epoch == 2
