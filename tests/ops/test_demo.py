"""The demo around its pipeline: what it starts, in which environment, and what it returns."""

import subprocess

import pytest

from idc.core.errors import StageFailedError
from idc.core.files import save_json
from idc.ops import demo

METRICS = {
    "test/auroc": 0.9, "test/auroc_low": 0.8, "test/auroc_high": 0.95, "test_colour/auroc": 0.7,
    "fusion_minus_colour/auroc": 0.2, "fusion_minus_colour/auroc_low": 0.1,
    "fusion_minus_colour/auroc_high": 0.3,
}  # fmt: skip


@pytest.fixture
def machine(tmp_path, monkeypatch, project_root):
    """A machine whose shell points at servers of its own; commands only leave the metrics."""
    started = []
    codes = {}

    def copy_project(root, folder, overrides):
        assert overrides["model.pretrained"] == "none"
        folder.mkdir(parents=True)
        return folder

    def run(command, *, cwd, env):
        started.append((command[2:], cwd, env))
        save_json(cwd / "reports/metrics.json", METRICS)
        return subprocess.CompletedProcess(command, codes.get(command[3], 0))

    monkeypatch.setattr(demo, "copy_project", copy_project)
    monkeypatch.setattr(subprocess, "run", run)
    for name in ("PREFECT_API_URL", "PREFECT_API_KEY", "IDC_NOTIFY_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "https://production")
    (tmp_path / "configs").mkdir()
    changes = (project_root / "configs/demo.yaml").read_text()
    (tmp_path / "configs/demo.yaml").write_text(changes)
    return tmp_path, started, codes


def test_demo_when_run_then_draws_an_archive_and_starts_the_pipeline_in_its_folder(machine):
    root, started, _ = machine
    made = demo.run_demo(root)
    folder = root / ".workspaces/demo"
    assert [command[:2] for command, _, _ in started] == [["idc", "synth"], ["idc", "pipeline"]]
    assert started[0][0][2] == str(folder / "data/raw/synthetic.zip")
    assert {cwd for _, cwd, _ in started} == {folder}
    assert made.report == folder / "reports/index.html"
    assert made.store == f"sqlite:///{folder}/mlruns/mlflow.db"
    assert (made.auroc, made.colour_auroc) == ((0.9, 0.8, 0.95), 0.7)
    assert made.difference == (0.2, 0.1, 0.3)
    assert made.beats_colour


def test_demo_when_servers_are_configured_then_none_of_them_is_inherited(machine):
    root, started, _ = machine
    demo.run_demo(root)
    for _, cwd, environment in started:
        assert "https://production" not in environment.values()
        assert environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{cwd}/mlruns/mlflow.db"
        assert environment["PREFECT_HOME"] == str(cwd / ".prefect")


@pytest.mark.parametrize(("failing", "num_started"), [("synth", 1), ("pipeline", 2)])
def test_demo_when_a_command_fails_then_it_is_named_and_nothing_follows(
    machine, failing, num_started
):
    root, started, codes = machine
    codes[failing] = 1
    with pytest.raises(StageFailedError, match=f"idc {failing} failed in .*demo"):
        demo.run_demo(root)
    assert len(started) == num_started
