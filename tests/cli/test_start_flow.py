import os
from pathlib import Path

import pytest

from idc.cli.pipeline import start_flow


class ReplacedError(Exception):
    """Stands for the process that goes on as the flow."""


def test_start_flow_when_the_clone_is_fresh_then_prefect_finds_its_folder(project, monkeypatch):
    started = {}

    def replace_process(_program, command, environment):
        started.update(environment, command=command)
        raise ReplacedError

    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(os, "execve", replace_process)
    assert not (project / ".idc").exists()
    with pytest.raises(ReplacedError):
        start_flow("flows.sweep", "plan.yaml")
    assert started["command"][-2:] == ["flows.sweep", "plan.yaml"]
    assert started["PREFECT_HOME"] == str(project / ".idc/prefect")
    assert Path(started["PREFECT_HOME"]).is_dir()
