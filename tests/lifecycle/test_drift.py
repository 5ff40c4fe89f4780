"""New data against a training profile."""

import numpy as np
import pytest

from idc.data.patches import evenly_spaced_rows
from idc.data.split.profile import build_profile
from idc.lifecycle.drift import ModelView, measure_drift

NUM_FEATURES = 4


@pytest.fixture
def archive(make_index):
    """Two training cases, one held out, one that comes later; the same stain everywhere."""
    index = make_index({"a": (20, 10), "b": (20, 10), "c": (10, 5), "new": (20, 10)})
    pixels = np.random.default_rng(2).integers(60, 200, (len(index), 50, 50, 3), np.uint8)
    return index, pixels


@pytest.fixture
def profile(archive):
    index, pixels = archive
    known = index[index["case"] != "new"]
    splits = known.assign(split=known["case"].map({"a": "train", "b": "train", "c": "val"}))
    return build_profile(known, splits, pixels)


def embed(rows):
    return np.random.default_rng(len(rows)).normal(size=(len(rows), NUM_FEATURES))


@pytest.fixture
def drift(archive, profile, change_params):
    index, pixels = archive

    def measure(index=index, pixels=pixels, embed=embed, **limits):
        return measure_drift(
            profile, index, pixels, ModelView(embed, np.zeros(NUM_FEATURES), [10, 10]),
            change_params(drift=limits).drift,
        )  # fmt: skip

    return measure


def test_profile_when_built_twice_then_is_equal_and_tells_natural_prevalence(archive, profile):
    assert profile["idc_share"] == pytest.approx(1 / 3)
    assert profile["num_patches"] == {"a": 30, "b": 30, "c": 15}
    assert profile["train_cases"] == ["a", "b"]
    assert 60 < profile["statistics"]["mean_red"]["mean"] < 200


def test_drift_when_new_cases_are_alike_then_counts_them_and_finds_nothing(drift):
    report = drift(max_shift=1.0)
    assert (report["num_new_cases"], report["new_cases"], report["num_patches"]) == (1, ["new"], 30)
    assert report["drifted"] == []


def test_drift_when_new_cases_are_stained_darker_then_names_the_statistics(drift, archive):
    index, pixels = archive
    darker = pixels.copy()
    darker[index["case"].to_numpy() == "new"] //= 2
    report = drift(pixels=darker)
    assert {"mean_red", "mean_optical_density"} <= set(report["drifted"])
    assert report["figures"]["mean_red"]["shift"] < -0.5


def test_drift_when_the_class_share_differs_then_says_so(drift, archive):
    index = archive[0].copy()
    index.loc[index["case"] == "new", "label"] = 1
    report = drift(index=index)
    assert "idc_share" in report["drifted"]
    assert report["figures"]["idc_share"]["difference"] == pytest.approx(2 / 3)


def test_drift_when_the_model_sees_other_patches_then_the_embedding_says_so(drift, archive):
    is_new = archive[0]["case"].to_numpy() == "new"

    def shifted(rows):
        return embed(rows) + 2.0 * is_new[rows].all()

    report = drift(embed=shifted, max_shift=1.0)
    assert report["drifted"] == ["embedding"]
    assert report["figures"]["embedding"]["shift"] == pytest.approx(2.0, abs=0.6)


def test_drift_when_classes_are_embedded_then_in_the_shares_of_training(drift, archive):
    label, seen = archive[0]["label"].to_numpy(), []

    def watch(rows):
        seen.append(label[rows].mean())
        return embed(rows)

    drift(embed=watch)
    assert seen == [0.5, 0.5]


def test_drift_when_a_known_case_grew_then_it_counts_as_changed(drift, make_index, archive):
    index = make_index({"a": (25, 10), "b": (20, 10), "c": (10, 5)})
    report = drift(index=index, pixels=archive[1])
    assert (report["num_new_cases"], report["num_changed_cases"]) == (0, 1)
    assert report["num_patches"] == 35


def test_drift_when_nothing_is_new_then_measures_nothing(drift, archive):
    index = archive[0][archive[0]["case"] != "new"]
    report = drift(index=index)
    assert (report["num_patches"], report["drifted"]) == (0, [])
    assert "figures" not in report


def test_spread_rows_when_there_are_too_many_then_takes_both_ends():
    assert evenly_spaced_rows(np.arange(10, 110), 3).tolist() == [10, 60, 109]
