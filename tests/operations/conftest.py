"""Prefect and MLflow on PostgreSQL, for the tests of operations."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest

from tests.operations.servers import (
    Service,
    free_port,
    mlflow_server,
    prefect_server,
    with_driver,
)

POSTGRES = os.environ.get("IDC_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432")


@pytest.fixture(scope="session")
def create_database() -> Iterator[Callable[[], str]]:
    """`create_database()`: the address of an empty PostgreSQL database, dropped at the end."""
    try:
        admin = psycopg2.connect(f"{POSTGRES}/postgres", connect_timeout=5)
    except psycopg2.OperationalError as error:
        pytest.skip(f"no PostgreSQL at {POSTGRES} (IDC_TEST_POSTGRES names another): {error}")
    admin.autocommit = True
    names: list[str] = []

    def create() -> str:
        names.append(f"idc_test_{uuid.uuid4().hex[:12]}")
        with admin.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {names[-1]}")
        return f"{POSTGRES}/{names[-1]}"

    with closing(admin):
        yield create
        with admin.cursor() as cursor:
            for name in names:
                cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass(frozen=True)
class Servers:
    """Prefect and MLflow, each on a PostgreSQL database of its own."""

    prefect_url: str
    mlflow_url: str
    prefect: Service
    mlflow: Service
    prefect_database: str
    mlflow_database: str
    settings: dict[str, str]
    """Environment of whoever works with them."""
    folder: Path


@pytest.fixture(scope="session")
def servers(create_database, tmp_path_factory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    prefect_port, mlflow_port = free_port(), free_port()
    prefect_url = f"http://127.0.0.1:{prefect_port}/api"
    mlflow_url = f"http://127.0.0.1:{mlflow_port}"
    settings = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": prefect_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_TRACKING_URI": mlflow_url,
    }
    prefect_database, mlflow_database = create_database(), create_database()
    with ExitStack() as stack:
        mlflow = stack.enter_context(
            mlflow_server(folder / "mlflow", with_driver(mlflow_database), mlflow_port)
        )
        prefect = stack.enter_context(
            prefect_server(folder / "prefect", prefect_database, prefect_port, settings)
        )
        yield Servers(
            prefect_url, mlflow_url, prefect, mlflow, prefect_database, mlflow_database,
            settings, folder,
        )  # fmt: skip
