"""The hooks that look at a commit before it is made."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def commit(project_root, tmp_path):
    """`commit(name=bytes)`: what `git commit` of such files says, and its exit code."""
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copy(project_root / name, tmp_path)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": programs, "PRE_COMMIT_HOME": str(tmp_path / ".cache")}
    environment |= {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org"}
    environment |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org"}

    def run(*command):
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    assert run("git", "init", "-q").returncode == 0
    assert run(sys.executable, "-m", "pre_commit", "install").returncode == 0

    def commit(**files):
        for name, content in files.items():
            path = tmp_path / name.replace("_", ".")
            path.write_bytes(content)
            run("git", "add", path.name)
        done = run("git", "commit", "-m", "try")
        return done.returncode, done.stdout + done.stderr

    return commit


def test_commit_when_nothing_is_wrong_then_it_is_made(commit):
    code, said = commit(good_py=b'"""A module."""\n')
    assert code == 0, said


@pytest.mark.parametrize(
    ("name", "content", "hook"),
    [
        ("weights_bin", bytes(501 * 1024), "large-files"),
        ("id_txt", b"-----BEGIN OPENSSH " + b"PRIVATE KEY-----\n", "private-keys"),
        ("misspelt_md", b"We rec" + b"ieve patches.\n", "codespell"),
        ("bad_py", b'"""A module."""\n\nimport os\n', "ruff-check"),
        ("wide_py", b'"""A module."""\n\nNUMBERS = [1,2]\n', "ruff-format"),
    ],
)
def test_commit_when_a_file_has_the_fault_then_its_hook_stops_it(commit, name, content, hook):
    code, said = commit(**{name: content})
    assert code == 1
    assert f"hook id: {hook}" in said
