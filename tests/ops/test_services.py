"""Starting and ending services: real processes, but none of Prefect and MLflow."""

import socket
import time
from contextlib import closing

import psutil
import pytest
from prefect.settings.models.server.events import ServerEventsSettings
from prefect.settings.models.server.services import ServerServicesDBVacuumSettings

from idc.core.errors import InputError
from idc.core.files import load_json
from idc.ops import prefect_api, services
from idc.ops.services import Service, start_services, stop_services

PATIENCE_S = 60


@pytest.fixture
def machine(tmp_path, monkeypatch, project_root):
    """A clone whose server and UI answer some HTTP, and whose worker just sleeps."""
    (tmp_path / "prefect.yaml").write_bytes((project_root / "prefect.yaml").read_bytes())
    (tmp_path / "sleeping.py").write_text("import time\ntime.sleep(600)\n")
    (tmp_path / "failing.py").write_text("raise SystemExit('no configuration')\n")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_SERVER_API_PORT", raising=False)
    monkeypatch.setattr(services, "_POLL_S", 0.05)

    def serve(name):
        port = find_port()
        url = f"http://127.0.0.1:{port}/"
        module = ("http.server", "--bind", "127.0.0.1", str(port))
        return Service(name, module, port, lambda: services._is_answered(url))

    ours = [
        serve("prefect-server"), Service("worker", ("sleeping",), None, lambda: True),
        serve("mlflow"),
    ]  # fmt: skip
    monkeypatch.setattr(services, "_services", lambda root, environment: tuple(ours))
    monkeypatch.setattr(services, "_deploy", lambda root, environment: None)
    monkeypatch.setattr(services, "stage_environment", lambda root: {"PYTHONPATH": str(root)})
    yield tmp_path, ours
    stop_services(tmp_path)


def find_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pids(root):
    records = (root / ".idc/services").glob("*.json")
    return {path.stem: load_json(path)["process"]["pid"] for path in records}


def wait_until_gone(numbers):
    deadline = time.monotonic() + PATIENCE_S
    while any(psutil.pid_exists(pid) for pid in numbers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in numbers if psutil.pid_exists(pid)]


def test_services_when_started_twice_then_run_once_and_all_end_with_stop(machine, caplog):
    root, _ = machine
    caplog.set_level("INFO")
    start_services(root)
    first = pids(root)
    assert sorted(first) == ["mlflow", "prefect-server", "worker"]
    assert all(psutil.pid_exists(pid) for pid in first.values())
    start_services(root)
    assert pids(root) == first
    assert caplog.text.count("is already running") == 3
    stop_services(root)
    wait_until_gone(first.values())
    assert pids(root) == {}


def test_services_when_one_was_killed_then_start_restarts_it_alone(machine):
    root, _ = machine
    start_services(root)
    first = pids(root)
    psutil.Process(first["mlflow"]).kill()
    psutil.Process(first["mlflow"]).wait(PATIENCE_S)
    start_services(root)
    second = pids(root)
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"mlflow"}


@pytest.mark.parametrize(
    ("number", "variable"), [(0, "PREFECT_SERVER_API_PORT"), (2, "MLFLOW_PORT")]
)
def test_services_when_a_port_is_taken_then_names_the_variable_that_changes_it(
    machine, number, variable
):
    root, ours = machine
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", ours[number].port))
        other.listen()
        with pytest.raises(InputError, match=f"is taken by another process.*set {variable}"):
            start_services(root)


def test_services_when_one_ends_at_once_then_gives_its_last_line_and_its_log(machine):
    root, ours = machine
    ours[1] = Service("worker", ("failing",), None, lambda: False)
    with pytest.raises(InputError, match=r"worker ended at once \(no configuration\).*worker\.log"):
        start_services(root)
    assert "worker" not in pids(root)


def test_services_when_one_does_not_answer_in_time_then_says_so(machine, monkeypatch):
    root, ours = machine
    ours[1] = Service("worker", ("sleeping",), None, lambda: False)
    monkeypatch.setattr(services, "_START_TIMEOUT_S", 0.2)
    ours[0] = ours[2] = Service("prefect-server", ("sleeping",), None, lambda: True)
    with pytest.raises(InputError, match="worker does not answer after"):
        start_services(root)


def test_services_when_another_server_is_named_then_none_is_started(machine, monkeypatch):
    root, _ = machine
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere:4200/api")
    with pytest.raises(InputError, match="PREFECT_API_URL is http://elsewhere:4200/api"):
        start_services(root)
    assert pids(root) == {}


def test_stop_when_the_number_belongs_to_another_process_then_it_is_left_alone(machine):
    root, _ = machine
    start_services(root)
    record = root / ".idc/services/worker.json"
    content = record.read_text()
    own = load_json(record)["process"]
    record.write_text(content.replace(str(own["started"]), str(own["started"] - 3600)))
    stop_services(root)
    assert psutil.pid_exists(own["pid"])
    psutil.Process(own["pid"]).kill()


