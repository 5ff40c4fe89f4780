"""The store: its address, whether it can be written, what is wrong with it, and a client of it."""

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import sqlalchemy
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    RESOURCE_ALREADY_EXISTS,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError

from idc.core.errors import InputError, StoreUnavailableError
from idc.core.layout import MLRUNS
from idc.core.store_uri import SQLITE, resolve_store_uri
from idc.tracking.local_store import ARTIFACTS, DATABASE, find_outdated

_LOCK_TIMEOUT_S = 30
_SERVER_TIMEOUT_S = 5
_PROBE = "/api/2.0/mlflow/experiments/search"
_MAX_REPEATS = 5
# by it the pages of MLflow 3 open an experiment as one that trains models, not one of prompts
_KIND_TAG, _KIND = "mlflow.experimentKind", "custom_model_development"

_T = TypeVar("_T")

log = logging.getLogger(__name__)


def tracking_uri(root: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, else the SQLite store below `root`; of files the absolute path.

    Raises:
        InputError: If the variable names no store that can be used.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{MLRUNS / DATABASE}"
    return resolve_store_uri(uri, root)


def shown_uri(root: Path) -> str:
    """Return the address of the store without a password, for people to read."""
    uri = tracking_uri(root)
    try:
        return sqlalchemy.make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:
        return uri


def shown_reason(error: Exception, root: Path) -> str:
    """Return the first line of an error, without the store's password, which MLflow repeats."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    uri = tracking_uri(root)
    try:
        password = sqlalchemy.make_url(uri).password
    except ArgumentError:
        password = None
    reason = reason.replace(uri.rstrip("/"), shown_uri(root).rstrip("/"))
    return reason.replace(str(password), "***") if password else reason


def local_database(root: Path) -> Path | None:
    """Return the file of a store that is one, None of a store that a server keeps."""
    uri = tracking_uri(root)
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def check_store(root: Path) -> None:
    """Check that the store can be written.

    Raises:
        InputError: If the local store cannot be written or was made by another version of MLflow,
            or a database's driver is missing.
        StoreUnavailableError: If a server does not answer, or another process holds the local
        store.
    """
    uri, path = tracking_uri(root), local_database(root)
    if path is not None:
        _require_file(path)
    elif uri.startswith(("http://", "https://")):
        _require_server(uri, shown_uri(root))
    elif uri.startswith("postgresql"):
        _require_database(uri, shown_uri(root))


def describe_faults(root: Path) -> list[InputError]:
    """Return what is wrong with the local store, each with the command that fixes it.

    Raises:
        InputError: If the local store cannot be written, or a database's driver is missing.
        StoreUnavailableError: If a server does not answer, or another process holds the local
        store.
    """
    path = local_database(root)
    if path is None:
        check_store(root)
        return []
    with _writing(path) as connection:
        if connection is None or not _has_tables(connection):
            return []
        if _is_of_another_version(connection):
            return [_another_version(path)]
    outdated = find_outdated(path.parent)
    if outdated:
        return [
            InputError(
                f"files are looked for in {', '.join(outdated)}, for this clone was moved or "
                "copied",
                fix="idc relocate",
            )
        ]
    return []


def is_empty(root: Path) -> bool:
    """Say whether the store is a local one without tables yet: MLflow would create them to look.

    Raises:
        InputError: If the local store cannot be written.
        StoreUnavailableError: If another process holds the local store.
    """
    path = local_database(root)
    if path is None:
        return False
    with _writing(path) as connection:
        return connection is None or not _has_tables(connection)


def connect(root: Path) -> MlflowClient:
    """Open the store; nothing that the process has in common changes.

    Raises:
        InputError: If the local store cannot be written or was made by another version of MLflow,
            or a database's driver is missing.
        StoreUnavailableError: If a server does not answer, or another process holds the local
        store.
    """
    check_store(root)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = tracking_uri(root)
    return MlflowClient(uri, uri)


def check_experiment(root: Path, name: str) -> None:
    """Check that runs can be added to the experiment, if the store has one of that name.

    Raises:
        InputError: If it was deleted, or as `connect`.
        StoreUnavailableError: As `connect`.
    """
    if not is_empty(root):
        _reject_deleted(connect(root).get_experiment_by_name(name))


def _reject_deleted(experiment: Experiment | None) -> None:
    """MLflow keeps a deleted experiment and its name until they are purged."""
    if experiment is not None and experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise InputError(
            f"the experiment {experiment.name} was deleted in MLflow",
            "publish.experiment",
            "restore it (`mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}`), or choose another name",
        )


def ensure_experiment(client: MlflowClient, name: str, root: Path) -> str:
    """Return the id of the experiment of that name, which is made where there is none.

    Raises:
        InputError: If it was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    _reject_deleted(experiment)
    if experiment is not None:
        if _KIND_TAG not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, _KIND_TAG, _KIND)
        return str(experiment.experiment_id)
    path = local_database(root)
    # a server decides for itself
    location = None if path is None else (path.parent / ARTIFACTS).as_uri()
    try:
        return str(
            client.create_experiment(name, artifact_location=location, tags={_KIND_TAG: _KIND})
        )
    except MlflowException as error:
        another_s = client.get_experiment_by_name(name)
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS) or another_s is None:
            raise
        return str(another_s.experiment_id)


