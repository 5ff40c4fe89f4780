"""Real servers on loopback, each in a process group of its own that is ended by its id."""

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.waiting import wait_until

START_S = 600  # a machine may be busy with trainings
END_S = 8  # between SIGTERM and SIGKILL, which a Prefect server often needs


@dataclass(frozen=True)
class Service:
    """A process that listens, and the file of what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def end(self) -> None:
        for signal_ in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, signal_)
                self.process.wait(END_S)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    settings: Mapping[str, str],
    health: str | None = None,
) -> Iterator[Service]:
    """Run `python -m module` until the block ends; begin when `health` answers."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{module}-{uuid.uuid4().hex[:6]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder, env=os.environ | settings, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    service = Service(process, log)
    try:
        if health is not None:
            wait_until(lambda: _answers(service, health), limit_s=START_S)
        yield service
    finally:
        service.end()


def _answers(service: Service, url: str) -> bool:
    assert service.process.poll() is None, f"it ended at once: {service.said()[-2000:]}"
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def mlflow_server(folder: Path, store: str, port: int) -> AbstractContextManager[Service]:
    """The start command of docs/how-to/postgresql.md, with fewer workers."""
    arguments = (
        "server", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", store,
        "--serve-artifacts", "--artifacts-destination", str(folder / "artifacts"),
        "--workers", "1",
    )  # fmt: skip
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # nothing here needs it
    return running("mlflow", arguments, folder, settings, f"http://127.0.0.1:{port}/health")


def with_driver(database: str) -> str:
    """Return a PostgreSQL address as MLflow wants it."""
    return database.replace("postgresql://", "postgresql+psycopg2://")


def prefect_server(
    folder: Path, database: str, port: int, settings: Mapping[str, str]
) -> AbstractContextManager[Service]:
    """The start command of docs/how-to/postgresql.md."""
    address = database.replace("postgresql://", "postgresql+asyncpg://")
    own = {**settings, "PREFECT_SERVER_DATABASE_CONNECTION_URL": address}
    listen = ("server", "start", "--host", "127.0.0.1", "--port", str(port))
    return running("prefect", listen, folder, own, f"http://127.0.0.1:{port}/api/health")