@pytest.mark.parametrize(
    ("uri", "has_ui"), [("", True), ("postgresql://db", True), ("http://mlflow:5000", False)]
)
def test_services_when_the_store_has_a_server_already_then_no_ui_is_started(
    tmp_path, monkeypatch, project_root, uri, has_ui
):
    (tmp_path / "prefect.yaml").write_bytes((project_root / "prefect.yaml").read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", "4321")
    server, worker, ui = services._services(tmp_path, {"MLFLOW_PORT": "5321"})
    assert server.arguments[-2:] == ("--port", "4321")
    name = prefect_api.worker_name(tmp_path)
    assert worker.arguments[-4:] == ("--pool", "idc", "--name", name)
    assert (ui is not None) == has_ui
    if ui is not None:
        store = uri or f"sqlite:///{tmp_path}/mlruns/mlflow.db"
        assert (ui.port, ui.arguments[-1]) == (5321, store)


def test_worker_when_its_last_heartbeat_is_older_than_its_start_then_it_is_not_online(monkeypatch):
    workers = [
        {"name": "w", "status": "ONLINE", "last_heartbeat_time": "2026-11-28T12:00:00+00:00"},
        {"name": "v", "status": "OFFLINE", "last_heartbeat_time": "2026-11-28T12:00:00+00:00"},
    ]
    noon = 1795867200.0
    monkeypatch.setattr(prefect_api, "ask", lambda path, body: workers)
    assert services._is_online("idc", "w", since=noon - 1)
    assert not services._is_online("idc", "w", since=noon + 1)  # that of a killed one before it
    assert not services._is_online("idc", "v", since=noon - 1)

    def refuse(path, body):
        raise ConnectionRefusedError

    monkeypatch.setattr(prefect_api, "ask", refuse)
    assert not services._is_online("idc", "w", since=noon - 1)


def test_server_when_started_here_then_it_removes_old_runs_unless_told_otherwise(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    name = "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"
    monkeypatch.delenv(name, raising=False)
    chosen = services._environment(tmp_path)[name]
    vacuum = ServerServicesDBVacuumSettings(enabled=chosen)
    assert vacuum.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert vacuum.retention_period.days == 90  # as the documentation says
    assert ServerEventsSettings().retention_period.days == 7
    monkeypatch.setenv(name, "events")
    assert services._environment(tmp_path)[name] == "events"


class Server:
    """The part of Prefect's server that deploying asks: pools, deployments, schedules."""

    def __init__(self, root):
        self.root, self.pools, self.asked = root, set(), []
        self.deployments = {}

    def ask(self, path, body=None, *, method=None):
        self.asked.append((method, path, body))
        kind, _, name = path.removeprefix("/").partition("/")
        if kind == "work_pools":
            if name not in self.pools:
                raise LookupError(path)
            return {}
        if path.startswith("/deployments/name/"):
            name = path.removeprefix("/deployments/name/")
            if name not in self.deployments:
                raise LookupError(path)
            return self.deployments[name]
        return None

    def prefect(self, root, environment, *arguments):
        self.asked.append(("prefect", *arguments))
        if arguments[0] == "work-pool":
            self.pools.add(arguments[2])
            return
        for item in prefect_api.load_deployments(root):
            schedules = [{"id": "s1", "active": False}]  # `prefect deploy` pauses them again
            self.deployments[item.name] = {
                "id": item.name,
                "path": None,
                "pull_steps": runs_in(root),
                "schedules": schedules,
            }


def runs_in(folder):
    """What Prefect 3 records of a deployment from a folder without pull steps of its own."""
    return [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]


@pytest.fixture
def server(tmp_path, monkeypatch, project_root):
    (tmp_path / "prefect.yaml").write_bytes((project_root / "prefect.yaml").read_bytes())
    (tmp_path / ".idc/services").mkdir(parents=True)
    server = Server(tmp_path)
    monkeypatch.setattr(prefect_api, "ask", server.ask)
    monkeypatch.setattr(services, "_prefect", server.prefect)
    return server


def deploys(server):
    server.asked.clear()
    services._deploy(server.root, {})
    return [item[1:] for item in server.asked if item[0] == "prefect"]


def test_deploy_when_nothing_changed_then_deploys_once(server):
    assert deploys(server) == [
        ("work-pool", "create", "idc", "--type", "process"), ("deploy", "--all"),
    ]  # fmt: skip
    assert deploys(server) == []
    with (server.root / "prefect.yaml").open("a") as file:
        file.write("# changed\n")
    assert deploys(server) == [("deploy", "--all")]


def test_deploy_when_the_server_lost_a_deployment_or_the_clone_moved_then_deploys_again(server):
    deploys(server)
    del server.deployments["pipeline/local"]
    assert deploys(server) == [("deploy", "--all")]
    server.deployments["pipeline/local"]["pull_steps"] = runs_in("/where/it/was")
    assert deploys(server) == [("deploy", "--all")]


def test_deploy_when_a_deployment_is_another_clones_then_it_is_left_and_named(server, tmp_path):
    deploys(server)
    other = tmp_path / "other"
    other.mkdir()
    (other / "prefect.yaml").write_text("deployments: []\n")
    server.deployments["retraining/local"]["pull_steps"] = runs_in(other)
    with pytest.raises(InputError, match=rf"the deployment retraining/local .* runs in {other}"):
        deploys(server)
    assert server.deployments["retraining/local"]["pull_steps"] == runs_in(other)


def test_deploy_when_a_schedule_was_switched_on_then_it_stays_on(server):
    deploys(server)
    server.deployments["retraining/local"]["schedules"][0]["active"] = True
    (server.root / ".idc/services/deployed.txt").unlink()
    assert deploys(server) == [("deploy", "--all")]
    switched = [item for item in server.asked if item[0] == "PATCH"]
    path = "/deployments/retraining/local/schedules/s1"
    assert switched == [("PATCH", path, {"active": True})]


def test_prefect_when_a_command_fails_then_its_last_lines_are_the_error(tmp_path):
    (tmp_path / "prefect.py").write_text("print('one'); print('two'); raise SystemExit('three')\n")
    with pytest.raises(InputError, match=r"prefect deploy --all failed: two three"):
        services._prefect(tmp_path, {"PYTHONPATH": str(tmp_path)}, "deploy", "--all")