def repeat_in_conflict(action: Callable[[], _T]) -> _T:
    """Do what can be repeated again where another process wrote the same row meanwhile.

    MLflow looks whether a row is there, then adds it; two that publish at once both find none. Each
    conflict means that another one got on, so a few attempts suffice.
    """
    for _ in range(_MAX_REPEATS):
        try:
            return action()
        except MlflowException as error:
            # it stands in the message alone where a server passes the error on
            if f"/{IntegrityError.code})" not in str(error):
                raise
            log.info("another process wrote to the MLflow store meanwhile: once more")
    return action()


@contextmanager
def translate_store_errors(root: Path) -> Iterator[None]:
    """Turn errors of MLflow into StoreUnavailableError where the same call may succeed later."""
    try:
        yield
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE):
            raise StoreUnavailableError(
                f"tracking store {shown_uri(root)} is busy ({shown_reason(error, root)})"
            ) from None
        check_store(root)
        raise


def _require_server(uri: str, shown: str) -> None:
    """Ask what every run asks, with the credentials that MLflow's client would send."""
    try:
        host = get_default_host_creds(uri.rstrip("/"))  # type: ignore[no-untyped-call]
        answer = http_request(  # type: ignore[no-untyped-call]
            host, _PROBE, "GET",
            params={"max_results": 1}, max_retries=0, timeout=_SERVER_TIMEOUT_S,
            raise_on_status=False,
        )  # fmt: skip
    except (MlflowException, OSError) as error:
        reason = type(error.__cause__ or error.__context__ or error).__name__
        raise StoreUnavailableError(
            f"tracking server {shown} does not answer ({reason})"
        ) from None  # its own message would repeat an address that holds a password
    code = answer.status_code
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise InputError(
            f"tracking server {shown} rejects the credentials ({code})",
            fix="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN",
        )
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR or code == HTTPStatus.TOO_MANY_REQUESTS:
        raise StoreUnavailableError(f"tracking server {shown} answers {code}")
    if code != HTTPStatus.OK:
        raise InputError(
            f"{shown} answers {code} to MLflow's API: it is no tracking server, or another path of "
            "one",
            "MLFLOW_TRACKING_URI",
            "open the address in a browser: MLflow's pages must come up there",
        )


def _require_database(uri: str, shown: str) -> None:
    """A first look: MLflow itself would wait for a database for an hour."""
    try:
        engine = sqlalchemy.create_engine(
            uri, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": 5}
        )
        with engine.connect():
            return
    except ModuleNotFoundError as error:
        raise InputError(
            f"tracking database {shown} needs the package {error.name}",
            fix="pip install 'idc[servers]' and write postgresql+psycopg2://",
        ) from None
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise StoreUnavailableError(
            f"tracking database {shown} does not answer ({reason})"
        ) from None


def _require_file(path: Path) -> None:
    """MLflow itself would upgrade a store that lacks a table, unasked and without a backup."""
    with _writing(path) as connection:
        if connection is None or not _has_tables(connection):
            return
        if connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is None:
            return  # nothing to lose, or another process is making the tables just now
        if _is_of_another_version(connection):
            raise _another_version(path)


@contextmanager
def _writing(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the local store as a writer would, and write nothing; None if there is no store yet."""
    try:
        file = path.resolve()
        _require_writable_folder(file)
        if not file.exists():
            yield None
            return
        # without mode=rw, SQLite would create a file that was removed meanwhile
        uri = f"{file.as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT_S)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
    except (OSError, sqlite3.Error) as error:
        if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreUnavailableError(f"another process holds the MLflow store {path}") from None
        raise InputError(
            f"the MLflow store {path} cannot be written ({error})",
            fix="fix its permissions, or set MLFLOW_TRACKING_URI to another store",
        ) from None


def _require_writable_folder(path: Path) -> None:
    """Check that a file could be created at `path`, or SQLite's journal beside it.

    Raises:
        OSError: If not.
    """
    folder = next(folder for folder in path.parents if folder.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write to {folder}")


def _has_tables(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return ("alembic_version",) in tables


def _is_of_another_version(connection: sqlite3.Connection) -> bool:
    schemas = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    latest = _get_latest_schema_revision()  # type: ignore[no-untyped-call]
    return bool(schemas != [(latest,)])


def _another_version(path: Path) -> InputError:
    return InputError(
        f"the MLflow store {path} was made by another version of MLflow",
        fix=f"`idc backup FOLDER`, then `mlflow db upgrade {SQLITE}{path}`",
    )
