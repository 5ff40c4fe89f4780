import shutil
from pathlib import Path

import pytest

from idc.core.git import git

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path):
    """A repository of git with the project's parameters, its graph and one file of code."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("params.yaml", "dvc.yaml", ".gitignore"):
        shutil.copy2(ROOT / name, root)
    (root / "src").mkdir()
    (root / "src/code.py").write_text("A = 1\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root
