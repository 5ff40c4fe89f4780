"""What optimism and learning curve train: the settings of their cross-validations, no training."""

import pytest

from idc.core.errors import InputError
from idc.core.layout import INDEX, MANIFEST
from idc.data.manifest.sampling import draw_manifest
from idc.data.tables import INDEX_SCHEMA, MANIFEST_SCHEMA, save_table
from idc.experiments import learning_curve, optimism
from idc.experiments.cross_validation import Setting
from idc.experiments.folds import CAP_CASES, CAP_PATCHES
from idc.experiments.learning_curve import Sizes, measure_learning_curve
from idc.experiments.optimism import measure_optimism
from idc.experiments.training_sets import load_pool

CASES = {f"c{number:02d}": (10 + number % 7, 6 + number % 5) for number in range(24)}


@pytest.fixture
def trained(project, make_index, change_params, monkeypatch):
    """The settings that were cross-validated, in order, on the pool of `CASES`."""
    params = change_params(sample={"num_patches": 200, "exclude_flags": []})
    index = make_index(CASES)
    save_table(project / INDEX, index, INDEX_SCHEMA)
    manifest = draw_manifest(index, params.sample, params.seeds.data)
    save_table(project / MANIFEST, manifest, MANIFEST_SCHEMA)
    settings = []
    for module, write in ((optimism, "write_optimism"), (learning_curve, "write_learning_curve")):
        monkeypatch.setattr(module, "sample_pool", lambda *_: load_pool(project))
        monkeypatch.setattr(
            module, "cross_validate", lambda root, setting, runner: settings.append(setting)
        )
        monkeypatch.setattr(module, write, lambda *arguments: settings.append(arguments[1:]))
    return settings


def test_optimism_when_measured_then_both_ways_train_on_equally_many_patches_of_all_folds(
    project, trained
):
    setting = Setting("o", {"train.epochs": 1}, 4, only=(0,))
    page = measure_optimism(project, setting, runner=None)
    assert page == project / "reports/experiments/o/optimism.md"
    by_case, by_patch, written = trained
    assert written == ("o",)
    assert (by_case.name, by_patch.name) == ("o/case", "o/patch")
    assert (by_case.split_unit, by_patch.split_unit) == ("case", "patch")
    assert by_case.overrides == by_patch.overrides
    assert by_case.overrides["train.epochs"] == 1
    assert 0 < by_case.overrides[CAP_PATCHES] < 100  # 200, two of four folds
    # every fold, or the two would not test the same patches
    assert by_case.only is None
    assert by_patch.only is None


def test_learning_curve_when_measured_then_each_point_of_few_cases_has_a_partner_and_the_page_grows(
    project, trained
):
    setting = Setting("l", {"train.epochs": 1}, 4, only=(0, 1))
    page = measure_learning_curve(project, setting, Sizes((20, 60), (5,)), runner=None)
    assert page == project / "reports/experiments/l/learning_curve.md"
    settings, pages = trained[::2], trained[1::2]
    points = [(one.overrides[CAP_PATCHES], one.overrides[CAP_CASES]) for one in settings]
    *of_all, (size, few) = points
    assert few == 5
    assert of_all == [(most, None) for most in sorted({60, size, 20}, reverse=True)]
    assert [one.name for one in settings] == [
        f"l/patches-{size}-cases-{cases or 'all'}" for size, cases in points
    ]
    assert all(one.only == (0, 1) and one.overrides["train.epochs"] == 1 for one in settings)
    assert [len(points) for _, points in pages] == list(range(1, len(settings) + 1))


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (lambda root, s: measure_optimism(root, s, None), "the experiment sets it itself"),
        (lambda root, s: measure_learning_curve(root, s, Sizes((20,)), None), "sets it itself"),
    ],
)
def test_experiment_when_an_override_is_what_it_sets_itself_then_nothing_is_trained(
    project, trained, measure, said
):
    with pytest.raises(InputError, match=said):
        measure(project, Setting("x", {CAP_PATCHES: 10}, 4))
    assert trained == []


def test_learning_curve_when_no_size_is_given_then_nothing_is_trained(project, trained):
    with pytest.raises(InputError, match="no number of training patches"):
        measure_learning_curve(project, Setting("x", {}, 4), Sizes(()), None)
    assert trained == []
