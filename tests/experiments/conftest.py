import shutil

import pytest
import yaml


@pytest.fixture
def project(tmp_path, monkeypatch, project_root):
    content = yaml.safe_load((project_root / "params.yaml").read_text(encoding="utf-8"))
    content["evaluate"]["num_replicates"] = 100
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    shutil.copy2(project_root / "dvc.yaml", tmp_path)  # the mark of a project
    monkeypatch.chdir(tmp_path)
    return tmp_path
