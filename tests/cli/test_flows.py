"""Commands that go on as a Prefect flow: what they start, and what they reject before."""

import json
import os
import socket
import sys

import pytest

from idc.cli import EXIT_INPUT, main

SWEEP = """\
name: rates
overrides: {}
grid: {train.learning_rate: [0.001, 0.002]}
max_parallel: 1
gpu_slots: null
"""


class StartedError(Exception):
    """Stands for the process becoming another one."""


@pytest.fixture
def started(project, monkeypatch):
    """What the process would have become: program, arguments, environment."""
    calls = []

    def execve(program, arguments, environment):
        calls.append((program, arguments, environment))
        raise StartedError

    monkeypatch.setattr(os, "execve", execve)
    return calls


@pytest.fixture
def start(project, started):
    """`start("pipeline")`: run a command and return the arguments of the program it becomes."""

    def run(*arguments):
        with pytest.raises(StartedError):
            main(arguments)
        ((program, arguments, environment),) = started
        assert program == arguments[0] == sys.executable
        assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(project / "src")
        return arguments[1:]

    return run


@pytest.mark.parametrize(
    ("command", "module"), [("pipeline", "flows.pipeline"), ("retrain", "flows.retraining")]
)
def test_flow_when_no_value_is_changed_then_it_starts_without_arguments(start, command, module):
    assert start(command) == ["-m", module]


def test_flow_when_values_are_changed_then_set_wins_over_the_file(start, project):
    (project / "mine.yaml").write_text("train: {epochs: 2, batch_size: 8}\n")
    changes = ("--config", "mine.yaml", "--set", "train.epochs=3", "model.pretrained=none")
    module, overrides = start("pipeline", *changes)[1:]
    assert module == "flows.pipeline"
    assert json.loads(overrides) == {
        "train.epochs": 3, "train.batch_size": 8, "model.pretrained": "none",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "train.epoch=3"], "train.epoch"),
        (["--set", "train.epochs=0"], "train.epochs = 0"),
        (["--set", "train.epochs"], "write KEY=VALUE, such as train.epochs=3"),
        (["--config", "none.yaml"], "none.yaml"),
    ],
)
@pytest.mark.parametrize("command", ["pipeline", "retrain"])
def test_flow_when_a_value_is_wrong_then_one_line_says_so_and_nothing_starts(
    started, project, capsys, command, options, said
):
    assert main([command, *options]) == EXIT_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert started == []


def test_sweep_when_its_plan_holds_then_the_flow_starts_with_it(start, project):
    (project / "mine.yaml").write_text(SWEEP)
    assert start("sweep", "mine.yaml") == ["-m", "flows.sweep", "mine.yaml"]


def test_sweep_when_a_point_is_wrong_then_names_it_and_nothing_starts(started, project, capsys):
    (project / "mine.yaml").write_text(SWEEP.replace("0.002", "-1"))
    assert main(["sweep", "mine.yaml"]) == EXIT_INPUT
    assert "mine.yaml: learning_rate=-1" in capsys.readouterr().err
    assert started == []


def test_sweep_when_no_plan_is_named_then_it_is_the_projects_own(start, project, project_root):
    (project / "configs").mkdir()
    own = (project_root / "configs/sweep.yaml").read_text()
    (project / "configs/sweep.yaml").write_text(own)
    assert start("sweep") == ["-m", "flows.sweep", "configs/sweep.yaml"]


@pytest.mark.parametrize("command", ["pipeline", "retrain"])
def test_flow_when_its_server_is_down_then_one_line_says_so_and_nothing_starts(
    started, project, capsys, monkeypatch, command
):
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert main([command]) == EXIT_INPUT
    assert not started
    (line,) = capsys.readouterr().err.splitlines()
    assert f"PREFECT_API_URL: no Prefect server answers at {url}" in line
    assert "unset the variable" in line
