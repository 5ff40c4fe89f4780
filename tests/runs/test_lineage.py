import hashlib
import subprocess

import pytest
import yaml

from idc.core.errors import InputError
from idc.runs.lineage import (
    git_commit,
    load_lock,
    recorded_md5,
    reject_unrecorded_results,
    result_digest,
)


def stages(md5="1"):
    return {
        "train": {"deps": [{"path": "data", "md5": "d.dir"}], "outs": [{"path": "m", "md5": md5}]},
        "publish": {"outs": [{"path": "p", "md5": "9"}]},
    }


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "a.txt").write_text("a")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-m", "a")
    return tmp_path


def test_git_commit_when_clean_then_is_forty_hex_digits(repository):
    assert len(bytes.fromhex(git_commit(repository))) == 20


def test_git_commit_when_a_tracked_file_changed_then_says_dirty(repository):
    clean = git_commit(repository)
    (repository / "a.txt").write_text("b")
    assert git_commit(repository) == f"{clean}-dirty"


def test_git_commit_when_below_another_repository_then_is_none(repository):
    (repository / "below").mkdir()
    assert git_commit(repository / "below") == "none"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "stages:\n<<<<<<< HEAD\n  a: 1\n=======\n>>>>>>> x\n",
            "conflict markers.*--ours dvc.lock",
        ),
        ("stages: [", "dvc.lock is not YAML"),
        ("schema: '2.0'\n", "dvc.lock records no stages: restore it"),
        ("", "dvc.lock records no stages"),
    ],
)
def test_load_lock_when_damaged_then_says_so_in_a_line(tmp_path, content, says):
    (tmp_path / "dvc.lock").write_text(content)
    with pytest.raises(InputError, match=says):
        load_lock(tmp_path)


def test_load_lock_when_missing_then_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="run `dvc repro` first"):
        load_lock(tmp_path)


def test_load_lock_when_there_then_returns_its_stages(tmp_path):
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages()}))
    assert load_lock(tmp_path) == stages()


def test_result_digest_when_only_publish_differs_then_stays_the_same():
    assert result_digest(stages()) == result_digest({"train": stages()["train"]})


def test_result_digest_when_an_output_differs_then_differs():
    assert result_digest(stages("1")) != result_digest(stages("2"))


def test_recorded_md5_when_recorded_then_finds_dependencies_and_outputs():
    found = [recorded_md5(stages(), "train", path) for path in ("data", "m")]
    assert found == ["d.dir", "1"]


def test_recorded_md5_when_the_stage_has_not_run_then_says_what_to_run():
    with pytest.raises(InputError, match="run `dvc repro sample`"):
        recorded_md5(stages(), "sample", "data/manifest.csv")


def test_refuse_unrecorded_results_when_a_file_was_edited_then_names_it(tmp_path):
    (tmp_path / "m").write_text("old")
    recorded = stages(hashlib.md5(b"old", usedforsecurity=False).hexdigest())
    reject_unrecorded_results(tmp_path, recorded)
    (tmp_path / "m").write_text("new")
    with pytest.raises(InputError, match=r"m is not what dvc\.lock records"):
        reject_unrecorded_results(tmp_path, recorded)
