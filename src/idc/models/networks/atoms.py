"""How strongly the atoms of a texture dictionary answer in an image.

One implementation for the baseline, which must be fast, and for the texture member of the fusion,
which must also be differentiable and exportable.
"""

import torch
from torch import Tensor
from torch.nn import functional

WINDOW_PX = 6
NUM_ATOMS = 320

CONTRAST_FLOOR = 10.0
"""Added to a window's variance, in grey levels squared: even glass stays even."""

_SOFT_THRESHOLD = 0.5
_STRIDE_PX = 2


def mean_activity(images: Tensor, filters: Tensor, offsets: Tensor) -> Tensor:
    """Return how strongly each atom answers on average, then each negative of an atom.

    Args:
        images: float32 (batch, 3, height, width) in grey levels, whatever counts as 0; not changed.
        filters: float32 (atoms, 3, 6, 6), each summing to 0.
        offsets: float32 (atoms,), taken from every response.

    Returns:
        float32 (batch, 2 x atoms), 0 or more.
    """
    response = functional.conv2d(images, filters, stride=_STRIDE_PX)
    response.div_(_contrast(images)).sub_(offsets[:, None, None])  # in place: memory-bound
    shrunk = functional.softshrink(response, _SOFT_THRESHOLD)
    balance = shrunk.mean(dim=(2, 3))
    activity = shrunk.abs_().mean(dim=(2, 3))
    both = torch.cat([activity + balance, activity - balance], dim=1) / 2
    return both.clamp_min_(0.0)  # rounding may leave a little below 0


def _contrast(images: Tensor) -> Tensor:
    """Return the floored SD of the window at each place, (batch, 1, places, places)."""
    centred = images - 128.0  # keeps the squares small, and so exact
    mean, square = (
        functional.avg_pool2d(plane.mean(dim=1, keepdim=True), WINDOW_PX, stride=_STRIDE_PX)
        for plane in (centred, centred**2)
    )
    return torch.sqrt((square - mean**2).clamp_min(0.0) + CONTRAST_FLOOR)
