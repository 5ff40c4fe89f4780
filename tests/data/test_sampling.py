import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idc.core.config import SampleConfig
from idc.core.errors import InputError
from idc.data.manifest import sampling
from idc.data.ranking import rank_patches

POOL = {"a": (30, 5), "b": (20, 18), "c": (12, 16)}


def config(num_patches=20, **changes):
    values = {
        "allow_fewer": False,
        "max_per_case": None,
        "exclude_flags": (),
        **changes,
    }
    return SampleConfig(num_patches=num_patches, **values)


def draw_manifest(index, chosen, seed=17):
    return sampling.draw_manifest(index, chosen, seed)


@pytest.fixture
def index(make_index):
    return make_index(POOL)


def places(manifest):
    return list(zip(manifest["case"], manifest["x"], manifest["y"], strict=True))


def test_draw_manifest_when_the_pool_suffices_then_is_balanced_and_of_the_wanted_size(index):
    counts = draw_manifest(index, config(40))["label"].value_counts()
    assert (counts[0], counts[1]) == (20, 20)


def test_draw_manifest_when_done_then_rows_point_at_the_same_patches_of_the_index(index):
    manifest = draw_manifest(index, config(40))
    columns = ["case", "x", "y", "label"]
    pd.testing.assert_frame_equal(
        manifest[columns], index.loc[manifest["row"], columns].reset_index(drop=True)
    )


def test_draw_manifest_when_done_then_draws_no_patch_twice(index):
    assert draw_manifest(index, config(70))["row"].is_unique


def test_draw_manifest_when_done_then_the_classes_alternate(index):
    assert draw_manifest(index, config(8))["label"].tolist() == [0, 1] * 4


def test_draw_manifest_when_smaller_then_is_the_beginning_of_a_larger_one(index):
    small, large = draw_manifest(index, config(20)), draw_manifest(index, config(60))
    pd.testing.assert_frame_equal(small, large.head(20))


def test_draw_manifest_when_the_index_is_shuffled_then_draws_the_same_in_the_same_order(index):
    shuffled = index.sample(frac=1.0, random_state=3).reset_index(drop=True)
    assert places(draw_manifest(shuffled, config())) == places(draw_manifest(index, config()))


def test_draw_manifest_when_the_seed_differs_then_draws_others(index):
    first, second = (draw_manifest(index, config(), seed) for seed in (17, 18))
    assert set(places(first)) != set(places(second))


def test_draw_manifest_when_the_pool_is_too_small_then_says_what_it_can_give(index):
    with pytest.raises(InputError, match="set it to 78 or less"):
        draw_manifest(index, config(80))


def test_draw_manifest_when_fewer_are_allowed_then_takes_all_that_balance_allows(index):
    counts = draw_manifest(index, config(1000, allow_fewer=True))["label"].value_counts()
    assert (counts[0], counts[1]) == (39, 39)


def test_draw_manifest_when_all_are_wanted_then_takes_the_unbalanced_pool(index):
    counts = draw_manifest(index, config("all"))["label"].value_counts()
    assert (counts[0], counts[1]) == (62, 39)


@pytest.mark.parametrize(("cases", "name"), [({"a": (4, 0)}, "IDC\\+"), ({"a": (0, 4)}, "IDC-")])
def test_draw_manifest_when_a_class_is_missing_then_names_it(make_index, cases, name):
    with pytest.raises(InputError, match=f"no {name} patch"):
        draw_manifest(make_index(cases), config(2))


def test_draw_manifest_when_flags_empty_a_class_then_names_it(index):
    flagged = index.assign(sliver=index["label"] == 1)
    with pytest.raises(InputError, match=r"no IDC\+ patch"):
        draw_manifest(flagged, config(2, exclude_flags=("sliver",)))


def test_draw_manifest_when_a_flag_is_excluded_then_leaves_those_patches_out(index):
    flagged = index.assign(sliver=index["case"] == "b", blank=index["case"] == "c")
    manifest = draw_manifest(flagged, config("all", exclude_flags=("sliver",)))
    assert set(manifest["case"]) == {"a", "c"}


def test_draw_manifest_when_cases_are_capped_then_no_case_gives_more(index):
    manifest = draw_manifest(index, config("all", max_per_case=7))
    assert manifest["case"].value_counts().to_dict() == {"a": 7, "b": 7, "c": 7}


def test_rank_patches_when_other_cases_leave_then_stays_the_same(index):
    alone = index[index["case"] == "b"]
    np.testing.assert_array_equal(
        rank_patches(alone, 17), rank_patches(index, 17)[index["case"] == "b"]
    )


pools = st.dictionaries(
    st.text("abcdef0123456789", min_size=1, max_size=4),
    st.tuples(st.integers(0, 20), st.integers(0, 20)).filter(any),
    min_size=2,
    max_size=12,
).filter(lambda cases: min(sum(n) for n in zip(*cases.values(), strict=True)) >= 2)


@given(pools, st.integers(1, 30), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_draw_manifest_when_drawn_from_any_pool_then_is_balanced_to_the_patch(
    make_index, cases, half, seed
):
    manifest = draw_manifest(make_index(cases), config(2 * half, allow_fewer=True), seed)
    available = min(sum(counts) for counts in zip(*cases.values(), strict=True))
    assert manifest["label"].value_counts().to_dict() == dict.fromkeys((0, 1), min(half, available))


@given(pools, st.data(), st.integers(0, 2**32 - 1), st.none() | st.integers(1, 10))
@settings(max_examples=20, deadline=None)
def test_draw_manifest_when_drawn_smaller_then_is_a_prefix_of_the_larger(
    make_index, cases, data, seed, cap
):
    index = make_index(cases)
    large, small = sorted(data.draw(st.tuples(*[st.integers(1, 30)] * 2)), reverse=True)
    wanted = {"allow_fewer": True, "max_per_case": cap}
    larger, smaller = (
        places(draw_manifest(index, config(2 * half, **wanted), seed)) for half in (large, small)
    )
    assert larger[: len(smaller)] == smaller


@given(pools, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_draw_manifest_when_the_archive_is_in_another_order_then_draws_the_same(
    make_index, cases, seed, order
):
    index = make_index(cases)
    shuffled = index.sample(frac=1.0, random_state=order % 2**31).reset_index(drop=True)
    wanted = config(10, allow_fewer=True)
    assert places(draw_manifest(shuffled, wanted, seed)) == places(
        draw_manifest(index, wanted, seed)
    )


def test_draw_manifest_when_all_is_wanted_then_takes_the_pool_with_its_imbalance(index):
    counts = draw_manifest(index, config("all"))["label"].value_counts()
    assert (counts[0], counts[1]) == (62, 39)


def test_draw_manifest_when_a_flag_is_excluded_then_leaves_its_patches_out(index):
    flagged = index.assign(ink=index["case"] == "a")
    manifest = draw_manifest(flagged, config("all", exclude_flags=("ink",)))
    assert set(manifest["case"]) == {"b", "c"}
