"""Parameters that older versions had, and what replaces each: nobody should have to guess."""

_CONSTANT = "is gone: it is a constant now, {} ({}); remove it"
_NO_GAIN = "is gone: {} brought no gain (see the log of experiments); remove it"
_MOSAIC_CONFIDENCE = _CONSTANT.format(0.8, "idc.explain.scores.table")
_SIMCLR = _NO_GAIN.format("SimCLR")

REMOVED = {
    "sample.seed": "is seeds.data now",
    "split.seed": "is seeds.data now",
    "split.carve_val": "is gone: without split.lists.val, mode lists moves split.fractions.val of "
    "the train cases to val; remove it",
    "model.stem_stride": _NO_GAIN.format("another stride than the network's own"),
    "pretrain": "is gone, and all below it: what it did brought no gain (see the log of "
    "experiments); remove it",
    "pretrain.stem_dictionary": _NO_GAIN.format("a first layer of learnt textures"),
    "pretrain.method": _SIMCLR,
    "pretrain.epochs": _SIMCLR,
    "pretrain.batch_size": _SIMCLR,
    "pretrain.learning_rate": _SIMCLR,
    "pretrain.temperature": _SIMCLR,
    "train.seed": "is seeds.training now",
    "train.warmup_share": _CONSTANT.format(0.2, "idc.training.loop"),
    "train.aux_weight": _CONSTANT.format(0.3, "idc.training.gradients; model.aux_heads stays"),
    "train.label_smoothing": _NO_GAIN.format("it"),
    "train.neighbour_smoothing": _NO_GAIN.format("it"),
    "train.ema_decay": _NO_GAIN.format("a moving average of the weights"),
    "train.frozen_views": _CONSTANT.format(4, "idc.training.sources"),
    "predict.seed": "is seeds.training now",
    "predict.baselines": "is baselines.names now",
    "evaluate.seed": "is seeds.statistics now",
    "explain.seed": "is seeds.statistics now",
    "explain.slide_method": _CONSTANT.format("grad_cam", "idc.stages.explain"),
    "explain.smooth_grad_samples": _CONSTANT.format(10, "idc.explain.maps.attributions"),
    "explain.integrated_gradients_steps": _CONSTANT.format(16, "idc.explain.maps.attributions"),
    "explain.mosaic_confidence": _MOSAIC_CONFIDENCE,
    "explain.max_grouped_errors": _CONSTANT.format(500, "idc.stages.explain"),
    "explain.scores": "is gone: explain.num_mosaics set to 0 scores no method; remove it",
    "explain.scores.sources": _CONSTANT.format("fused", "idc.explain.scores.table"),
    "explain.scores.num_steps": _CONSTANT.format(10, "idc.explain.scores.table"),
    "explain.scores.num_mosaics": "is explain.num_mosaics now",
    "explain.scores.mosaic_confidence": _MOSAIC_CONFIDENCE,
    "explain.scores.num_sanity_patches": _CONSTANT.format(
        "one of four panel patches", "idc.explain.scores.table"
    ),
    "explain.scores.num_replicates": "is evaluate.num_replicates now",
    "promotion.seed": "is seeds.statistics now",
    "promotion.num_replicates": "is evaluate.num_replicates now",
    "promotion.superiority_error": _CONSTANT.format(0.025, "idc.lifecycle.promotion.decision"),
    "promotion.margin_error": _CONSTANT.format(0.05, "idc.lifecycle.promotion.decision"),
    "promotion.max_looks": _CONSTANT.format(20, "idc.lifecycle.promotion.promote"),
    "drift.num_patches": _CONSTANT.format(1000, "idc.lifecycle.drift"),
    "reproduce": "is gone, and all below it; remove it",
    "reproduce.max_logit_difference": _CONSTANT.format(0.01, "idc.lifecycle.reproduction.rebuild"),
    "runtime.compile": _NO_GAIN.format("torch.compile"),
    "runtime.num_workers": "is gone: patches are augmented by the training process on a CPU, by up "
    "to 8 processes for a GPU; remove it",
    "runtime.augment_on": "is gone: patches are augmented by albumentations alone, before they "
    "reach the device; remove it",
}
"""What to say of each key, dotted; a key below one of them falls under it."""


def explain_removed(key: str) -> str | None:
    """Return the line about a key that an older version had, None about any other.

    Example: `train.seed is seeds.training now`.
    """
    place = key
    while place not in REMOVED:
        place, dot, _ = place.rpartition(".")
        if not dot:
            return None
    return f"{key} {REMOVED[place]}"
