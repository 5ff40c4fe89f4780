"""Pixels and subsets -> a trained fusion CNN, logged live to MLflow."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

import idc
from idc.core import layout
from idc.core.config import Params
from idc.data.batches.loader import BatchPlan
from idc.data.patches import evenly_spaced_rows, load_pixels
from idc.data.subsets import select_subset
from idc.data.tables import SPLITS_SCHEMA, load_table
from idc.evaluation.statistics.metrics import auroc
from idc.models.backbones.sources import describe_weights, local_files
from idc.models.bundle import save_bundle
from idc.models.networks.device import choose_device, describe_environment
from idc.models.networks.fusion import FusionCNN, create_fusion
from idc.models.spec import ModelSpec, digest_bundle
from idc.runs.lineage import git_commit
from idc.tracking.live import live_run
from idc.training.checkpoint import Checkpoint, digest_inputs
from idc.training.class_weights import weigh_classes
from idc.training.loop import EpochResult, TrainedModel, train_fusion
from idc.training.ranks import Ranks, init_ranks, start_ranks, under_torchrun
from idc.training.sources import BatchSource, EmbeddingSource, ImageSource, TrainingData
from idc.training.texture_member import learn_texture_member

log = logging.getLogger(__name__)

_NUM_PROFILED = 4096  # training patches whose mean embedding is kept: it errs by 1/64 of an SD

_OnEpoch = Callable[[EpochResult, float], None]


def run(params: Params) -> None:
    """Train, keep the weights of the best epoch in `models/fusion`.

    With `runtime.num_devices` above 1 the stage runs itself again under torchrun; started by
    torchrun, it is one of the processes that train together, of which rank 0 tracks and writes.

    Raises:
        InputError: If weights are missing, the loss diverges, or this training already runs.
        StoreUnavailableError: If the tracking server cannot be reached when the training begins.
    """
    if params.runtime.num_devices > 1 and not under_torchrun():
        start_ranks(params.runtime.num_devices)
        return
    device = choose_device(params.runtime)
    checkpoint = _checkpoint(params)
    with init_ranks(device) as ranks:
        if not ranks.is_main:
            logging.getLogger("idc").setLevel(logging.WARNING)
            _train(params, ranks, checkpoint)
            return
        with checkpoint.locked():
            _name_other_checkpoints(checkpoint)
            _train(params, ranks, checkpoint)
            checkpoint.remove()


def _train(params: Params, ranks: Ranks, checkpoint: Checkpoint) -> None:
    torch.manual_seed(params.seeds.training)
    pixels = load_pixels(layout.PIXELS)
    splits = load_table(layout.SPLITS, SPLITS_SCHEMA)
    train, val = (select_subset(splits, name) for name in ("train", "val"))
    weights = weigh_classes(train.labels, params.train.class_weights)
    log.info("%d training patches on %s, class weights %s", len(train.rows), ranks.device, weights)
    model = create_fusion(params.model)
    images = ImageSource(
        TrainingData(pixels, train, val),
        params.model.size_px,
        params.augment,
        BatchPlan(params.train.batch_size, params.seeds.training),
        params.runtime.scoring_batch_size,
        ranks,
    )
    model.to(ranks.device)
    source: BatchSource = images
    if params.model.freeze_backbones:
        # code and pixels (by the index's digests) shape embeddings as well
        name = _digest_training(params, ("model", "augment"))
        source = EmbeddingSource(images, model, layout.EMBEDDINGS / name)
    with _tracked(params, weights, checkpoint, ranks) as (on_epoch, name_model):
        trained = train_fusion(
            model,
            source,
            params.train,
            class_weights=weights,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
        if ranks.is_main:
            model.load_state_dict(trained.state)
            if params.model.texture_member:
                _join_texture(model, images)
                joined = images.scorer(model).score(pixels, val.rows)
                log.info(
                    "val AUROC %.4f with the texture member, %.4f without",
                    auroc(val.labels, joined), trained.best.val_auroc,
                )  # fmt: skip
            rows = evenly_spaced_rows(train.rows, _NUM_PROFILED)
            profile = images.scorer(model).mean_embedding(pixels, rows)
            spec = _describe(params, model, trained, weights, train.labels)
            save_bundle(layout.BUNDLE, model.state_dict(), spec, trained.history_table(), profile)
            name_model(digest_bundle(layout.BUNDLE), describe_environment(ranks.device))
    ranks.wait()


@contextmanager
def _tracked(
    params: Params, weights: np.ndarray, checkpoint: Checkpoint, ranks: Ranks
) -> Iterator[tuple[_OnEpoch, Callable[[str, dict[str, str]], None]]]:
    """Yield what is told of each epoch and of the trained model; only the leader tells MLflow."""
    if not ranks.is_main:
        yield (lambda _result, _speed: None), (lambda _digest, _environment: None)
        return
    resumed = checkpoint.exists()
    root = Path.cwd()
    with live_run(
        root, params, git_commit(root), training=checkpoint.name, resumed=resumed
    ) as live:
        live.log_class_weights(weights)
        started = time.monotonic()

        def on_epoch(result: EpochResult, speed: float) -> None:
            live.log_epoch(
                result.epoch,
                {
                    "train/loss": result.train_loss,
                    "val/epoch_auroc": result.val_auroc,
                    "train/learning_rate": result.learning_rate,
                    "train/patches_per_s": speed,
                    "train/elapsed_s": time.monotonic() - started,
                },
            )

        yield on_epoch, live.name_model


def _join_texture(model: FusionCNN, images: ImageSource) -> None:
    started = time.monotonic()
    data = images.data
    texture = learn_texture_member(
        data.pixels, *data.train, size_px=images.size_px, seed=images.plan.seed
    )
    model.join_texture(texture.to(images.device))
    log.info("texture member learnt in %.0f s", time.monotonic() - started)


def _checkpoint(params: Params) -> Checkpoint:
    name = _digest_training(params, ("model", "augment", "train"))
    return Checkpoint(layout.CHECKPOINTS / name, interval_s=params.runtime.checkpoint_interval_s)


def _digest_training(params: Params, sections: tuple[str, ...]) -> str:
    """Name a training after all that shapes it: parameters, data, code."""
    package = Path(idc.__file__).parent
    code = {
        path.relative_to(package).as_posix(): path
        for part in ("data", "models", "training")
        for path in (package / part).rglob("*.py")
    }
    # the stage itself, and what says which epoch is the best
    for name in ("stages/train.py", "evaluation/statistics/metrics.py"):
        code[name] = package / name
    data = {"splits": layout.SPLITS, "index": layout.INDEX}
    files = local_files(params.model.backbones, params.model.pretrained)
    data |= {str(path): path for path in files}
    # a texture member is learnt after the training, which does not know of it
    facts = {
        name: getattr(params, name).model_dump(mode="json", exclude={"texture_member"})
        for name in sections
    }
    return digest_inputs({**facts, "seed": params.seeds.training}, code | data)


def _name_other_checkpoints(checkpoint: Checkpoint) -> None:
    """Say that checkpoints of other parameters, data or code lie there and are not used."""
    others = [
        folder for folder in checkpoint.folder.parent.glob("*/") if folder.name != checkpoint.name
    ]
    if others:
        size_mb = sum(file.stat().st_size for folder in others for file in folder.iterdir()) / 1e6
        log.info(
            "%d checkpoints of other parameters, data or code are not used (%.0f MB in %s)",
            len(others), size_mb, checkpoint.folder.parent,
        )  # fmt: skip


def _describe(
    params: Params,
    model: FusionCNN,
    trained: TrainedModel,
    weights: np.ndarray,
    labels: np.ndarray,
) -> ModelSpec:
    return ModelSpec(
        backbones=[backbone.name for backbone in model.branches],
        architectures=[backbone.architecture for backbone in model.branches],
        starting_weights=describe_weights(params.model.backbones, params.model.pretrained),
        pretrained=params.model.pretrained,
        size_px=params.model.size_px,
        dropout=params.model.dropout,
        aux_heads=params.model.aux_heads,
        texture_member=params.model.texture_member,
        class_weights=[float(weight) for weight in weights],
        num_training_patches=[int(count) for count in np.bincount(labels, minlength=2)],
        best_epoch=trained.best.epoch,
        val_auroc=trained.best.val_auroc,
    )
