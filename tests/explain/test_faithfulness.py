"""Deletion, insertion and ROAD of linear scores, whose answer is known by hand."""

import numpy as np
import pytest
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, neighbors_weights
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve

from idc.explain.scores.faithfulness import (
    NUM_BLOCKS,
    Perturbations,
    block_means,
    blur,
    first_blocks,
    impute,
    rank_blocks,
)

SQUARE = (slice(10, 20), slice(25, 35))  # four blocks


@pytest.fixture
def pixels():
    """Noisy grey patches with a dark square that alone carries the score."""
    patches = np.random.default_rng(3).integers(150, 170, (6, 50, 50, 3), dtype=np.uint8)
    patches[:, *SQUARE] = 20
    return patches


def score_square(pixels):
    """Two sources: darkness of the square, and minus as much."""
    dark = 255.0 - pixels[:, *SQUARE].astype(float).mean(axis=(1, 2, 3))
    return np.stack([dark, -dark], axis=1)


def faithful_maps(pixels):
    maps = np.zeros(pixels.shape[:3], np.float32)
    maps[:, *SQUARE] = 1.0
    return maps


def test_deletion_when_the_score_is_linear_in_blocks_then_the_area_is_the_one_by_hand():
    # one pixel value per block and patch; the score sums weight x (value - blurred value)
    pixels = np.random.default_rng(0).integers(0, 255, (1, 50, 50, 3), dtype=np.uint8)
    gain = block_means((pixels.astype(float) - blur(pixels).astype(float)).mean(axis=-1))[0]

    def score(each):
        return block_means(each.astype(float).mean(axis=-1)).sum(axis=1, keepdims=True)

    maps = np.zeros((1, 50, 50), np.float32)
    maps[0] = np.kron(gain.reshape(10, 10), np.ones((5, 5)))
    found = Perturbations(pixels, score, num_steps=4, seed=1).measure(maps, 0)
    ordered, total = np.sort(gain)[::-1], gain.sum()
    left = [(total - ordered[:num].sum()) / abs(total) for num in (0, 25, 50, 75, 100)]
    assert found["deletion_auc"][0] == pytest.approx(np.trapezoid(left, dx=0.25), abs=1e-6)
    brought = [ordered[:num].sum() / abs(total) for num in (0, 25, 50, 75, 100)]
    assert found["insertion_auc"][0] == pytest.approx(np.trapezoid(brought, dx=0.25), abs=1e-6)


def test_scores_when_a_map_marks_the_planted_square_then_it_beats_a_random_one(pixels):
    test = Perturbations(pixels, score_square, num_steps=10, seed=1)
    faithful = test.measure(faithful_maps(pixels), 0)
    random = test.measure(np.random.default_rng(1).random((6, 50, 50)), 0)
    # all of the score goes with the first step
    assert faithful["deletion_auc"] == pytest.approx(np.full(6, 0.05), abs=0.01)
    assert faithful["insertion_auc"] == pytest.approx(np.full(6, 0.95), abs=0.01)
    assert np.all(faithful["deletion_auc"] < random["deletion_auc"] - 0.1)
    assert np.all(faithful["insertion_auc"] > random["insertion_auc"] + 0.1)
    assert np.all(faithful["road"] > random["road"] + 0.1)


def test_scores_when_another_source_is_followed_then_its_own_score_counts(pixels):
    test = Perturbations(pixels, score_square, num_steps=5, seed=1)
    for_it, against_it = (test.measure(faithful_maps(pixels), source) for source in (0, 1))
    for name, values in for_it.items():
        assert np.allclose(values, -against_it[name])


def test_scores_when_blur_moves_no_score_then_they_are_undefined(pixels):
    test = Perturbations(pixels, lambda each: np.ones((len(each), 1)), num_steps=5, seed=1)
    found = test.measure(faithful_maps(pixels), 0)
    assert all(np.isnan(values).all() for values in found.values())


def test_scores_when_scored_twice_then_they_are_equal_and_the_pixels_as_before(pixels):
    before = pixels.copy()
    maps = np.random.default_rng(1).random((6, 50, 50))
    first, second = (
        Perturbations(pixels, score_square, num_steps=5, seed=1).measure(maps, 0) for _ in range(2)
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert np.array_equal(pixels, before)


def test_rank_when_blocks_are_equal_then_their_order_is_drawn_and_not_by_place():
    order = rank_blocks(np.zeros((2, 50, 50)), seed=1)
    assert sorted(order[0]) == list(range(NUM_BLOCKS))
    assert not np.array_equal(order[0], np.arange(NUM_BLOCKS))
    assert not np.array_equal(order[0], order[1])
    assert np.array_equal(order, rank_blocks(np.zeros((2, 50, 50)), seed=1))


def test_rank_when_a_map_is_not_finite_then_stops():
    with pytest.raises(ValueError, match="NaN"):
        rank_blocks(np.full((1, 50, 50), np.nan), seed=1)


def test_blocks_when_the_first_is_taken_then_its_25_pixels_are_and_no_others():
    order = rank_blocks(np.pad(np.ones((1, 5, 5)), ((0, 0), (5, 40), (45, 0))), seed=1)
    taken = first_blocks(order, 0.01)
    assert taken.sum() == 25
    assert taken[0, 5:10, 45:50].all()


def test_impute_when_compared_with_pytorch_grad_cam_then_it_fills_the_same():
    rng = np.random.default_rng(0)
    patch = rng.integers(0, 255, (1, 50, 50, 3), dtype=np.uint8)
    hole = first_blocks(rank_blocks(rng.random((1, 50, 50)), seed=1), 0.6)
    system, known = NoisyLinearImputer.setup_sparse_system(
        ~hole[0], patch[0].transpose(2, 0, 1).astype(float), neighbors_weights
    )
    theirs = spsolve(csc_matrix(system), known)
    ours = impute(patch, hole, seed=1)[hole].astype(float)
    noise = np.random.default_rng(1).normal(0.0, 2.55, patch.shape)[hole]
    assert np.abs(ours - np.clip(theirs + noise, 0, 255)).max() <= 0.5


def test_impute_when_a_gradient_has_a_hole_then_it_goes_on_through_it():
    ramp = np.broadcast_to(np.arange(50, dtype=np.uint8)[:, None] * 4, (50, 50))
    patch = np.repeat(ramp[None, ..., None], 3, axis=-1)
    hole = np.zeros((1, 50, 50), bool)
    hole[0, 15:30, 15:30] = True
    filled = impute(patch, hole, seed=1)
    assert np.array_equal(filled[~hole], patch[~hole])
    error = filled[hole].astype(float) - patch[hole]
    assert abs(error.mean()) < 1
    assert 1 < error.std() < 5, "the noise of ROAD is there, and no more than it"


def test_blur_when_tissue_is_blurred_then_it_loses_texture_but_not_its_colour():
    patch = np.random.default_rng(0).integers(90, 190, (1, 50, 50, 3), dtype=np.uint8)
    blurred = blur(patch)
    assert blurred.std() < 0.2 * patch.std()
    assert abs(blurred.mean() - patch.mean()) < 1
    assert blurred.max() < 200
