import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from idc.runs import killed_dvc
from idc.runs.killed_dvc import remove_empty_entries, remove_torn_locks
from idc.runs.workspace import stage_environment


def dvc(project, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project, env=stage_environment(project), capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("where", [None, "elsewhere"])
def test_run_cache_when_an_entry_was_left_empty_then_removing_it_lets_the_stage_run(
    tmp_path, where
):
    dvc(tmp_path, "init", "--quiet", "--no-scm")
    if where is not None:
        dvc(tmp_path, "cache", "dir", where)
    stage = {"cmd": "cp in out", "deps": ["in"], "outs": ["out"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": stage}}))
    (tmp_path / "in").write_text("1")
    assert dvc(tmp_path, "repro").returncode == 0
    assert remove_empty_entries(tmp_path) == 0
    (entry,) = (tmp_path / (where or ".dvc/cache")).glob("runs/*/*/*")
    entry.unlink()  # as a DVC that was killed between making the folder and the file leaves it
    (tmp_path / "dvc.lock").unlink()
    (tmp_path / "out").unlink()
    assert "join() argument must be str" in dvc(tmp_path, "repro").stderr
    assert remove_empty_entries(tmp_path) == 0  # as young as one that is about to be filled
    os.utime(entry.parent, (0, 0))
    assert remove_empty_entries(tmp_path) == 1
    assert dvc(tmp_path, "repro").returncode == 0
    assert (tmp_path / "out").read_text() == "1"


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("dir = ../elsewhere", "elsewhere"),
        ("dir = '../two words'  # shared", "two words"),
        ('dir = "../a # b"', "a # b"),
        ("dir = ../elsewhere # shared", "elsewhere"),
        ("dir = ~/elsewhere", "home/elsewhere"),
        ("type = hardlink", ".dvc/cache"),
    ],
)
def test_run_cache_when_it_is_named_as_dvc_reads_it_then_it_is_found(
    tmp_path, monkeypatch, line, where
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(f"[core]\n    no_scm = true\n[cache]\n    {line}\n")
    entry = tmp_path / where / "runs/ab/abcd"
    entry.mkdir(parents=True)
    os.utime(entry, (0, 0))
    assert remove_empty_entries(tmp_path) == 1


@pytest.mark.parametrize("content", [b"dir = x\n", b"[cache\ndir = x\n", b"[cache]\ndir = \xff\n"])
def test_run_cache_when_dvcs_settings_are_damaged_then_dvc_itself_may_say_so(tmp_path, content):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_bytes(content)
    assert remove_empty_entries(tmp_path) == 0


def test_run_cache_when_there_is_none_then_nothing_happens(tmp_path):
    assert remove_empty_entries(tmp_path) == 0


@pytest.mark.slow
def test_locks_when_dvc_was_killed_while_it_wrote_them_then_removing_them_lets_it_run(tmp_path):
    dvc(tmp_path, "init", "--quiet", "--no-scm")
    stage = {"cmd": "touch out", "outs": ["out"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"touch": stage}}))
    (tmp_path / ".dvc/tmp").mkdir(exist_ok=True)
    (tmp_path / ".dvc/tmp/rwlock").touch()
    assert "Unable to read RWLock-file" in dvc(tmp_path, "repro").stderr
    assert remove_torn_locks(tmp_path)
    assert dvc(tmp_path, "repro").returncode == 0
    assert not remove_torn_locks(tmp_path)


def test_locks_when_they_are_whole_or_there_are_none_then_they_stay(tmp_path):
    assert not remove_torn_locks(tmp_path)
    locks = tmp_path / ".dvc/tmp/rwlock"
    locks.parent.mkdir(parents=True)
    locks.write_text("{}")
    assert not remove_torn_locks(tmp_path)
    assert locks.read_text() == "{}"


def test_locks_when_they_cannot_be_read_or_removed_then_dvc_itself_may_say_so(
    tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise PermissionError

    locks = tmp_path / ".dvc/tmp/rwlock"
    locks.parent.mkdir(parents=True)
    locks.touch()
    monkeypatch.setattr(killed_dvc, "_WRITTEN_S", 0.0)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert not remove_torn_locks(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert not remove_torn_locks(tmp_path)
