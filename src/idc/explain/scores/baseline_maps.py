"""Maps that know nothing of the network: what a score is worth is told beside theirs."""

from collections.abc import Callable

import numpy as np

from idc.data.quality import optical_density


def random_maps(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return maps drawn pixel by pixel, float32 (patches, height, width), uniform in 0-1.

    Args:
        pixels: uint8 (patches, height, width, 3); only their number and size matter.
        seed: Seed of the draw.
    """
    return np.random.default_rng(seed).random(pixels.shape[:3], dtype=np.float32)


def centre_maps(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return a Gaussian blob in the middle, float32 (patches, height, width), 0-1.

    Its standard deviation is a quarter of the edge: one standard deviation reaches half way from
    the centre to the border.

    Args:
        pixels: uint8 (patches, height, width, 3); only their number and size matter.
        seed: Ignored: nothing is drawn.
    """
    del seed
    num_patches, height, width = pixels.shape[:3]
    rows, columns = (
        np.exp(-(((np.arange(edge) - (edge - 1) / 2) / (edge / 4)) ** 2) / 2)
        for edge in (height, width)
    )
    return np.broadcast_to(
        np.outer(rows, columns).astype(np.float32), (num_patches, height, width)
    ).copy()


def darkness_maps(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return the optical density of each pixel, float32 (patches, height, width), at least 0.

    Nuclei are dark, and tumour is full of nuclei: a map must tell more than this to have learnt
    anything from the network.

    Args:
        pixels: uint8 (patches, height, width, 3) RGB.
        seed: Ignored: nothing is drawn.
    """
    del seed
    return np.asarray(optical_density(pixels).mean(axis=-1))


BASELINE_MAPS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "random": random_maps,
    "centre": centre_maps,
    "darkness": darkness_maps,
}
"""Every baseline by name; each takes the patches and a seed."""
