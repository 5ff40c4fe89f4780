import json
import subprocess
import sys

import pytest
import yaml

from idc.cli import main
from idc.runs.plan import plan_run
from idc.runs.workspace import stage_environment


@pytest.fixture
def project(tmp_path):
    """Three stages in a row and one beside them, all run once."""
    copy = "python -c \"import shutil; shutil.copy('{}', '{}')\""
    stages = {
        "sample": {"cmd": copy.format("a", "b"), "deps": ["a"], "outs": ["b"]},
        "split": {"cmd": copy.format("b", "c"), "deps": ["b"], "outs": ["c"]},
        "train": {
            "cmd": copy.format("c", "d"), "deps": ["c"], "outs": ["d"], "params": ["train"],
        },
        "report": {"cmd": copy.format("e", "f"), "deps": ["e"], "outs": ["f"]},
    }  # fmt: skip
    for name in ("a", "e"):
        (tmp_path / name).write_text(name)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (tmp_path / "params.yaml").write_text("train: {epochs: 1}\n")
    for arguments in (("init", "--no-scm"), ("repro", "--quiet")):
        subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=tmp_path, env=stage_environment(tmp_path), check=True, capture_output=True,
        )  # fmt: skip
    return tmp_path


def test_plan_when_inputs_changed_then_each_stage_says_why_and_what_it_waits_for(
    project, monkeypatch, capsys
):
    assert [(s.reasons, s.after) for s in plan_run(project)] == [((), ())] * 4

    (project / "a").write_text("changed")
    (project / "params.yaml").write_text("train: {epochs: 2}\n")
    (project / "f").unlink()
    stages = plan_run(project)
    planned = {stage.name: (stage.reasons, stage.after) for stage in stages}
    assert [stage.name for stage in stages if stage.restorable] == ["report"]
    assert planned["sample"] == (("a modified",), ())
    assert planned["split"] == ((), ("sample",))
    assert planned["train"] == (("train modified",), ("split",))
    assert planned["report"] == (("f deleted",), ())

    monkeypatch.chdir(project)
    assert main(["plan"]) == 0
    assert set(capsys.readouterr().out.splitlines()) == {
        "sample    runs: a modified",
        "split     runs if what it reads changes: after sample",
        "train     runs: train modified",
        "report    comes back from the cache, else runs: f deleted",
    }

    (project / "dvc.lock").unlink()
    assert json.dumps(plan_run(project)[0].reasons) == '["it never ran"]'
