"""What `idc lineage` says, and that it says what it does not know."""

import pytest

from idc.core.errors import InputError
from idc.lifecycle.reproduction.chain import trace
from idc.runs.lineage import folder_md5

LOCK = """schema: '2.0'
stages:
  ingest:
    deps:
    - {{path: data/raw, md5: {raw}}}
  sample:
    outs:
    - {{path: data/manifest.csv, md5: manifest-md5}}
"""


def chain_of(project, version):
    return {link.name: link for link in trace(project.root, project.params, version)}


@pytest.fixture
def raw(project):
    folder = project.root / "data/raw"
    folder.mkdir(parents=True)
    (folder / "a.zip").write_bytes(b"archive")
    return folder


def test_trace_when_all_is_recorded_then_names_every_link(project, raw):
    version = project.add_version("r1", files={"dvc.lock": LOCK.format(raw=folder_md5(raw))})
    chain = chain_of(project, version)
    assert chain["raw archive"].value == f"md5 {folder_md5(raw)}"
    assert chain["raw archive"].remark == "data/raw holds it"
    assert chain["manifest"].value == "md5 manifest-md5"
    assert "the version says r1" in chain["dvc.lock"].remark
    weights = project.registry().load(version).model_digest
    assert (chain["git commit"].value, chain["weights"].value) == ("abc", weights)
    assert chain["git commit"].remark == "not in the git of this clone"
    assert chain["model version"].remark == "challenger"
    assert chain["decision"].value == "none yet"


def test_trace_when_the_archive_is_another_then_says_so(project, raw):
    version = project.add_version("r1", files={"dvc.lock": LOCK.format(raw="other.dir")})
    assert chain_of(project, version)["raw archive"].remark == "data/raw holds another archive now"


def test_trace_when_the_lock_was_not_recorded_then_says_what_is_not_known(project):
    version = project.add_version("r1")
    link = chain_of(project, version)["raw archive"]
    assert link.value is None
    assert "not known" in str(link)
    assert "holds no dvc.lock" in link.remark


def test_trace_when_there_is_no_such_version_then_names_those_there_are(project):
    project.add_version("r1")
    with pytest.raises(InputError, match="no idc-fusion version 7; it has 1"):
        trace(project.root, project.params, "7")


def test_trace_when_decisions_were_logged_then_each_is_a_link_of_both_versions(project):
    first, second = project.add_version("r1"), project.add_version("r2")
    registry = project.registry()
    before = registry.load(first)
    registry.log_decision("promote", before=before, version=registry.load(second), content={})
    project.client.set_registered_model_alias("idc-fusion", "champion", second)
    for version in (first, second):
        decision = chain_of(project, version)["decision"]
        assert decision.value == "promote 2"
        assert "champion before: 1" in decision.remark
    assert chain_of(project, second)["model version"].remark == "challenger, champion"


def test_trace_when_the_lock_lacks_a_stage_and_the_clone_the_data_then_says_so(project):
    lock = "stages:\n  ingest:\n    deps:\n    - {path: data/raw, md5: a.dir}\n"
    chain = chain_of(project, project.add_version("r1", files={"dvc.lock": lock}))
    assert chain["raw archive"].remark == "there is no data/raw here"
    assert chain["manifest"].value is None
    assert "records no data/manifest.csv of stage sample" in chain["manifest"].remark


@pytest.mark.parametrize(
    ("commit", "value", "remark"),
    [
        ("none", None, "it was made without git"),
        ("abc-dirty", "abc", "tracked files were modified, not in the git of this clone"),
    ],
)
def test_trace_when_the_code_was_not_a_commit_then_says_so(project, commit, value, remark):
    version = project.add_version("r1")
    project.client.set_model_version_tag("idc-fusion", version, "git_commit", commit)
    link = chain_of(project, version)["git commit"]
    assert (link.value, link.remark) == (value, remark)


def test_trace_when_there_is_no_store_then_says_so_and_creates_none(tmp_path, change_params):
    with pytest.raises(InputError, match="no idc-fusion version 1: the MLflow store is empty"):
        trace(tmp_path, change_params(), "1")
    assert list(tmp_path.iterdir()) == []
