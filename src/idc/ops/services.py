"""What a single machine needs for deployments: `idc up` starts it, `idc down` ends it.

Prefect server, work pool and worker, and MLflow's UI, all on loopback. Each service has a record
(which process, on which port) and a log in `.idc/services/`. Ports: `PREFECT_SERVER_API_PORT`
(4200) and `MLFLOW_PORT` (5000).
"""

import hashlib
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from idc.core.errors import InputError
from idc.core.files import load_json, save_json
from idc.core.layout import SERVICES
from idc.core.process_ids import ProcessId, identify_process, is_dead
from idc.ops import prefect_api
from idc.ops.logs import rotate_logs
from idc.runs.workspace import stage_environment
from idc.tracking.connection import tracking_uri

log = logging.getLogger("services")

_SETTINGS = {
    # only the UI is needed: job execution would keep eight more processes running
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # with leases in memory a restarted server would not know who holds a deployment's slot
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
}
_DEFAULTS = {
    # Prefect keeps every run and its log for good unless told otherwise; with this it removes runs
    # after 90 days, as it removes events after 7: a number of days from its own settings
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
}
"""What another value in the environment replaces."""
_HOST = "127.0.0.1"
_START_TIMEOUT_S = 300.0  # a server on a busy machine takes two minutes
_STOP_TIMEOUT_S = 60.0  # a worker first ends its runs
_POLL_S = 0.5
_DEPLOYED = "deployed.txt"


@dataclass(frozen=True)
class Service:
    """One process to keep running."""

    name: str
    arguments: tuple[str, ...]
    """After `python -m`."""
    port: int | None
    answers: Callable[[], bool]
    """Whether it is ready for use."""


def start_services(root: Path) -> None:
    """Start what is not running and wait until each answers; deploy what `prefect.yaml` says.

    Raises:
        InputError: If a port is taken, a service ends or does not answer in time, or a deployment
            on the server belongs to another clone.
    """
    environment = _environment(root)
    rotate_logs(root)
    server, worker, ui = _services(root, environment)
    first = [server, ui] if ui is not None else [server]
    for service in first:  # both start at once
        _start(root, service, environment)
    for service in first:
        _wait_until_ready(root, service)
    _deploy(root, environment)
    _start(root, worker, environment)
    _wait_until_ready(root, worker)


def stop_services(root: Path) -> None:
    """End the processes that `start_services` began, the worker first, and no others."""
    for name in ("worker", "mlflow", "prefect-server"):
        path = _record_path(root, name)
        if not path.is_file():
            continue
        members = _members(_recorded(root, name))
        _end(members)
        log.info("%s %s", name, "ended" if members else "had ended")
        path.unlink()


def _environment(root: Path) -> dict[str, str]:
    """Return the environment of the services, which names the server that is started here.

    Raises:
        InputError: If `PREFECT_API_URL` names another server.
    """
    own = f"http://{_HOST}:{_server_port()}/api"
    if prefect_api.api_url() != own:
        raise InputError(
            f"PREFECT_API_URL is {prefect_api.api_url()}, the server here would be {own}",
            fix="unset it, or set PREFECT_SERVER_API_PORT; with a server elsewhere only a worker "
            "is needed",
        )
    return _DEFAULTS | stage_environment(root) | _SETTINGS | {"PREFECT_API_URL": own}


def _server_port() -> int:
    return int(os.environ.get("PREFECT_SERVER_API_PORT") or 4200)


def _services(
    root: Path, environment: Mapping[str, str]
) -> tuple[Service, Service, Service | None]:
    port = _server_port()
    pool = prefect_api.load_deployments(root)[0].pool
    server = Service(
        "prefect-server",
        ("prefect", "server", "start", "--host", _HOST, "--port", str(port)),
        port,
        lambda: _is_answered(f"http://{_HOST}:{port}/api/health"),
    )
    name = prefect_api.worker_name(root)
    worker = Service(
        "worker",
        ("prefect", "worker", "start", "--pool", pool, "--name", name),
        None,
        lambda: _is_online(pool, name, since=_recorded(root, "worker").started),
    )
    store = tracking_uri(root)
    if store.startswith(("http://", "https://")):
        return server, worker, None  # the store already has a server
    ui_port = int(environment.get("MLFLOW_PORT") or 5000)
    ui = Service(
        "mlflow",
        (
            "mlflow", "server", "--host", _HOST, "--port", str(ui_port), "--workers", "1",
            "--backend-store-uri", store,
        ),
        ui_port,
        lambda: _is_answered(f"http://{_HOST}:{ui_port}/health"),
    )  # fmt: skip
    return server, worker, ui


def _start(root: Path, service: Service, environment: Mapping[str, str]) -> None:
    if _is_running(root, service.name):
        log.info("%s is already running", service.name)
        return
    if _record_path(root, service.name).is_file():  # killed; its children may still run
        _end(_members(_recorded(root, service.name)))
    if service.port is not None and _is_taken(service.port):
        variable = "MLFLOW_PORT" if service.name == "mlflow" else "PREFECT_SERVER_API_PORT"
        raise InputError(
            f"port {service.port} is taken by another process",
            service.name,
            f"end it, or set {variable} to a free port",
        )
    path = _log_path(root, service.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *service.arguments],
            cwd=root, env=dict(environment), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    save_json(
        _record_path(root, service.name),
        {"process": asdict(identify_process(process.pid)), "port": service.port},
    )
    log.info("%s starts, log: %s", service.name, path.relative_to(root))


