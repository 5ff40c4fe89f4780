"""Server, worker and UI of one machine, and what a run survives when one of them is killed.

One set of services serves the whole module; every process is killed by its recorded number.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import mlflow
import psutil
import pytest

from idc.core.files import load_json
from idc.core.git import git
from idc.core.layout import PUBLISHED
from idc.runs.workspace import WORKSPACES, copy_project, list_workspaces, stage_environment
from tests.receiver import Receiver, receiving
from tests.small_run import SMALL
from tests.waiting import has_ended, wait_until

ROOT = Path(__file__).parents[2]
OVERRIDES = SMALL | {"runtime.checkpoint_interval_s": 0}
SLOW_RETRAINING = '''"""Stands for the real one: takes its time, changes nothing."""

import time

from prefect import flow


@flow(name="retraining")
def retraining(overrides: dict | None = None) -> None:
    time.sleep(45)
'''

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]


class Machine:
    """A small clone with services of its own."""

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        self.receiver = receiver
        self.folder = copy_project(ROOT, folder / "a clone", OVERRIDES)
        for name in (".gitignore", ".dvc/.gitignore", "prefect.yaml"):
            shutil.copy2(ROOT / name, self.folder / name)
        (self.folder / "flows/retraining.py").write_text(SLOW_RETRAINING)
        (self.folder / ".dvc/config.local").unlink()
        git(self.folder, "init", "--quiet")
        git(self.folder, "add", ".")
        git(self.folder, "commit", "--quiet", "-m", "first")
        self.server_port, self.ui_port = free_port(), free_port()
        kept = {k: v for k, v in stage_environment(self.folder).items() if "MLFLOW_T" not in k}
        self._environment = kept | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_API_PORT": str(self.server_port),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.server_port}/api",
            "MLFLOW_PORT": str(self.ui_port),
            "IDC_NOTIFY_URL": receiver.url,
        }
        size = ("--cases", "16", "--patches-per-case", "16")
        self.run("idc", "synth", "data/raw/synthetic.zip", *size)

    def run(self, *command: str, expect: int | None = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder, env=self._environment, capture_output=True, text=True,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert expect in (done.returncode, None), f"{command}: {output[-3000:]}"
        return output

    def start_run(self, name: str, overrides: dict[str, object]) -> str:
        """Start a run of a deployment; return its id."""
        output = self.run("prefect", "deployment", "run", name, "--param",
                          f"overrides={json.dumps(overrides)}")  # fmt: skip
        return re.search(r"UUID: (\S+)", output).group(1)

    def state(self, run_id: str) -> str:
        return self.ask(f"/flow_runs/{run_id}")["state"]["name"]

    def wait_for(self, run_id: str, *states: str) -> str:
        return wait_until(lambda: self.state(run_id) in states and self.state(run_id), str(states))

    def message(self, run_id: str) -> str:
        return self.ask(f"/flow_runs/{run_id}")["state"]["message"]

    def ask(self, path: str) -> dict[str, object]:
        url = f"http://127.0.0.1:{self.server_port}/api{path}"
        with closing(urllib.request.urlopen(url, timeout=60)) as answer:
            return json.loads(answer.read())

    def workspace(self, run_id: str) -> Path:
        (found,) = (self.folder / WORKSPACES).glob(f"*-{run_id[:8]}")
        return found

    def trainer(self, run_id: str) -> int | None:
        """Return the number of the process that trains in the run's workspace."""
        for process in psutil.process_iter(["cmdline", "cwd"]):
            command = " ".join(process.info["cmdline"] or [])
            if "idc train" in command and f"-{run_id[:8]}" in (process.info["cwd"] or ""):
                return process.pid
        return None

    def flow_process(self, run_id: str) -> int:
        """Return the number of the process that the flow itself runs in."""
        process = psutil.Process(self.trainer(run_id))
        while "prefect.engine" not in " ".join(process.cmdline()):
            process = process.parent()
        return process.pid

    def told(self, run_id: str) -> list[dict[str, str]]:
        """Return what the receiver was told of a run."""
        name = self.ask(f"/flow_runs/{run_id}")["name"]
        return [item for item in self.receiver.got if f" {name}:" in item["subject"]]

    def has_checkpoint(self, run_id: str) -> bool:
        folders = (self.folder / WORKSPACES).glob(f"*-{run_id[:8]}")
        return any(list(folder.glob(".idc/checkpoints/*/*.pt")) for folder in folders)

    def pid(self, service: str) -> int:
        return load_json(self.folder / f".idc/services/{service}.json")["process"]["pid"]

    def runs(self) -> list[mlflow.entities.Run]:
        uri = f"sqlite:///{self.folder}/mlruns/mlflow.db"
        client = mlflow.MlflowClient(uri, uri)
        experiments = [item.experiment_id for item in client.search_experiments()]
        return list(client.search_runs(experiments))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    with receiving() as receiver:
        machine = Machine(tmp_path_factory.mktemp("machine"), receiver)
        try:
            machine.run("idc", "up")
            yield machine
        finally:
            machine.run("idc", "down")


