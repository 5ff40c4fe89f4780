"""A plain convolutional network at native size, trained from scratch in minutes."""

import numpy as np
import torch
from torch import Tensor, nn

from idc.core.config import AugmentConfig
from idc.data.batches.augment import Augmentation
from idc.data.batches.loader import BatchPlan, TrainingBatches
from idc.data.images import to_images
from idc.data.patches import PATCH_SIZE_PX
from idc.data.subsets import LabelledRows

_WIDTHS = (24, 48, 96, 128)
_EPOCHS = 10
_BATCH_SIZE = 64
_TOP_RATE = 0.004
_WEIGHT_DECAY = 0.02
_DROPOUT = 0.2
_SCORING_BATCH_SIZE = 256
_AUGMENT = AugmentConfig(
    d4=True, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02, he_stain_prob=0.0
)
_CPU = torch.device("cpu")


def score_plain_cnn(
    pixels: np.ndarray,
    train_rows: np.ndarray,
    train_labels: np.ndarray,
    score_rows: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Train and score, as `idc.models.baselines.fit.score_baseline` says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _create_network()
        _train(network, pixels, LabelledRows(train_rows, train_labels), seed)
    return _score(network, pixels, score_rows)


def _create_network() -> nn.Sequential:
    """Four blocks, each halving the map; logit (batch, 1) of images (batch, 3, 50, 50) in 0-1."""
    network = nn.Sequential(nn.BatchNorm2d(3))
    for width_in, width_out in zip((3, *_WIDTHS), _WIDTHS, strict=False):
        network.extend(
            [
                nn.Conv2d(width_in, width_out, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        )
    network.extend(
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(_DROPOUT), nn.Linear(_WIDTHS[-1], 1)]
    )
    return network.to(memory_format=torch.channels_last)


def _train(
    network: nn.Module,
    pixels: np.ndarray,
    train: LabelledRows,
    seed: int,
) -> None:
    augmentation, plan = Augmentation(_AUGMENT, seed), BatchPlan(_BATCH_SIZE, seed)
    epochs = [
        TrainingBatches(pixels, train, plan, epoch=epoch, augmentation=augmentation)
        for epoch in range(_EPOCHS)
    ]
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _TOP_RATE, total_steps=sum(len(batches) for batches in epochs)
    )
    share_idc = train.labels.mean()
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor((1 - share_idc) / share_idc).float())
    network.train()
    for batches in epochs:
        for number in range(len(batches)):
            patches, labels = batches[number]
            optimizer.zero_grad()
            loss(_logits(network, patches), labels).backward()
            optimizer.step()
            schedule.step()


def _score(network: nn.Module, pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    network.eval()
    starts = range(0, len(rows), _SCORING_BATCH_SIZE)
    with torch.inference_mode():
        logits = [
            _logits(network, torch.from_numpy(pixels[rows[start : start + _SCORING_BATCH_SIZE]]))
            for start in starts
        ]
        scores: np.ndarray = torch.sigmoid(torch.cat(logits).double()).numpy()
    return scores


def _logits(network: nn.Module, patches: Tensor) -> Tensor:
    """Return float32 (batch,) of patches uint8 (batch, 50, 50, 3)."""
    images = to_images(patches, size_px=PATCH_SIZE_PX, device=_CPU)
    logits: Tensor = network(images)
    return logits.squeeze(1)
