"""Is there anything new to learn from?"""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from mlflow.entities import Dataset, DatasetInput

from idc.core import layout
from idc.core.errors import InputError
from idc.data.split.profile import build_profile
from idc.data.tables import INDEX_SCHEMA, save_table
from idc.lifecycle.intake import _load_profile, find_new_data, write_drift_report
from idc.runs.lineage import file_md5, folder_md5
from idc.tracking.recording import RAW_DATASET
from tests.promotion.conftest import empty_store, project, trained  # noqa: F401  (fixtures)


@pytest.fixture
def raw(project):  # noqa: F811
    folder = project.root / "data/raw"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("7/0/7_idx5_x1_y1_class0.png", b"listed, not decoded")
    return folder


def add_version(project, digest, **options):  # noqa: F811
    version = project.add_version("r1", **options)
    run_id = project.registry().load(version).run_id
    dataset = Dataset(RAW_DATASET, digest, source_type="dvc", source="{}")
    project.client.log_inputs(run_id, [DatasetInput(dataset)])
    return version


def news_of(project):  # noqa: F811
    return find_new_data(project.root, project.params)


def test_news_when_there_is_no_model_then_all_is_new(project, raw):  # noqa: F811
    news = news_of(project)
    assert news.is_new
    assert "lists 1 patches, and there is no model yet" in news.why


def test_news_when_the_champion_was_made_from_the_archive_then_nothing_is(
    project, raw  # noqa: F811
):  # fmt: skip
    version = add_version(project, folder_md5(raw))
    project.client.set_registered_model_alias("idc-fusion", "champion", version)
    news = news_of(project)
    assert not news.is_new
    assert news.why == "data/raw is what idc-fusion version 1 was made from, and it is the champion"


def test_news_when_the_challenger_was_decided_upon_then_nothing_is(project, raw):  # noqa: F811
    add_version(project, folder_md5(raw))
    registry = project.registry()
    challenger = registry.challenger()
    registry.log_decision("keep", before=None, version=challenger, content={})
    assert not news_of(project).is_new


def test_news_when_the_challenger_was_never_compared_then_that_is_left_to_do(
    project, raw  # noqa: F811
):  # fmt: skip
    add_version(project, folder_md5(raw))
    registry = project.registry()
    registry.log_decision("dry-run", before=None, version=registry.challenger(), content={})
    news = news_of(project)
    assert news.is_new
    assert "has not been compared" in news.why


def test_news_when_the_archive_changed_then_names_both_digests(project, raw):  # noqa: F811
    add_version(project, "before.dir")
    news = news_of(project)
    assert news.is_new
    assert folder_md5(raw) in news.why
    assert "before.dir" in news.why


def test_news_when_a_new_archive_contradicts_itself_then_refuses(project, raw):  # noqa: F811
    with zipfile.ZipFile(raw / "b.zip", "w") as archive:
        archive.writestr("8/1/8_idx5_x1_y1_class0.png", b"in the folder of the other label")
    with pytest.raises(InputError, match="8_idx5_x1_y1_class0"):
        news_of(project)


def name_archive(raw, md5, size):
    (raw / "a.zip.dvc").write_text(f"outs:\n- {{md5: '{md5}', size: {size}, path: a.zip}}\n")


def test_news_when_a_pointer_changed_with_its_archive_then_it_is_new(project, raw):  # noqa: F811
    archive = raw / "a.zip"
    name_archive(raw, file_md5(archive), archive.stat().st_size)
    add_version(project, folder_md5(raw))
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("8/0/8_idx5_x1_y1_class0.png", b"listed, not decoded")
    name_archive(raw, file_md5(archive), archive.stat().st_size)
    assert news_of(project).is_new


@pytest.mark.parametrize("size", [None, 7])
def test_news_when_a_pointer_changed_alone_then_refuses_naming_the_ways_out(
    project, raw, size  # noqa: F811
):  # fmt: skip
    name_archive(raw, "0" * 32, size or (raw / "a.zip").stat().st_size)
    with pytest.raises(InputError, match=r"a\.zip\.dvc names is not here: `dvc pull .*`dvc add"):
        news_of(project)


@pytest.mark.slow
def test_intake_when_imported_then_torch_is_not():
    code = "import sys, idc.lifecycle.intake, flows.retraining; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ["training_profile.json", "profile.json", None])
def test_profile_when_published_under_either_name_then_is_read(project, name):  # noqa: F811
    files = {} if name is None else {name: '{"idc_share": 0.3}'}
    version = project.registry().load(project.add_version("r1", files=files))
    profile = _load_profile(project.registry(), version)
    assert profile == (None if name is None else {"idc_share": 0.3})


@pytest.fixture
def ingested(project, make_index):  # noqa: F811
    """An archive of two training cases and a darker new one; the profile knows the first two."""
    index = make_index({"a": (8, 4), "b": (8, 4), "new": (6, 6)})
    pixels = np.random.default_rng(4).integers(120, 220, (len(index), 50, 50, 3), np.uint8)
    pixels[index["case"] == "new"] -= 100
    save_table(project.root / layout.INDEX, index, INDEX_SCHEMA)
    np.save(project.root / layout.PIXELS, pixels)
    known = index[index["case"] != "new"]
    return build_profile(known, known.assign(split="train"), pixels)


def add_champion(project, **options):  # noqa: F811
    version = project.add_version("r1", **options)
    project.client.set_registered_model_alias("idc-fusion", "champion", version)


def test_drift_report_when_a_new_case_is_darker_then_names_it_and_the_champion(
    project, ingested  # noqa: F811
):  # fmt: skip
    add_champion(project, files={layout.TRAINING_PROFILE.name: json.dumps(ingested)})
    report = write_drift_report(project.root, project.params)
    assert json.loads((project.root / layout.DRIFT).read_text()) == report
    assert (report["champion"], report["new_cases"], report["num_patches"]) == ("1", ["new"], 12)
    assert {"mean_red", "mean_optical_density"} <= set(report["drifted"])
    assert report["figures"]["mean_red"]["shift"] < -1
    assert np.isfinite(report["figures"]["embedding"]["shift"])  # by the champion's own network


@pytest.mark.parametrize("has_champion", [False, True])
def test_drift_report_when_there_is_nothing_to_compare_with_then_there_is_none(
    project, ingested, caplog, has_champion  # noqa: F811
):  # fmt: skip
    caplog.set_level("INFO")
    if has_champion:
        add_champion(project)  # of an earlier version, which kept no profile
    assert write_drift_report(project.root, project.params) is None
    assert not (project.root / layout.DRIFT).exists()
    why = "has no training_profile.json" if has_champion else "there is no champion yet"
    assert why in caplog.text