def test_services_when_started_twice_then_the_first_stay_and_doctor_misses_nothing(machine):
    before = {name: machine.pid(name) for name in ("prefect-server", "worker", "mlflow")}
    assert "worker is already running" in machine.run("idc", "up")
    assert {name: machine.pid(name) for name in before} == before
    said = machine.run("idc", "doctor")
    for line in (
        "ok       Prefect server:", "ok       work pool idc: process", "ok       worker:",
        "ok       deployment pipeline/local:",
        "ok       deployment retraining/local: 0 2 * * 1 (paused)",
    ):  # fmt: skip
        assert line in said


def test_schedule_when_it_is_switched_on_then_the_server_schedules_runs(machine):
    (schedule,) = machine.ask("/deployments/name/retraining/local")["schedules"]
    machine.run("prefect", "deployment", "schedule", "resume", "retraining/local", schedule["id"])
    try:
        said = wait_until(
            lambda: re.search(
                r"retraining/local: 0 2 \* \* 1 \(on\), next \S+ 02:00 UTC",
                machine.run("idc", "doctor", expect=None),
            ),
            "a scheduled run",
        )
        assert said
    finally:
        machine.run(
            "prefect", "deployment", "schedule", "pause", "retraining/local", schedule["id"]
        )


def test_services_when_the_port_is_taken_by_another_then_it_says_which_variable_moves_it(tmp_path):
    other = copy_project(ROOT, tmp_path / "other", OVERRIDES)
    shutil.copy2(ROOT / "prefect.yaml", other)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "idc", "up"], cwd=other, capture_output=True,
            env=stage_environment(other) | {"PREFECT_SERVER_API_PORT": str(port)}, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert f"port {port} is taken by another process" in done.stderr
    assert "set PREFECT_SERVER_API_PORT to a free port" in done.stderr
    assert not list(other.glob(".idc/services/*.json"))


def test_two_runs_when_at_once_then_both_finish_right_and_watching_one_exits_with_0(machine):
    other = machine.start_run("pipeline/local", {"train.epochs": 2})
    watched = machine.run(
        "prefect", "deployment", "run", "pipeline/local", "--watch",
        "--param", 'overrides={"evaluate.threshold_rule": "f1"}', expect=0,
    )  # fmt: skip
    ids = [other, re.search(r"UUID: (\S+)", watched).group(1)]
    assert machine.state(ids[1]) == "Completed"
    assert machine.wait_for(other, "Completed", "Failed", "Crashed") == "Completed", (
        machine.message(other)
    )
    assert [machine.told(run_id) for run_id in ids] == [[], []]
    published = [load_json(machine.workspace(run_id) / PUBLISHED) for run_id in ids]
    by_id = {run.info.run_id: run for run in machine.runs()}
    params = [by_id[item["run_id"]].data.params for item in published]
    assert [item["train.epochs"] for item in params] == ["2", "1"]
    assert [item["evaluate.threshold_rule"] for item in params] == ["youden", "f1"]
    head = git(machine.folder, "rev-parse", "HEAD")
    assert {by_id[item["run_id"]].data.tags["git_commit"] for item in published} == {head}
    tags = git(machine.folder, "tag", "--list", "idc-run/*").splitlines()
    assert set(tags) == {f"idc-run/{item['result_digest'][:12]}" for item in published}
    assert {item.folder for item in list_workspaces(machine.folder)} == {
        machine.workspace(run_id) for run_id in ids
    }
    assert git(machine.folder, "status", "--porcelain", "-uno") == ""


def test_run_when_an_override_is_wrong_then_watching_it_exits_by_the_result(machine):
    output = machine.run(
        "prefect", "deployment", "run", "pipeline/local", "--watch",
        "--param", 'overrides={"train.epoch": 3}', expect=1,
    )  # fmt: skip
    assert "Failed" in output
    run_id = re.search(r"UUID: (\S+)", output).group(1)
    (told,) = machine.told(run_id)
    assert told["event"] == "failure"
    assert "override train.epoch: params.yaml has no such parameter" in told["text"]


