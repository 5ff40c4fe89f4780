"""Logits and embeddings of many patches, in batches."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from idc.core.config import Precision
from idc.core.progress import track
from idc.data.batches.loader import to_images
from idc.models.networks.fusion import FusionCNN
from idc.models.scoring.inference import create_scorer


@torch.inference_mode()
def score_patches(
    model: nn.Module,
    pixels: np.ndarray,
    rows: np.ndarray,
    *,
    size_px: int,
    batch_size: int,
    device: torch.device,
    d4_average: bool = False,
    precision: Precision = "fp32",
) -> np.ndarray:
    """Return the logit of each patch, float32 (rows,) or (rows, heads).

    On a GPU fp32 is what torch makes of it (TF32 in convolutions, unless switched off). Twice the
    same call on the same CPU gives equal bytes. Logits stay on the device until the last batch:
    fetching those of each would make the CPU wait for a GPU.

    Args:
        model: A `FusionCNN`, or an `MemberLogits` for the logit of every head; on `device`; put
        into
            evaluation mode and left in it.
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
        rows: Which patches.
        size_px: Edge length the network expects.
        batch_size: Patches per forward pass.
        device: Where to compute.
        d4_average: Return the mean logit over the eight symmetries of the square, at eight times
            the cost; it does not depend on how a patch is turned or mirrored.
        precision: Arithmetic of the backbones.
    """
    model.eval()
    num_images = len(rows) * (8 if d4_average else 1)
    scorer = create_scorer(model, device, size_px, num_images=num_images, precision=precision)
    logits = [
        torch.stack([scorer(view) for view in symmetries(images)]).mean(dim=0)
        if d4_average
        else scorer(images)
        for images in image_batches(pixels, rows, size_px, batch_size, device, "scoring")
    ]
    return torch.cat(logits).cpu().numpy()


def symmetries(images: Tensor) -> Iterator[Tensor]:
    """Yield the images (..., edge, edge) in the eight symmetries of the square, unchanged first."""
    for quarter_turns in range(4):
        turned = torch.rot90(images, quarter_turns, dims=(-2, -1))
        yield turned
        yield turned.flip(-1)


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


@torch.inference_mode()
def embed_patches(
    model: FusionCNN,
    pixels: np.ndarray,
    rows: np.ndarray,
    *,
    size_px: int,
    batch_size: int,
    device: torch.device,
) -> list[np.ndarray]:
    """Return the embeddings of some patches, one float32 (rows, features) per member.

    They stay on the device until the last batch, like the logits of `score_patches`.

    Args:
        model: On `device`; put into evaluation mode and left in it.
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
        rows: Which patches; there may be none.
        size_px: Edge length the network expects.
        batch_size: Patches per forward pass.
        device: Where to compute.
    """
    model.eval()
    parts = [[torch.zeros(0, member.num_features, device=device)] for member in model.members]
    for images in image_batches(pixels, rows, size_px, batch_size, device, "embedding"):
        for part, embedding in zip(parts, model.embed(images), strict=True):
            part.append(embedding.float())
    return [torch.cat(part).cpu().numpy() for part in parts]


def image_batches(
    pixels: np.ndarray,
    rows: np.ndarray,
    size_px: int,
    batch_size: int,
    device: torch.device,
    what: str,
) -> Iterator[Tensor]:
    """Yield the patches as image batches (see `idc.data.batches.loader.to_images`)."""
    starts = range(0, len(rows), batch_size)
    for start in track(starts, total=len(starts), what=what):
        chunk = torch.from_numpy(pixels[rows[start : start + batch_size]])
        yield to_images(chunk, size_px=size_px, device=device)
