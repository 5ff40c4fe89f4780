"""The local MLflow store as files: a copy of it while runs write, and its move to another place."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from idc.core.errors import InputError
from idc.core.files import replacing_folder

DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"

# where MLflow 3 keeps the absolute address of files
_ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def back_up_store(store: Path, target: Path) -> None:
    """Copy the database as of one moment, and the files, to `target`; runs may go on meanwhile.

    Args:
        store: Folder of `mlflow.db` and `artifacts/`, such as `mlruns`.
        target: A folder that does not exist yet.

    Raises:
        InputError: If there is no store, or something lies at `target`.
    """
    _require_store(store)
    if target.exists():
        raise InputError(f"{target} exists: name a folder that does not exist yet")
    with replacing_folder(target) as partial:
        # the database first: every file that it names is there by then, and no file ever changes
        with (
            closing(sqlite3.connect(store / DATABASE)) as source,
            closing(sqlite3.connect(partial / DATABASE)) as copy,
        ):
            source.backup(copy)
        if (store / ARTIFACTS).is_dir():
            shutil.copytree(store / ARTIFACTS, partial / ARTIFACTS)


def relocate_store(store: Path) -> list[str]:
    """Let a store that was moved, copied or restored find its files where they lie now.

    Args:
        store: Folder of `mlflow.db` and `artifacts/`.

    Returns:
        The addresses that were in force before; none where nothing had to change.

    Raises:
        InputError: If there is no store, or another process holds it.
    """
    _require_store(store)
    own = (store / ARTIFACTS).resolve().as_uri()
    with closing(sqlite3.connect(store / DATABASE, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise InputError(
                f"{store / DATABASE} cannot be written ({error}): end what uses it and try again"
            ) from None
        outdated = _outdated(connection, store)
        for place in outdated:
            for table, columns in _ADDRESSES.items():
                for column in columns:
                    connection.execute(  # the names are `_ADDRESSES`'
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (own, len(place) + 1, place, len(place) + 1, f"{place}/"),
                    )
        connection.execute("COMMIT")
    return outdated


def find_outdated(store: Path) -> list[str]:
    """Return where else a store looks for its files, because it was moved or copied.

    Raises:
        InputError: If there is no store.
    """
    _require_store(store)
    with closing(sqlite3.connect(store / DATABASE)) as connection:
        return _outdated(connection, store)


def _require_store(store: Path) -> None:
    if not (store / DATABASE).is_file():
        raise InputError(f"{store / DATABASE} is missing: there is no store yet")


def _outdated(connection: sqlite3.Connection, store: Path) -> list[str]:
    places = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    return [place for (place,) in places if _is_elsewhere(place, (store / ARTIFACTS).resolve())]


def _is_elsewhere(place: str, own: Path) -> bool:
    """Say whether it is the `artifacts` beside a database, as made here, but not ours."""
    folder = Path(unquote(urlsplit(place).path))
    made_alike = place.startswith("file:") and folder.parts[-2:] == own.parts[-2:]
    return made_alike and folder.resolve() != own
