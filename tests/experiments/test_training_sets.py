import pandas as pd
import pytest
import yaml

from idc.core.config import load_params
from idc.core.errors import InputError
from idc.core.layout import INDEX, MANIFEST
from idc.data.manifest.sampling import draw_manifest
from idc.data.tables import INDEX_SCHEMA, MANIFEST_SCHEMA, save_table
from idc.experiments.learning_curve import CurvePoint, choose_points
from idc.experiments.optimism import equal_training_size
from idc.experiments.training_sets import largest_equal_size, load_pool

CASES = {f"c{number:02d}": (10 + number % 7, 6 + number % 5) for number in range(24)}
NUM_FOLDS = 4


@pytest.fixture
def pool(tmp_path, project_root, make_index):
    content = yaml.safe_load((project_root / "params.yaml").read_text(encoding="utf-8"))
    content["sample"] |= {"num_patches": 200, "exclude_flags": []}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    index = make_index(CASES)
    save_table(tmp_path / INDEX, index, INDEX_SCHEMA)
    params = load_params(tmp_path / "params.yaml")
    manifest = draw_manifest(index, params.sample, params.seeds.data)
    save_table(tmp_path / MANIFEST, manifest, MANIFEST_SCHEMA)
    return load_pool(tmp_path)


def least_class(*subsets):
    return min(int((subset["label"] == label).sum()) for subset in subsets for label in (0, 1))


def test_training_set_when_assigned_by_case_then_holds_whole_cases_and_by_patch_it_does_not(pool):
    by_case, by_patch = (
        pool.training_set(split_unit, NUM_FOLDS, 0) for split_unit in ("case", "patch")
    )
    manifest = pool.manifest["case"].value_counts()
    counts = by_case["case"].value_counts()
    assert counts.to_dict() == manifest[counts.index].to_dict()
    assert by_case["case"].nunique() == len(CASES) // 2
    assert by_patch["case"].nunique() > 0.9 * len(CASES)
    assert len(by_patch) == pytest.approx(100, abs=15)


def test_largest_equal_size_when_subsets_differ_then_twice_the_rarest_class_of_any():
    subsets = [
        pd.DataFrame({"label": [0] * zeros + [1] * ones}) for zeros, ones in ((9, 5), (4, 7))
    ]
    assert largest_equal_size(subsets) == 8


def test_equal_training_size_when_asked_then_every_fold_of_both_ways_has_it(pool):
    subsets = [pool.training_set(d, NUM_FOLDS, k) for d in ("case", "patch") for k in range(4)]
    assert equal_training_size(pool, NUM_FOLDS) == 2 * least_class(*subsets)


def test_choose_points_when_cases_are_asked_for_then_each_has_a_partner_of_as_many_patches(pool):
    points = choose_points(pool, NUM_FOLDS, [0, 2], [20, 60], [3, 6])
    few = [point for point in points if point.num_cases is not None]
    assert [point.num_cases for point in few] == [6, 3]
    for point in few:
        subsets = [pool.training_set("case", NUM_FOLDS, k, point.num_cases) for k in (0, 2)]
        assert point.num_patches == min(60, 2 * least_class(*subsets))
        assert CurvePoint(point.num_patches, None) in points
    assert points[0] == CurvePoint(60, None)
    assert CurvePoint(20, None) in points
    of_all = [point.num_patches for point in points if point.num_cases is None]
    assert of_all == sorted(set(of_all), reverse=True)


def test_choose_points_when_few_cases_have_more_than_asked_for_then_they_are_cut_to_it(pool):
    points = choose_points(pool, NUM_FOLDS, [0], [10], [8])
    assert points == [CurvePoint(10, None), CurvePoint(10, 8)]


@pytest.mark.parametrize(
    ("patches", "cases", "fault"),
    [
        ([20, 400], [], "400 training patches were asked for, the smallest training set gives"),
        ([20], [3, 12], "12 train cases were asked for, the smallest training set has 12"),
    ],
)
def test_choose_points_when_more_is_asked_for_than_there_is_then_says_what_there_is(
    pool, patches, cases, fault
):
    with pytest.raises(InputError, match=fault):
        choose_points(pool, NUM_FOLDS, [0], patches, cases)


def test_point_when_named_then_parameters_and_folder_say_it():
    assert CurvePoint(40, 3).name == "patches-40-cases-3"
    assert CurvePoint(40, None).name == "patches-40-cases-all"
    assert CurvePoint(40, 3).overrides() == {
        "split.max_train_patches": 40,
        "split.max_train_cases": 3,
    }