def test_run_when_its_flow_is_killed_then_no_trainer_is_left_and_the_crash_is_reported(machine):
    run_id = machine.start_run("pipeline/local", {"train.epochs": 39, "train.patience": 39})
    wait_until(lambda: machine.has_checkpoint(run_id), "a checkpoint")
    trainer = machine.trainer(run_id)
    os.kill(machine.flow_process(run_id), signal.SIGKILL)
    wait_until(lambda: has_ended(trainer), "the end of the training")
    assert machine.wait_for(run_id, "Failed", "Crashed") == "Crashed"
    wait_until(lambda: machine.told(run_id), "the message")
    (told,) = machine.told(run_id)
    assert (told["event"], told["subject"].rpartition(": ")[2]) == ("failure", "crashed")
    (run,) = (run for run in machine.runs() if run.data.params["train.epochs"] == "39")
    assert f"closed MLflow run {run.info.run_id}" in machine.run("idc", "gc", "--yes")
    assert [item.info.status for item in machine.runs() if item.info.run_id == run.info.run_id] == [
        "KILLED"
    ]
    assert machine.workspace(run_id).is_dir()  # for a retry


def test_run_when_cancelled_in_mid_training_then_no_trainer_is_left(machine):
    run_id = machine.start_run("pipeline/local", {"train.epochs": 42, "train.patience": 42})
    wait_until(lambda: machine.has_checkpoint(run_id), "a checkpoint")
    trainer = machine.trainer(run_id)
    machine.run("prefect", "flow-run", "cancel", run_id)
    wait_until(lambda: has_ended(trainer), "the end of the training")
    assert machine.trainer(run_id) is None
    assert machine.wait_for(run_id, "Cancelled", "Completed", "Crashed") == "Cancelled"


def test_run_when_its_worker_is_killed_in_mid_training_then_no_trainer_is_left_and_a_retry_resumes(
    machine,
):
    run_id = machine.start_run("pipeline/local", {"train.epochs": 40, "train.patience": 40})
    wait_until(lambda: machine.has_checkpoint(run_id), "a checkpoint")
    trainer = machine.trainer(run_id)
    os.kill(machine.pid("worker"), signal.SIGKILL)
    wait_until(lambda: has_ended(trainer), "the end of the training")
    assert machine.trainer(run_id) is None
    machine.wait_for(run_id, "Failed", "Crashed")
    (interrupted,) = (run for run in machine.runs() if run.data.params["train.epochs"] == "40")

    assert "worker answers" in machine.run("idc", "up")
    machine.run("prefect", "flow-run", "retry", run_id)
    assert machine.wait_for(run_id, "Completed", "Failed", "Crashed") == "Completed"
    (resumed,) = (run for run in machine.runs() if run.data.params["train.epochs"] == "40")
    assert resumed.info.run_id == interrupted.info.run_id
    assert resumed.info.status == "FINISHED"
    assert load_json(machine.workspace(run_id) / PUBLISHED)["run_id"] == resumed.info.run_id


def test_run_when_the_server_is_restarted_meanwhile_then_it_still_completes(machine):
    run_id = machine.start_run("pipeline/local", {"train.epochs": 41, "train.patience": 41})
    wait_until(lambda: machine.has_checkpoint(run_id), "a checkpoint")
    os.kill(machine.pid("prefect-server"), signal.SIGKILL)
    wait_until(lambda: has_ended(machine.pid("prefect-server")), "the end of the server")
    machine.run("idc", "up")
    assert machine.wait_for(run_id, "Completed", "Failed", "Crashed") == "Completed", (
        machine.message(run_id)
    )
    (run,) = (run for run in machine.runs() if run.data.params["train.epochs"] == "41")
    assert run.info.status == "FINISHED"
    assert load_json(machine.workspace(run_id) / PUBLISHED)["run_id"] == run.info.run_id


def test_retrainings_when_two_start_at_once_then_one_runs_and_one_is_cancelled(machine):
    machine.run("idc", "up")  # a worker may have given up while the server was away
    ids = [machine.start_run("retraining/local", {}) for _ in range(2)]
    ends = [machine.wait_for(run_id, "Completed", "Cancelled", "Failed") for run_id in ids]
    assert sorted(ends) == ["Cancelled", "Completed"]


def test_services_when_ended_then_none_of_their_processes_is_left(machine):
    pids = {name: machine.pid(name) for name in ("prefect-server", "worker", "mlflow")}
    machine.run("idc", "down")
    assert all(has_ended(pid) for pid in pids.values())
    assert not list(machine.folder.glob(".idc/services/*.json"))
    assert "off      Prefect server: none" in machine.run("idc", "doctor")
