import numpy as np
import pytest

from idc.data.split.duplicates import block_means, find_duplicates


@pytest.fixture(scope="module")
def pixels():
    """300 smooth patches, some of them close to others: distances of 0 to 60 grey levels."""
    rng = np.random.default_rng(5)
    bases = rng.integers(60, 200, (30, 1, 5, 5, 3)).repeat(10, axis=1).reshape(300, 5, 5, 3)
    coarse = bases + rng.normal(0, 1, (300, 5, 5, 3)) * rng.uniform(0, 12, (300, 1, 1, 1))
    fine = coarse.repeat(10, axis=1).repeat(10, axis=2) + rng.normal(0, 2, (300, 50, 50, 3))
    return fine.clip(0, 255).astype(np.uint8)


def compare_every_pair(pixels, groups, max_difference):
    pairs = set()
    for i, ours in enumerate(groups):
        for theirs in groups[i + 1 :]:
            for a in ours:
                gap = pixels[theirs].astype(float) - pixels[a].astype(float)
                rms = np.sqrt((gap**2).mean(axis=(1, 2, 3)))
                pairs |= {(a, b) for b in theirs[rms <= max_difference]}
    return pairs


@pytest.mark.parametrize("max_difference", [4.0, 8.0, 15.0])
def test_find_duplicates_when_compared_with_every_pair_then_none_is_missed_and_none_invented(
    pixels, max_difference
):
    groups = np.array_split(np.random.default_rng(1).permutation(300), 3)
    found = find_duplicates(pixels, groups, max_difference=max_difference)
    wanted = compare_every_pair(pixels, groups, max_difference)
    assert len(wanted) > 10
    assert set(zip(found["row"], found["other"], strict=True)) == wanted


def test_find_duplicates_when_found_then_says_the_difference_of_the_pixels(pixels):
    found = find_duplicates(pixels, [np.array([0]), np.array([1])], max_difference=255.0)
    gap = pixels[0].astype(float) - pixels[1].astype(float)
    assert found["difference"].tolist() == pytest.approx([np.sqrt((gap**2).mean())], rel=1e-6)


def test_find_duplicates_when_a_group_is_empty_then_finds_none(pixels):
    empty = np.zeros(0, np.int64)
    assert find_duplicates(pixels, [np.arange(5), empty], max_difference=255.0).empty


def test_block_means_when_taken_then_distance_is_the_rms_difference_of_the_means(pixels):
    means = block_means(pixels, np.array([0, 10]))
    blocks = pixels[[0, 10]].reshape(2, 5, 10, 5, 10, 3).mean(axis=(2, 4)).reshape(2, -1)
    rms = np.sqrt(((blocks[0] - blocks[1]) ** 2).mean())
    assert np.linalg.norm(means[0] - means[1]) == pytest.approx(rms, rel=1e-5)
