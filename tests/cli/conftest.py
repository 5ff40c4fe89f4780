import shutil

import pytest


@pytest.fixture
def project(tmp_path, monkeypatch, project_root):
    """The project's parameters and graph in an otherwise empty folder, which is the current one."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(project_root / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