def _wait_until_ready(root: Path, service: Service) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not service.answers():
        path = _log_path(root, service.name)
        if not _is_running(root, service.name):
            _record_path(root, service.name).unlink()
            said = path.read_text(errors="replace").strip().splitlines()[-1:]
            raise InputError(f"{service.name} ended at once ({' '.join(said)})", fix=f"see {path}")
        if time.monotonic() > deadline:
            raise InputError(
                f"{service.name} does not answer after {_START_TIMEOUT_S:.0f} s", fix=f"see {path}"
            )
        time.sleep(_POLL_S)
    log.info("%s answers%s", service.name, f" on port {service.port}" if service.port else "")


def _deploy(root: Path, environment: Mapping[str, str]) -> None:
    """Bring pool and deployments in line with `prefect.yaml`; active schedules stay active."""
    deployments = prefect_api.load_deployments(root)
    digest = hashlib.sha256(f"{root}\n{(root / 'prefect.yaml').read_text()}".encode()).hexdigest()
    deployed = root / SERVICES / _DEPLOYED
    known = deployed.read_text() if deployed.is_file() else ""
    folders = [_deployed_folder(item.name) for item in deployments]
    for item, folder in zip(deployments, folders, strict=True):
        _reject_other_clone(root, item.name, folder)
    if known == digest and all(folder == root for folder in folders):
        log.info("deployments match prefect.yaml")
        return
    for pool in sorted({item.pool for item in deployments}):
        try:
            prefect_api.ask(f"/work_pools/{pool}")
        except LookupError:
            _prefect(root, environment, "work-pool", "create", pool, "--type", "process")
    active = [item.name for item in deployments if _has_active_schedule(item.name)]
    _prefect(root, environment, "deploy", "--all")
    for name in active:
        _activate_schedules(name)
    deployed.write_text(digest)
    log.info("deployed: %s", ", ".join(item.name for item in deployments))


def _deployed_folder(name: str) -> Path | None:
    try:
        folder = prefect_api.deployment_folder(prefect_api.ask(f"/deployments/name/{name}"))
    except LookupError:
        return None
    return folder and folder.resolve()


def _reject_other_clone(root: Path, name: str, folder: Path | None) -> None:
    """Reject a deployment whose runs start in another clone that still exists."""
    if folder is not None and folder != root and (folder / "prefect.yaml").is_file():
        raise InputError(
            f"the deployment {name} of this server runs in {folder}",
            fix="give each clone a Prefect database of its own, or there: "
            f"prefect deployment delete {name}",
        )


def _has_active_schedule(name: str) -> bool:
    try:
        schedules = prefect_api.ask(f"/deployments/name/{name}")["schedules"]
    except LookupError:
        return False
    return any(item["active"] for item in schedules)


def _activate_schedules(name: str) -> None:
    deployment = prefect_api.ask(f"/deployments/name/{name}")
    for item in deployment["schedules"]:
        path = f"/deployments/{deployment['id']}/schedules/{item['id']}"
        prefect_api.ask(path, {"active": True}, method="PATCH")


def _prefect(root: Path, environment: Mapping[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=root, env=dict(environment), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise InputError(f"prefect {' '.join(arguments)} failed: {' '.join(said[-2:])}")


def _members(process: ProcessId) -> list[psutil.Process]:
    """Return the process of the service and all that it started, even if it is dead itself."""
    if not is_dead(process):
        service = psutil.Process(process.pid)
        return [service, *service.children(recursive=True)]
    if psutil.pid_exists(process.pid):  # an unrelated process: the id was reused
        return []
    # an id is not reused while a process group has it
    return [
        other
        for other in psutil.process_iter()
        if _group(other) == process.pid and other.create_time() >= process.started
    ]


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except (ProcessLookupError, PermissionError):
        return None


def _end(members: Sequence[psutil.Process]) -> None:
    """Send TERM to all, then KILL to the rest; psutil checks that the ids are still theirs."""
    for signal_ in (psutil.Process.terminate, psutil.Process.kill):
        for member in members:
            with suppress(psutil.NoSuchProcess):
                signal_(member)
        _, members = psutil.wait_procs(members, timeout=_STOP_TIMEOUT_S)


def _recorded(root: Path, name: str) -> ProcessId:
    return ProcessId(**load_json(_record_path(root, name))["process"])


def _is_running(root: Path, name: str) -> bool:
    return _record_path(root, name).is_file() and not is_dead(_recorded(root, name))


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return True
    return False


def _is_answered(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310  on this machine, by http
            return True
    except OSError:
        return False


def _is_online(pool: str, name: str, *, since: float) -> bool:
    """Say whether the worker has reported since then: a killed one is listed as online too."""
    try:
        workers = prefect_api.ask(f"/work_pools/{pool}/workers/filter", {})
    except (OSError, LookupError):
        return False
    return any(
        worker["name"] == name
        and worker["status"] == "ONLINE"
        and datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() >= since
        for worker in workers
    )


def _record_path(root: Path, name: str) -> Path:
    return root / SERVICES / f"{name}.json"


def _log_path(root: Path, name: str) -> Path:
    return root / SERVICES / f"{name}.log"
