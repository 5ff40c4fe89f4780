"""Pixels and sides -> a trained fusion CNN, logged live to MLflow."""

import logging
import time
from pathlib import Path

import numpy as np
import torch

import idc
from idc import layout, tracking
from idc.config import Params
from idc.data.patches import load_pixels
from idc.data.sides import take_side
from idc.data.tables import SPLITS, load_table
from idc.lineage import git_commit
from idc.models.bundle import ModelSpec, digest_bundle, save_bundle
from idc.models.device import choose_device
from idc.models.fusion import create_fusion
from idc.models.scoring import mean_embedding
from idc.training.checkpoint import Checkpoint, digest_inputs
from idc.training.class_weights import weigh_classes
from idc.training.loop import EpochResult, Patches, TrainedModel, train_fusion

log = logging.getLogger(__name__)

_SECTIONS = ("model", "augment", "train")


def run(params: Params) -> None:
    """Train, keep the weights of the best epoch in `models/fusion`.

    Raises:
        InputError: If weights are missing, the loss diverges, or this training already runs.
        StoreAwayError: If the tracking server cannot be reached when the training begins.
    """
    checkpoint = _checkpoint(params)
    with checkpoint.locked():
        _train(params, checkpoint)
        checkpoint.remove()


def _train(params: Params, checkpoint: Checkpoint) -> None:
    device = choose_device(params.runtime)
    torch.manual_seed(params.train.seed)
    pixels = load_pixels(layout.PIXELS)
    splits = load_table(layout.SPLITS, SPLITS)
    train = Patches(*take_side(splits, "train"))
    val = Patches(*take_side(splits, "val"))
    weights = weigh_classes(train.labels, params.train.class_weights)
    log.info("%d training patches on %s, class weights %s", len(train.rows), device, weights)
    model = create_fusion(params.model)
    with tracking.live_run(params, git_commit(Path.cwd())) as live:
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

        trained = train_fusion(
            model, pixels, train, val, params,
            class_weights=weights, device=device, checkpoint=checkpoint, on_epoch=on_epoch,
        )  # fmt: skip
        model.load_state_dict(trained.state)
        profile = mean_embedding(
            model,
            pixels,
            train.rows,
            size_px=params.model.size_px,
            batch_size=params.runtime.scoring_batch_size,
            device=device,
        )
        spec = _describe(params, trained, weights, train.labels)
        save_bundle(layout.BUNDLE, trained.state, spec, trained.history_table(), profile)
        live.name_model(digest_bundle(layout.BUNDLE))


def _checkpoint(params: Params) -> Checkpoint:
    """Name the checkpoint after all that shapes the training: parameters, data, code."""
    package = Path(idc.__file__).parent
    code = {
        path.relative_to(package).as_posix(): path
        for part in ("data", "models", "training")
        for path in (package / part).glob("*.py")
    }
    data = {"splits": layout.SPLITS, "index": layout.INDEX}
    facts = {name: getattr(params, name).model_dump(mode="json") for name in _SECTIONS}
    return Checkpoint(layout.STATE / "checkpoints" / digest_inputs(facts, code | data))


def _describe(
    params: Params, trained: TrainedModel, weights: np.ndarray, labels: np.ndarray
) -> ModelSpec:
    return ModelSpec(
        backbones=list(params.model.backbones),
        pretrained=params.model.pretrained,
        size_px=params.model.size_px,
        dropout=params.model.dropout,
        class_weights=[float(weight) for weight in weights],
        num_training_patches=[int(count) for count in np.bincount(labels, minlength=2)],
        best_epoch=trained.best.epoch,
        val_auroc=trained.best.val_auroc,
    )
