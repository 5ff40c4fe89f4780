"""The Prefect server's API over plain HTTP, because nothing in `src` imports prefect."""

import base64
import hashlib
import json
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from idc.core.errors import InputError

_DEFAULT_PORT = "4200"
_TIMEOUT_S = 30  # a server on a busy machine is slow
_VARIABLE = "PREFECT_API_URL"
_CREDENTIALS = re.compile(r"^(\w+://)?.*@")  # a password may hold any character


@dataclass(frozen=True)
class Deployment:
    """One deployment of `prefect.yaml`."""

    name: str
    """As Prefect calls it: flow and deployment, such as `pipeline/local`."""
    pool: str


def load_deployments(root: Path) -> list[Deployment]:
    """Return the deployments of `prefect.yaml`; none if there is no such file."""
    path = root / "prefect.yaml"
    if not path.is_file():
        return []
    return [
        Deployment(f"{item['entrypoint'].split(':')[1]}/{item['name']}", item["work_pool"]["name"])
        for item in yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
    ]


def worker_name(root: Path) -> str:
    """Return the name of the worker that `make up` starts in `root`: one per clone and machine."""
    return f"{socket.gethostname()}-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"


def api_url() -> str:
    """Return `PREFECT_API_URL`, or else the address of a server on this machine.

    Raises:
        InputError: If it is not the address of a server, or holds a name or password, which is not
            repeated.
    """
    port = os.environ.get("PREFECT_SERVER_API_PORT") or _DEFAULT_PORT
    url = os.environ.get(_VARIABLE) or f"http://127.0.0.1:{port}/api"
    shown = _CREDENTIALS.sub(r"\1***@", url)
    if not url.startswith(("http://", "https://")):  # urllib would open file:// too
        raise InputError(
            f"{shown!r} is not the address of a server",
            _VARIABLE,
            "begin it with http:// or https://",
        )
    if shown != url:  # urllib would take them for a part of the host's name
        raise InputError(
            f"{shown!r} holds a name or password",
            _VARIABLE,
            "leave them out of it, and set PREFECT_API_AUTH_STRING=NAME:PASSWORD",
        )
    if not _has_host(url):
        raise InputError(
            f"{url!r} is not the address of a server", _VARIABLE, "write http://HOST:PORT/api"
        )
    return url


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number, or a bracket that is not closed
        return False


def require_server() -> None:
    """Do nothing if `PREFECT_API_URL` is unset or a server answers there.

    Prefect itself would try for minutes and end with a traceback. Without an address a flow starts
    a temporary server of its own.

    Raises:
        InputError: If the variable is no address of a server, or no server answers there.
    """
    if not os.environ.get(_VARIABLE):
        return
    try:
        ask("/health")
    except (OSError, LookupError) as error:
        raise InputError(
            f"no Prefect server answers at {api_url()} ({error})",
            where=_VARIABLE,
            fix="start it (`idc up`), or unset the variable for a temporary server",
        ) from None


def deployment_folder(deployment: Mapping[str, Any]) -> Path | None:
    """Return the folder in which the runs of a deployment start, None if the server names none.

    Prefect 3 keeps it in the pull steps; `path` stays empty.
    """
    for step in deployment.get("pull_steps") or []:
        for name, inputs in step.items():
            if name.endswith(".set_working_directory"):
                return Path(inputs["directory"])
    return Path(deployment["path"]) if deployment.get("path") else None


def ask(path: str, body: Any = None, *, method: str | None = None) -> Any:  # noqa: ANN401
    """Return the server's answer, as JSON.

    Args:
        path: Below the API's address, such as `/health`.
        body: JSON to send; with it the request is a POST unless `method` says otherwise.
        method: The request's method.

    Raises:
        InputError: If `PREFECT_API_URL` is not the address of a server.
        LookupError: If the server has no such object.
        OSError: If it does not answer, rejects the request, or its answer is no JSON.
    """
    request = urllib.request.Request(  # noqa: S310  `api_url` looks at the scheme
        api_url().rstrip("/") + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **_credentials()},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise LookupError(path) from None
        raise
    except (HTTPException, ValueError):  # pages of Prefect's, another program's answer
        raise OSError("it answers no JSON: the address of Prefect's API ends in /api") from None


def _credentials() -> dict[str, str]:
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if pair := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}
