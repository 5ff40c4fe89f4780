"""Commands that look after services, old runs and the local store."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from idc.cli.command import EXIT_FAILED, Command, Group
from idc.cli.gc import GC
from idc.core.errors import InputError

log = logging.getLogger(__name__)


def _up(_: argparse.Namespace) -> int:
    from idc.ops import prefect_api
    from idc.ops.services import start_services

    if code := _reaching_the_server(start_services):
        return code
    log.info("for `prefect` here: export PREFECT_API_URL=%s", prefect_api.api_url())
    return 0


def _down(_: argparse.Namespace) -> int:
    from idc.ops.services import stop_services

    return _reaching_the_server(stop_services)


def _reaching_the_server(action: Callable[[Path], None]) -> int:
    from idc.ops import prefect_api

    try:
        action(Path.cwd())
    except OSError as error:  # the server rejects, or takes too long
        log.error("%s does not answer (%s): run again", prefect_api.api_url(), error)
        return EXIT_FAILED
    return 0


def _back_up(options: argparse.Namespace) -> int:
    from idc.tracking.local_store import back_up_store

    back_up_store(_local_store(), options.folder)
    log.info("%s holds the store", options.folder)
    return 0


def _relocate(_: argparse.Namespace) -> int:
    from idc.tracking.local_store import relocate_store

    store = _local_store()
    outdated = relocate_store(store)
    if outdated:
        log.info("files are looked for in %s, no longer in %s", store, ", ".join(outdated))
    else:
        log.info("nothing to fix: files are looked for in %s", store)
    return 0


def _local_store() -> Path:
    from idc.tracking.connection import local_database, shown_uri

    path = local_database(Path.cwd())
    if path is None:
        raise InputError(
            f"the store is {shown_uri(Path.cwd())}",
            fix="back it up where its server runs, see docs/how-to/backup.md",
        )
    return path.parent


def _add_backup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")


GROUP = Group(
    "Upkeep and services",
    (
        Command(
            "up",
            "start Prefect's server and worker and MLflow's UI here, deploy the flows",
            _up,
            reads="prefect.yaml; PREFECT_SERVER_API_PORT, MLFLOW_PORT",
            writes=".idc/services, deployments on the server",
        ),
        Command(
            "down",
            "end what `idc up` started",
            _down,
            reads=".idc/services",
            writes=".idc/services",
        ),
        GC,
        Command(
            "backup",
            "copy the local MLflow store, even while runs write",
            _back_up,
            reads="the local MLflow store",
            writes="the folder that is named",
            add_arguments=_add_backup,
        ),
        Command(
            "relocate",
            "fix the MLflow store of a moved or restored clone",
            _relocate,
            reads="the local MLflow store",
            writes="the places of files in it",
        ),
    ),
)
