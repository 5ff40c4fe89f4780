"""Addresses of MLflow stores as people write them, and what every process can make of them."""

import re
from pathlib import Path

from idc.core.errors import InputError

SQLITE = "sqlite:///"

_VARIABLE = "MLFLOW_TRACKING_URI"
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/|$)")
_CREDENTIALS = re.compile(r"(?!file:)[^/]*:.*@")
_PASSWORD = re.compile(r"[^/:@]*:(?!/).*@")  # not the colon of file:/home/me@lab
_SCHEMES = (
    "http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks", "databricks-uc", "uc",
)  # fmt: skip
_IN_MEMORY = ("sqlite:", "sqlite://", SQLITE, f"{SQLITE}:memory:")


def resolve_store_uri(uri: str, root: Path) -> str:
    """Return the address with an absolute path, so that it is the same store in every folder.

    Args:
        uri: As MLflow takes it; a relative path of a SQLite database is below `root`, as it is for
            MLflow's own commands in that folder.
        root: The project.

    Raises:
        InputError: If it is a folder, which no stage can publish to, a database in memory, or a
            server without `http://`, or of a scheme that MLflow knows no store of; a password in
            it is not repeated.
    """
    if uri in _IN_MEMORY:
        raise InputError(
            f"{uri} is a database in memory, of which nothing is left after each stage",
            _VARIABLE,
            f"name a file, as {SQLITE}{root.resolve()}/mlflow.db, or unset it",
        )
    if uri.startswith(SQLITE):
        path = uri.removeprefix(SQLITE)
        return f"{SQLITE}{root.resolve() / path}"
    is_path = "://" not in uri and not uri.startswith("databricks")
    if is_path and (_HOST_AND_PORT.match(uri) or _CREDENTIALS.match(uri)):
        shown = _CREDENTIALS.sub("***@", uri)
        raise InputError(f"{shown} has no http:// or https://", _VARIABLE, f"write http://{shown}")
    if is_path or uri.startswith("file:"):
        shown = _PASSWORD.sub("***@", uri)
        raise InputError(
            f"{shown} is a folder, where MLflow keeps no models as this project needs them",
            _VARIABLE,
            f"name a database, as {SQLITE}{root.resolve()}/mlflow.db, or a server, or unset it",
        )
    scheme = uri.partition("://")[0].lower()
    if "://" in uri and scheme.partition("+")[0] not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise InputError(f"{scheme}:// is none of {known}", _VARIABLE, "correct the address")
    return uri
