import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from idc.core.errors import InputError
from idc.data.batches.loader import BatchPlan
from idc.data.subsets import LabelledRows
from idc.models.networks.fusion import create_fusion
from idc.training import loop
from idc.training.checkpoint import Checkpoint
from idc.training.gradients import GradientAccumulator
from idc.training.loop import EpochResult, TrainedModel, train_fusion
from idc.training.ranks import Ranks
from idc.training.sources import EmbeddingSource, ImageSource, TrainingData

NUM_PATCHES = 48
COLOURS = np.array([[200, 120, 160], [120, 160, 200]])


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    base = COLOURS[np.arange(NUM_PATCHES) % 2][:, None, None]
    noisy = base + rng.normal(0, 10, (NUM_PATCHES, 50, 50, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def take(start, stop):
    rows = np.arange(start, stop)
    labels = (rows % 2).astype(np.int8)
    return LabelledRows(rows, labels)


TRAIN, VAL = take(0, 32), take(32, NUM_PATCHES)


@pytest.fixture
def train(pixels, change_params, tmp_path):
    def run(
        *, checkpoint="a", seed=17, weights_seed=3, on_epoch=None, num_workers=0, model=None,
        cached=True, interval_s=0.0, **changes,
    ):  # fmt: skip
        params = change_params(
            model=model or {},
            train={"epochs": 3, "batch_size": 8, "precision": "fp32", **changes},
            seeds={"training": seed},
        )
        torch.manual_seed(weights_seed)
        model = create_fusion(params.model)
        source = ImageSource(
            TrainingData(pixels, TRAIN, VAL), params.model.size_px, params.augment,
            BatchPlan(params.train.batch_size, seed), 16, Ranks(torch.device("cpu")),
        )  # fmt: skip
        assert source.num_workers == 0, "on a CPU"
        source.num_workers = num_workers
        if params.model.freeze_backbones:
            source = EmbeddingSource(source, model, tmp_path / "embeddings" if cached else None)
        trained = train_fusion(
            model, source, params.train,
            class_weights=np.ones(2),
            checkpoint=Checkpoint(tmp_path / checkpoint, interval_s=interval_s),
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


@pytest.fixture
def _no_exit_handlers(monkeypatch):
    """Prefect, where other tests started it in this process, leaves a handler that raises in a
    forked child, whose exit code then is 1."""
    monkeypatch.setattr(threading, "_threading_atexits", [])


@pytest.mark.slow
# four workers on two cores are what is tested
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.usefixtures("_no_exit_handlers")
@pytest.mark.parametrize("num_workers", [1, 4])
def test_train_fusion_when_workers_build_batches_then_weights_equal_those_of_none(
    train, num_workers
):
    _, alone = train(checkpoint="a")
    _, shared = train(checkpoint="b", num_workers=num_workers)
    assert_equal_states(alone, shared)


@pytest.fixture
def kill_at(monkeypatch):
    """`kill_at(5)`: the process ends right after step 5, wherever in an epoch that is."""

    def arm(step):
        learn = loop._TrainingRun._learn_from
        steps = iter(range(1, step + 2))

        def learn_or_die(run, batch):
            if next(steps) > step:
                raise KilledError
            return learn(run, batch)

        monkeypatch.setattr(loop._TrainingRun, "_learn_from", learn_or_die)

    yield arm
    monkeypatch.undo()


@pytest.mark.parametrize("step", [1, 4, 7])
def test_train_fusion_when_killed_after_a_step_then_ends_as_if_uninterrupted(
    train, kill_at, monkeypatch, step
):
    whole, whole_weights = train(checkpoint="a")
    kill_at(step)
    with pytest.raises(KilledError):
        train(checkpoint="b")
    monkeypatch.undo()
    resumed, resumed_weights = train(checkpoint="b", weights_seed=99)
    assert resumed.history == whole.history
    assert_equal_states(resumed.state, whole.state)
    assert_equal_states(resumed_weights, whole_weights)


def test_train_fusion_when_the_last_checkpoint_is_damaged_then_takes_the_one_before(
    train, kill_at, monkeypatch, tmp_path, caplog
):
    _, whole = train(checkpoint="a")
    kill_at(6)
    with pytest.raises(KilledError):
        train(checkpoint="b")
    monkeypatch.undo()
    last = max((tmp_path / "b").glob("*.pt"))
    last.write_bytes(last.read_bytes()[:-100])
    _, resumed = train(checkpoint="b")
    assert f"{last} is damaged" in caplog.text
    assert_equal_states(resumed, whole)


def test_train_fusion_when_another_thread_count_resumes_then_says_it_is_not_bit_for_bit(
    train, kill_at, monkeypatch, caplog
):
    kill_at(2)
    with pytest.raises(KilledError):
        train()
    monkeypatch.undo()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    train()
    assert "threads was 1, is 7: not resumed bit for bit" in caplog.text


def test_train_fusion_when_resumed_after_the_end_then_does_nothing_more(train):
    train()
    told = []
    train(on_epoch=lambda result, speed: told.append(result.epoch))
    assert told == []


@pytest.fixture
def memory_for(monkeypatch):
    """`memory_for(3)`: more than three patches at a time do not fit."""

    def limit(num_patches):
        losses = GradientAccumulator._losses

        def losses_or_full(accumulator, logits, labels):
            if len(logits) > num_patches:
                raise torch.OutOfMemoryError
            return losses(accumulator, logits, labels)

        monkeypatch.setattr(GradientAccumulator, "_losses", losses_or_full)

    return limit


# frozen: batch norms see one micro-batch at a time, so learning ones would differ
FROZEN = {"freeze_backbones": True, "dropout": 0.0}


def test_train_fusion_when_memory_runs_out_then_smaller_micro_batches_learn_the_same(
    train, memory_for, caplog
):
    whole, _ = train(checkpoint="a", model=FROZEN)
    memory_for(3)
    parts, _ = train(checkpoint="b", model=FROZEN)
    assert "micro-batches of 2; a step still learns from 8 patches" in caplog.text
    for ours, theirs in zip(parts.history, whole.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)


def test_train_fusion_when_not_two_patches_fit_then_says_so(train, memory_for):
    memory_for(1)
    with pytest.raises(InputError, match=r"not even 2 patches.*lower model\.size_px"):
        train()


def test_train_fusion_when_embeddings_are_kept_then_learns_what_it_learns_without(train):
    kept, kept_weights = train(checkpoint="a", model=FROZEN)
    found, found_weights = train(checkpoint="b", model=FROZEN)
    anew, anew_weights = train(checkpoint="c", model=FROZEN, cached=False)
    assert kept.history == found.history == anew.history
    assert_equal_states(kept_weights, found_weights)
    assert_equal_states(kept_weights, anew_weights)


def test_embeddings_when_backbones_are_converted_then_are_the_same_and_heads_go_on_learning(
    pixels, change_params, monkeypatch, caplog
):
    monkeypatch.setattr("idc.models.scoring.inference._WORTH_CONVERTING", 1)
    params = change_params(model=FROZEN)
    torch.manual_seed(3)
    model = create_fusion(params.model).train()
    images = ImageSource(
        TrainingData(pixels, TRAIN, VAL), params.model.size_px, params.augment,
        BatchPlan(params.train.batch_size, 3), 16, Ranks(torch.device("cpu")),
    )  # fmt: skip
    source = EmbeddingSource(images, model, None)
    for (embedding, _), (batch, _) in zip(source.batches(0, 0), images.batches(0, 0), strict=True):
        expected = torch.cat(model.embed(batch), dim=1).detach()
        assert not embedding.is_inference()
        torch.testing.assert_close(embedding, expected, rtol=1e-3, atol=1e-3)
    assert "plain torch" not in caplog.text
    assert model.head.training
    assert not model.backbones.training


def test_train_fusion_when_backbones_are_frozen_then_only_heads_learn(train, change_params):
    _, weights = train(model=FROZEN)
    torch.manual_seed(3)
    fresh = create_fusion(change_params(model=FROZEN).model).state_dict()
    changed = {name for name in weights if not torch.equal(weights[name], fresh[name])}
    assert changed == {name for name in weights if "head" in name.split(".")[0]}


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ({"aux_heads": False}, {}),
        ({}, {"backbone_rate_factor": 0.1}),
    ],
)
def test_train_fusion_when_a_feature_changes_then_the_model_differs(train, model, changes):
    plain, _ = train(checkpoint="a")
    changed, _ = train(checkpoint="b", model=model, **changes)
    same = plain.state.keys() == changed.state.keys() and not differ(plain.state, changed.state)
    assert not same


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


def test_train_fusion_when_the_loss_diverges_then_names_the_step_and_keeps_good_weights(
    train, tmp_path
):
    with pytest.raises(InputError, match=r"at step \d+ \(epoch \d, batch \d\): lower train\.l"):
        train(learning_rate=1e30)
    kept = Checkpoint(tmp_path / "a").load()
    assert kept is None or all(torch.isfinite(value).all() for value in kept["model"].values())


def test_train_fusion_when_the_loss_diverges_before_a_checkpoint_then_keeps_the_best_epoch(
    train, tmp_path, monkeypatch
):
    expected, _ = train(epochs=1, learning_rate=0.001)
    accumulate = GradientAccumulator.accumulate
    steps = iter(range(1, 100))

    def diverge_later(accumulator, batch, seed):
        factor = 1.0 if next(steps) <= len(TRAIN.rows) // 8 else torch.nan
        return accumulate(accumulator, batch, seed=seed) * factor

    monkeypatch.setattr(GradientAccumulator, "accumulate", diverge_later)
    with pytest.raises(InputError, match=r"epoch 2, batch 1\).* of epoch 1 are kept in .*\.s"):
        train(checkpoint="b", epochs=3, interval_s=1e9)
    kept = load_file(tmp_path / "b" / loop.BEST_WEIGHTS)
    assert kept.keys() == expected.state.keys()
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_train_fusion_when_the_first_epoch_diverges_then_says_that_nothing_is_kept(train):
    with pytest.raises(InputError, match="nothing is kept, for this is the first epoch"):
        train(learning_rate=1e30, epochs=1, interval_s=1e9)


def test_best_when_two_epochs_tie_then_is_the_earlier():
    history = [
        EpochResult(epoch, 0.5, auroc, 0.1) for epoch, auroc in ((1, 0.7), (2, 0.9), (3, 0.9))
    ]
    assert TrainedModel({}, history).best.epoch == 2
