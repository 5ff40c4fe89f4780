"""A `params.yaml` of before: each key that is gone is named, with what replaces it."""

import re
from pathlib import Path

import pytest
import yaml

from idc.core.config import Params, dot_keys, load_params
from idc.core.errors import InputError
from idc.core.removed_parameters import REMOVED, explain_removed
from idc.runs.workspace import override_params

LATER = {"explain.mosaic_confidence"}  # came after that file, and went again
OLD_FILE = Path(__file__).with_name("params_before_seeds.yaml")


@pytest.fixture(scope="module")
def old_keys():
    return set(dot_keys(yaml.safe_load(OLD_FILE.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def today(project_root):
    return set(dot_keys(yaml.safe_load((project_root / "params.yaml").read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def old_file_faults():
    with pytest.raises(InputError) as caught:
        load_params(OLD_FILE)
    return str(caught.value).splitlines()


def test_old_file_when_read_then_every_key_that_is_gone_has_one_line(
    old_keys, today, old_file_faults
):
    gone = old_keys - today
    assert len(gone) > 30
    for key in gone:
        (line,) = [each for each in old_file_faults if each.startswith(f"{OLD_FILE}: {key} ")]
        assert line == f"{OLD_FILE}: {explain_removed(key)}"


def test_old_file_when_read_then_nothing_is_called_a_misspelling(old_file_faults):
    assert not [line for line in old_file_faults if "spelling" in line]


def test_removed_when_compared_with_the_old_file_then_holds_its_keys_and_none_of_todays(
    old_keys, today
):
    leaves = {key for key in REMOVED if not any(key != o and o.startswith(key) for o in REMOVED)}
    assert leaves <= old_keys | LATER
    assert not set(REMOVED) & today


def test_removed_when_a_key_moved_then_it_moved_to_one_that_is_there(today):
    moved = [re.search(r"^is ([\w.]+) now$", text) for text in REMOVED.values()]
    places = {match[1] for match in moved if match}
    assert len(places) >= 6
    assert places <= today


@pytest.mark.parametrize("key", sorted(REMOVED))
def test_override_when_its_key_is_gone_then_says_what_replaces_it(project_root, tmp_path, key):
    path = tmp_path / "params.yaml"
    path.write_bytes((project_root / "params.yaml").read_bytes())
    with pytest.raises(InputError) as caught:
        override_params(path, {key: 1})
    assert str(caught.value) == f"override {key}: {key} {REMOVED[key]}"
    assert path.read_bytes() == (project_root / "params.yaml").read_bytes()


def test_explain_removed_when_a_key_lies_below_a_removed_section_then_falls_under_it():
    assert explain_removed("pretrain.depth") == f"pretrain.depth {REMOVED['pretrain']}"


@pytest.mark.parametrize("key", ["train.epochs", "train.epochz", "nowhere", ""])
def test_explain_removed_when_there_never_was_such_a_key_then_says_nothing(key):
    assert explain_removed(key) is None


def test_load_params_when_the_old_scores_are_null_then_names_what_switches_them_off(
    project_root, tmp_path
):
    content = yaml.safe_load((project_root / "params.yaml").read_text(encoding="utf-8"))
    content["explain"]["scores"] = None
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"explain\.scores is gone: explain\.num_mosaics set to 0"):
        load_params(path)


def test_constants_when_named_then_are_those_in_the_code():
    from idc.explain.maps import attributions
    from idc.explain.scores import table
    from idc.lifecycle import drift
    from idc.lifecycle.promotion import decision, promote
    from idc.lifecycle.reproduction import rebuild
    from idc.stages import explain
    from idc.training import gradients, loop, sources

    constants = {
        "train.warmup_share": loop._WARMUP_SHARE,
        "train.aux_weight": gradients._AUX_WEIGHT,
        "train.frozen_views": sources.FROZEN_VIEWS,
        "explain.slide_method": explain._SLIDE_METHOD,
        "explain.max_grouped_errors": explain._MAX_GROUPED_ERRORS,
        "explain.smooth_grad_samples": attributions._SMOOTH_GRAD_SAMPLES,
        "explain.integrated_gradients_steps": attributions._INTEGRATED_GRADIENTS_STEPS,
        "explain.scores.num_steps": table._NUM_STEPS,
        "promotion.superiority_error": decision._SUPERIORITY_ERROR,
        "promotion.margin_error": decision._MARGIN_ERROR,
        "promotion.max_looks": promote.MAX_LOOKS,
        "drift.num_patches": drift._NUM_EMBEDDED,
        "reproduce.max_logit_difference": rebuild.MAX_LOGIT_DIFFERENCE,
    }
    for key, value in constants.items():
        assert f"it is a constant now, {value} (" in REMOVED[key], key


def test_params_when_a_section_is_looked_for_then_pretrain_and_reproduce_are_none():
    assert {"pretrain", "reproduce"}.isdisjoint(Params.model_fields)
