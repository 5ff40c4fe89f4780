"""Logits and embeddings of many patches, in batches."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from idc.data.batches import to_images
from idc.models.fusion import FusionCNN
from idc.progress import track


@torch.inference_mode()
def score_patches(
    model: FusionCNN,
    pixels: np.ndarray,
    rows: np.ndarray,
    *,
    size_px: int,
    batch_size: int,
    device: torch.device,
) -> np.ndarray:
    """Return the logit of each patch, float32 (rows,), in fp32 arithmetic.

    Args:
        model: On `device`; put into evaluation mode and left in it.
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
        rows: Which patches.
        size_px: Edge length the network expects.
        batch_size: Patches per forward pass.
        device: Where to compute.
    """
    model.eval()
    logits = [
        model(images).float().cpu()
        for images in image_batches(pixels, rows, size_px, batch_size, device, "scoring")
    ]
    return torch.cat(logits).numpy()


@torch.inference_mode()
def mean_embedding(
    model: FusionCNN,
    pixels: np.ndarray,
    rows: np.ndarray,
    *,
    size_px: int,
    batch_size: int,
    device: torch.device,
) -> Tensor:
    """Return the mean concatenated embedding of the patches, float32 (num_features,)."""
    model.eval()
    total: Tensor | None = None
    for images in image_batches(pixels, rows, size_px, batch_size, device, "embedding"):
        batch_sum = torch.cat(model.embed(images), dim=1).double().sum(dim=0)
        total = batch_sum if total is None else total + batch_sum
    assert total is not None, "no patch to embed"
    return (total / len(rows)).float().cpu()


def image_batches(
    pixels: np.ndarray,
    rows: np.ndarray,
    size_px: int,
    batch_size: int,
    device: torch.device,
    what: str,
) -> Iterator[Tensor]:
    """Yield the patches as image batches (see `idc.data.batches.to_images`)."""
    starts = range(0, len(rows), batch_size)
    for start in track(starts, total=len(starts), what=what):
        chunk = torch.from_numpy(pixels[rows[start : start + batch_size]])
        yield to_images(chunk, size_px=size_px, device=device)
