"""The store: its address, whether it can be written, what is wrong with it, and a client of it."""

import logging
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    RESOURCE_ALREADY_EXISTS,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError

from idc.core.errors import InputError, StoreUnavailableError
from idc.core.layout import MLRUNS
from idc.tracking.local_store import ARTIFACTS, DATABASE, find_outdated

_SQLITE = "sqlite:///"
_LOCK_TIMEOUT_S = 30
_MAX_REPEATS = 5
# by it the pages of MLflow 3 open an experiment as one that trains models, not one of prompts
_KIND_TAG, _KIND = "mlflow.experimentKind", "custom_model_development"

_T = TypeVar("_T")

log = logging.getLogger(__name__)


def tracking_uri(root: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, else the SQLite store below `root` (absolute)."""
    database = root.resolve() / MLRUNS / DATABASE
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{database}"


def shown_uri(root: Path) -> str:
    """Return the address of the store without a password, for people to read."""
    uri = tracking_uri(root)
    try:
        return sqlalchemy.make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:
        return uri


def local_database(root: Path) -> Path | None:
    """Return the file of a store that is one, None of a store that a server keeps."""
    uri = tracking_uri(root)
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


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


def ensure_experiment(client: MlflowClient, name: str, root: Path) -> str:
    """Return the id of the experiment of that name, which is made where there is none."""
    experiment = client.get_experiment_by_name(name)
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
            reason = str(error).splitlines()[0]
            raise StoreUnavailableError(
                f"tracking store {shown_uri(root)} is busy ({reason})"
            ) from None
        check_store(root)
        raise


def _require_server(uri: str, shown: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):  # noqa: S310  http alone
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:  # it answers; a proxy may guard /health
            return
        raise StoreUnavailableError(f"tracking server {shown} answers {error.code}") from None
    except OSError as error:
        raise StoreUnavailableError(f"tracking server {shown} does not answer ({error})") from None


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
        fix=f"`idc backup FOLDER`, then `mlflow db upgrade {_SQLITE}{path}`",
    )
