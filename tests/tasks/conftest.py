from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content["evaluate"]["num_replicates"] = 100
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path
