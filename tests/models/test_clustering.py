import numpy as np

from idc.models.texture.clustering import cluster_on_sphere, whiten


def test_whiten_when_applied_then_the_covariance_is_the_identity():
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(5000, 6)) @ rng.normal(size=(6, 6))
    white = windows @ whiten(windows, 0.0)
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(6), atol=1e-4)


def test_cluster_when_windows_lie_on_few_axes_then_atoms_find_them():
    rng = np.random.default_rng(0)
    axes = np.eye(5, dtype=np.float32)[rng.integers(0, 5, 2000)]
    white = axes * rng.normal(size=(2000, 1)).astype(np.float32)
    atoms = cluster_on_sphere(white + 0.01 * rng.normal(size=white.shape), 5, rng)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, rtol=1e-5)
    assert (np.abs(atoms).max(axis=1) > 0.95).all()
