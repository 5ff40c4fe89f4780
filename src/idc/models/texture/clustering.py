"""A dictionary of small textures, learnt without labels from windows of pixels.

Windows are whitened and clustered on the sphere (Coates & Ng 2011, ICML; 2012, "Learning feature
representations with k-means"). Each atom, with the whitening folded in, is a filter that answers
to one texture: as it is, it serves the texture baseline; as a first convolution, it spares a
network from finding edges and colours of stain by gradient descent.
"""

import numpy as np
import torch
from torch import Tensor

from idc.data.batches.loader import to_images
from idc.models.networks.fusion import FusionCNN

_ROUNDS = 10
_NUM_PATCHES = 4_000
_WINDOWS_PER_PATCH = 15
_WHITENING_SHARE = 0.01  # of the mean eigenvalue, added to each: what hardly varies is noise
_MIN_WHITENING = 1e-6  # where nothing varies at all


def whiten(windows: np.ndarray, floor: float) -> np.ndarray:
    """Return the symmetric matrix that makes windows white (ZCA), float32 (values, values).

    Args:
        windows: (windows, values).
        floor: Added to every eigenvalue of the covariance, in squared units of the windows.
    """
    values, vectors = np.linalg.eigh(np.cov(windows, rowvar=False, dtype=np.float64))
    scale = 1 / np.sqrt(np.maximum(values, 0) + floor)
    return np.asarray((vectors * scale) @ vectors.T, np.float32)


def cluster_on_sphere(white: np.ndarray, num_atoms: int, rng: np.random.Generator) -> np.ndarray:
    """Return atoms of length 1, float32 (atoms, values), by damped spherical k-means.

    An atom moves by the windows it answers to most, weighted by the answer, so that none dies.

    Args:
        white: Whitened windows, float32 (windows, values).
        num_atoms: How many atoms.
        rng: Draws the first atoms.
    """
    atoms = _unit(rng.standard_normal((num_atoms, white.shape[1]), np.float32))
    for _ in range(_ROUNDS):
        answers = white @ atoms.T
        best = np.abs(answers).argmax(axis=1)
        weighted = white * answers[np.arange(len(white)), best][:, None]
        np.add.at(atoms, best, weighted)
        atoms = _unit(atoms)
    return atoms


def fill_stems(
    model: FusionCNN, pixels: np.ndarray, rows: np.ndarray, *, size_px: int, seed: int
) -> None:
    """Make the filters of every first convolution the atoms of a dictionary of its own.

    Each filter keeps the length that its random start had, and learns on from there.

    Args:
        model: On the CPU; its first convolutions are changed in place.
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
        rows: Patches of the train cases, labelled or not; never of another subset.
        size_px: Edge length at which the network sees patches.
        seed: Seed of the windows and of the first atoms.
    """
    rng = np.random.default_rng(seed)
    some = np.sort(rng.choice(rows, min(_NUM_PATCHES, len(rows)), replace=False))
    images = to_images(
        torch.from_numpy(pixels[some]), size_px=size_px, device=torch.device("cpu")
    ).contiguous()
    for backbone in model.branches:
        stem = backbone.stem()
        windows = _draw_windows((images - backbone.mean) / backbone.std, stem.kernel_size[0], rng)
        floor = _WHITENING_SHARE * float(windows.var(axis=0).mean()) + _MIN_WHITENING
        whitening = whiten(windows, floor)
        white = (windows - windows.mean(axis=0)) @ whitening
        filters = cluster_on_sphere(white, stem.out_channels, rng) @ whitening
        with torch.no_grad():
            before = stem.weight.flatten(1).norm(dim=1).mean()
            stem.weight.copy_(torch.from_numpy(_unit(filters)).view_as(stem.weight) * before)


def _draw_windows(images: Tensor, edge_px: int, rng: np.random.Generator) -> np.ndarray:
    """Return float32 (windows, 3 x edge x edge), as many of each image."""
    places = images.shape[-1] - edge_px + 1
    corners = rng.integers(0, places, (len(images), _WINDOWS_PER_PATCH, 2))
    windows = [
        image[:, top : top + edge_px, left : left + edge_px].reshape(-1)
        for image, own in zip(images, corners, strict=True)
        for top, left in own
    ]
    return torch.stack(windows).numpy()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
