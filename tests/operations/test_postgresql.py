"""Prefect and MLflow on PostgreSQL, started as docs/how-to/postgresql.md says."""

import re
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from mlflow.tracking import MlflowClient

from tests.operations.servers import START_S, Service, running
from tests.operations.telling_flow import EPOCHS
from tests.waiting import wait_until

NUM_RUNS, RUNS_PER_WORKER = 10, 5
FAULT = re.compile(r"locked|deadlock|Traceback|OperationalError|DBAPIError", re.IGNORECASE)
HERE = Path(__file__).parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def ask(servers, path, body):
    answer = httpx.post(f"{servers.prefect_url}{path}", json=body, timeout=60, trust_env=False)
    answer.raise_for_status()
    return answer.json()


def deploy(servers, project_root):
    """What `prefect deploy` records, without its questions."""
    ask(servers, "/work_pools/", {"name": "tests", "type": "process"})
    flow = ask(servers, "/flows/", {"name": "tell"})
    deployment = {
        "name": "tests",
        "flow_id": flow["id"],
        "work_pool_name": "tests",
        "entrypoint": f"{HERE / 'telling_flow.py'}:tell",
        "pull_steps": [
            {"prefect.deployments.steps.set_working_directory": {"directory": str(servers.folder)}}
        ],
        "parameters": {"params_file": str(project_root / "params.yaml")},
        "parameter_openapi_schema": {},
    }
    return ask(servers, "/deployments/", deployment)["id"]


def num_ended(worker: Service) -> int:
    """How many of its runs' processes have told the worker of their end."""
    return worker.said().count("Finished in state Completed()")


def test_two_workers_when_ten_runs_are_due_at_once_then_none_is_lost_and_nothing_is_locked(
    servers, project_root
):
    deployment = deploy(servers, project_root)
    settings = servers.settings | {
        "PYTHONPATH": f"{project_root / 'src'}:{project_root}",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }

    def states():
        runs = ask(servers, "/flow_runs/filter", {"deployments": {"id": {"any_": [deployment]}}})
        return [run["state_type"] for run in runs]

    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                running("prefect", ("worker", "start", "--pool", "tests", "--name", name,
                                    "--limit", str(RUNS_PER_WORKER)), servers.folder, settings)
            )
            for name in ("first", "second")
        ]  # fmt: skip
        # with both at hand before a run is due, neither can take them all
        wait_until(lambda: all("started!" in worker.said() for worker in workers), limit_s=START_S)
        for number in range(NUM_RUNS):
            ask(servers, f"/deployments/{deployment}/create_flow_run",
                {"parameters": {"number": number}})  # fmt: skip
        wait_until(lambda: {"SCHEDULED", "PENDING", "RUNNING"}.isdisjoint(states()), limit_s=600)
        # a run's state is known before its process has ended
        wait_until(lambda: sum(map(num_ended, workers)) == NUM_RUNS, limit_s=120)
    said = [service.said() for service in (servers.prefect, servers.mlflow, *workers)]
    assert states() == ["COMPLETED"] * NUM_RUNS, said[2:]
    for text in said:
        assert not FAULT.search(text), text[-3000:]
    assert all(num_ended(worker) for worker in workers)  # each worker had its share

    client = MlflowClient(servers.mlflow_url)
    experiment = client.get_experiment_by_name("idc").experiment_id
    told = {}
    for run in client.search_runs([experiment]):
        training = run.data.tags.get("training_digest", "")
        if training.startswith("training "):  # other tests tell the same server of runs too
            assert run.info.status == "FINISHED"
            losses = client.get_metric_history(run.info.run_id, "train/loss")
            told[training] = {item.step: item.value for item in losses}
    assert told == {
        f"training {number}": {epoch: number + 1 / epoch for epoch in range(1, EPOCHS + 1)}
        for number in range(NUM_RUNS)
    }
