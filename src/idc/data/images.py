"""Patches as the images that a network takes."""

import torch
from torch import Tensor, nn


def to_images(pixels: Tensor, *, size_px: int, device: torch.device) -> Tensor:
    """Move uint8 patches to the device and make them images.

    Args:
        pixels: uint8 (batch, 50, 50, 3).
        size_px: Edge length of the images, by bilinear interpolation.
        device: Where the images live.

    Returns:
        float32 (batch, 3, size_px, size_px) in 0-1, in channels_last memory.
    """
    moved = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255.0
    if size_px != moved.shape[-1]:
        moved = nn.functional.interpolate(
            moved, size=(size_px, size_px), mode="bilinear", align_corners=False
        )
    return moved.contiguous(memory_format=torch.channels_last)
