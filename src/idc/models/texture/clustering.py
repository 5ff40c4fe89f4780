"""Whitening and clustering of small windows of pixels, from which textures are learnt.

Windows are whitened and clustered on the sphere (Coates & Ng 2011, ICML; 2012, "Learning feature
representations with k-means"). Each atom, with the whitening folded in, is a filter that answers
to one texture.
"""

import numpy as np

_ROUNDS = 10


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


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
