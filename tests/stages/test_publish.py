"""What the stage publish makes of the files; what MLflow makes of that is tested in tracking."""

import shutil
from types import SimpleNamespace

import pytest
import yaml

from idc.core import layout
from idc.core.errors import InputError
from idc.core.files import load_json, save_json
from idc.models.spec import StartingWeights
from idc.runs.lineage import file_md5, load_lock, result_digest
from idc.stages import publish
from tests.random_networks import tiny_spec

LEAKAGE = {"num_shared_cases": 0, "num_exact_duplicates": 2, "num_near_duplicates": 3,
           "share_touching_train": {"val": 0.0, "test": 0.25}}  # fmt: skip


@pytest.fixture
def finished(tmp_path, result, monkeypatch):
    """A project after a run, and the results that the stage handed to MLflow."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(result.bundle, layout.BUNDLE)
    shutil.copy2(result.operating_point, layout.OPERATING_POINT)
    save_json(layout.METRICS, {"test/auroc": 0.9})
    save_json(layout.EVALUATION, {"subgroups": []})
    save_json(layout.LEAKAGE_REPORT, LEAKAGE)
    layout.MODEL_CARD.write_text("the card")
    outs = [{"path": str(layout.METRICS), "md5": file_md5(layout.METRICS)}]
    stages = {
        "ingest": {"deps": [{"path": "data/raw", "md5": "raw.dir"}]},
        "sample": {"outs": [{"path": "data/manifest.csv", "md5": write_manifest()}]},
        "evaluate": {"outs": outs},
    }
    layout.DVC_LOCK.write_text(yaml.safe_dump({"stages": stages}))
    handed = []

    def publish_result(content, root):
        handed.append(content)
        return SimpleNamespace(run_id="r1", model_name="m", model_version="4")

    monkeypatch.setattr(publish, "publish_result", publish_result)
    return handed


def write_manifest():
    layout.MANIFEST.parent.mkdir(parents=True, exist_ok=True)
    layout.MANIFEST.write_text("case,x,y,label\n")
    return file_md5(layout.MANIFEST)


def test_publish_when_a_run_has_finished_then_hands_over_digests_figures_and_files(
    finished, result, change_params
):
    publish.run(change_params())
    (handed,) = finished
    digest = result_digest(load_lock(layout.DVC_LOCK.parent))
    assert (handed.digest, handed.model_digest) == (digest, result.model_digest)
    assert (handed.raw_digest, handed.manifest_digest) == ("raw.dir", file_md5(layout.MANIFEST))
    assert handed.commit == "none"  # the folder is in no git
    assert handed.figures == {
        "test/auroc": 0.9, "class_weights/0": 1.0, "class_weights/1": 1.0,
        "leakage/num_shared_cases": 0.0, "leakage/num_exact_duplicates": 2.0,
        "leakage/num_near_duplicates": 3.0, "leakage/share_val_touching_train": 0.0,
        "leakage/share_test_touching_train": 0.25,
    }  # fmt: skip
    assert handed.model_card == "the card"
    assert handed.num_training_patches == (4, 4)
    assert "uncommitted.diff" not in handed.artifacts
    assert load_json(layout.PUBLISHED) == {
        "result_digest": digest, "run_id": "r1", "model_name": "m", "model_version": "4",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("licence", "forbidden", "refuses"),
    [
        ("cc-by-nc-nd-4.0", ["CC-BY-NC*"], True),
        ("cc-by-nc-nd-4.0", ["cc-by-nc", "unknown"], False),
        (None, ["cc-by-nc*", "unknown"], True),
        (None, [], False),
    ],
)
def test_publish_when_a_licence_is_restricted_then_warns_or_refuses_in_a_line(
    finished, change_params, monkeypatch, caplog, licence, forbidden, refuses
):
    weights = [StartingWeights("test_resnet", "a-lab/net", licence, None)]
    spec = tiny_spec(pretrained="imagenet", starting_weights=weights)
    monkeypatch.setattr(publish, "load_spec", lambda _: spec)
    params = change_params(publish={"forbid_licences": forbidden})
    word = licence or "unknown"
    if refuses:
        with pytest.raises(InputError, match=rf"the weights of test_resnet \({word}\)") as refused:
            publish.run(params)
        assert "\n" not in str(refused.value)
        assert not finished
    else:
        publish.run(params)
        assert f"weights of test_resnet ({word}): whether their licence" in caplog.text


@pytest.mark.parametrize(
    ("changes", "warns"),
    [
        ({}, False),
        ({"starting_weights": [StartingWeights("net", "a", "Apache-2.0", None)]}, False),
        ({"starting_weights": [StartingWeights("net", "a", "CC BY-ND 4.0", None)]}, True),
        ({"pretrained": "imagenet"}, True),  # of a time before they were kept
    ],
)
def test_publish_when_a_licence_is_free_or_there_is_none_then_says_nothing(
    finished, change_params, monkeypatch, caplog, changes, warns
):
    monkeypatch.setattr(publish, "load_spec", lambda _: tiny_spec(**changes))
    publish.run(change_params())
    assert len(finished) == 1
    assert ("whether their licence" in caplog.text) is warns


def test_publish_when_nothing_changed_then_its_own_file_is_not_written_again(
    finished, change_params
):
    publish.run(change_params())
    layout.PUBLISHED.chmod(0o444)
    before = layout.PUBLISHED.stat()
    publish.run(change_params())
    after = layout.PUBLISHED.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(finished) == 2  # MLflow is looked at all the same


@pytest.mark.parametrize("own", [True, False])
def test_publish_when_times_are_of_another_model_then_they_are_left_out(
    finished, result, change_params, own
):
    of = result.model_digest if own else "another"
    times = {"model_digest": of, "seconds_per_patch": {"grad_cam": 0.2}}
    save_json(layout.EXPLAIN_TIMES, times)
    publish.run(change_params())
    assert ("explain/s_per_patch/grad_cam" in finished[0].figures) == own


def test_publish_when_the_code_was_not_committed_then_the_difference_goes_along(
    finished, change_params
):
    layout.UNCOMMITTED.parent.mkdir(parents=True, exist_ok=True)
    layout.UNCOMMITTED.write_text("diff")
    publish.run(change_params())
    assert finished[0].artifacts["uncommitted.diff"] == layout.UNCOMMITTED


def test_publish_when_a_file_is_not_what_the_lock_records_then_nothing_is_published(
    finished, change_params
):
    save_json(layout.METRICS, {"test/auroc": 0.99})
    with pytest.raises(InputError, match=r"reports/metrics\.json is not what dvc\.lock records"):
        publish.run(change_params())
    assert finished == []
    assert not layout.PUBLISHED.exists()
