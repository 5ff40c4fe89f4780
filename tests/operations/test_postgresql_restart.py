"""PostgreSQL restarted under ten runs that tell MLflow of a training and publish its result.

The cluster is the test's own: that of the machine serves others.
"""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from idc.core.errors import EXIT_UNAVAILABLE
from tests.operations.servers import free_port, mlflow_server

NUM_RUNS, NUM_RESTARTS = 10, 3
NUM_RETRIES = 12  # as tasks/stages.py and idc.ops.stage_runner have it
TELL_AND_PUBLISH = f"""
import pickle, sys, time
from pathlib import Path
from idc.core.errors import StoreUnavailableError
from idc.tracking.live import live_run
from idc.tracking.publishing import publish_result

result = pickle.loads(Path(sys.argv[1]).read_bytes())
root = Path.cwd()
try:
    training = "training of " + result.digest
    with live_run(root, result.params, "abc", training=training, resumed=False) as live:
        for epoch, loss in zip(result.history["epoch"], result.history["train_loss"]):
            live.log_epoch(epoch, {{"train/loss": loss}})
            time.sleep(1)
        live.name_model(result.model_digest, {{}})
    publish_result(result, root)
except StoreUnavailableError as error:
    print("away:", error)
    sys.exit({EXIT_UNAVAILABLE})
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not (shutil.which("initdb") and shutil.which("pg_ctl")), reason="no PostgreSQL to start"
    ),
]


class Cluster:
    """A PostgreSQL of the test's own; as root by the system's user `postgres`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._data = folder / "data"
        self._log = folder / "log"
        self._as = {"user": "postgres"} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(folder, "postgres")
        self._run("initdb", "--auth", "trust", "--username", "postgres", "-D", str(self._data))

    @property
    def address(self) -> str:
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/postgres"

    def control(self, *what: str) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._data}"
        log = ("-l", str(self._log), "-o", options) if what[0] != "stop" else ()
        self._run("pg_ctl", *what, "-w", "-D", str(self._data), *log)

    def _run(self, *command: str) -> None:
        # its output to a file: the server would keep a pipe open
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [shutil.which(command[0]), *command[1:]], cwd="/", stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, **self._as,
            )  # fmt: skip
            output.seek(0)
            assert done.returncode == 0, output.read().decode()


@pytest.fixture
def cluster():
    # not in tmp_path, which the user postgres may not enter
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder))
        cluster.control("start")
        yield cluster
        cluster.control("stop", "-m", "immediate")


def run_until_done(folder, environment):
    """Run it in a process of its own, and again while the store is away; return how often."""
    for attempt in range(1, NUM_RETRIES + 2):
        done = subprocess.run(
            [sys.executable, "-c", TELL_AND_PUBLISH, "result.pickle"],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode != EXIT_UNAVAILABLE:
            assert done.returncode == 0, done.stderr[-3000:]
            return attempt
        time.sleep(2)
    raise AssertionError(done.stdout)


def test_ten_runs_when_postgresql_is_restarted_under_them_then_each_is_there_once_and_whole(
    cluster, tmp_path, result, project_root
):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": url,
        "PYTHONPATH": f"{project_root / 'src'}:{project_root}",
    }
    folders = []
    for number in range(NUM_RUNS):
        folders.append(tmp_path / f"run {number}")
        folders[-1].mkdir()
        own = replace(result, digest=f"result {number}", model_digest=f"model {number}")
        (folders[-1] / "result.pickle").write_bytes(pickle.dumps(own))
    with (
        mlflow_server(tmp_path / "server", cluster.address, port),
        ThreadPoolExecutor(NUM_RUNS) as pool,
    ):
        client = MlflowClient(url, url)
        runs = [pool.submit(run_until_done, folder, environment) for folder in folders]
        restarts = 0
        while not all(run.done() for run in runs):
            time.sleep(4)
            begun = restarts or client.get_experiment_by_name("idc") is not None
            if begun and restarts < NUM_RESTARTS:
                cluster.control("restart", "-m", "immediate")
                restarts += 1
        assert restarts == NUM_RESTARTS
        assert all(run.result() for run in runs)
        experiment = client.get_experiment_by_name("idc").experiment_id
        found = client.search_runs([experiment])
        versions = client.search_model_versions(f"name = '{result.params.publish.model_name}'")
        histories = [
            [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
            for run in found
        ]
    wanted = {f"result {number}": 1 for number in range(NUM_RUNS)}
    assert Counter(run.data.tags.get("result_digest") for run in found) == wanted
    assert Counter(version.tags.get("result_digest") for version in versions) == wanted
    assert {run.info.status for run in found} == {"FINISHED"}
    epochs = [int(epoch) for epoch in result.history["epoch"]]
    assert [sorted(steps) for steps in histories] == [epochs] * NUM_RUNS
