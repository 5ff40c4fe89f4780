"""Commands that look after services, old runs and the local store."""

import argparse
import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from idc.cli.command import EXIT_FAILED, Command, Group, print_json
from idc.core.errors import InputError

if TYPE_CHECKING:
    from idc.runs.retention import Garbage

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


def _add_gc(parser: argparse.ArgumentParser) -> None:
    from idc.runs.retention import Retention

    rule = Retention()
    parser.add_argument("--days", type=float, default=rule.days, help=f"default: {rule.days:.0f}")
    parser.add_argument("--last", type=int, default=rule.last, help=f"default: {rule.last}")
    parser.add_argument("--yes", action="store_true", help="remove them; else they are listed")


def _gc(options: argparse.Namespace) -> int:
    from idc.runs.retention import Retention, cache_command, find_garbage
    from idc.tracking.orphans import list_orphans
    from idc.tracking.registry import list_aliased_digests

    root = Path.cwd()
    rule = Retention(options.days, options.last)
    garbage = find_garbage(root, rule, list_aliased_digests(root))
    orphans = list_orphans(root)
    cache = shlex.join(cache_command(root, garbage))
    if options.json:
        _print_garbage(root, garbage, orphans, {"removed": options.yes, "cache_command": cache})
    if options.yes:
        _remove(root, garbage, orphans, log.info if options.json else print)
    elif not options.json:
        _list(root, garbage, orphans)
    if not options.json:
        print(f"frees the cache (first with --dry): {cache}")
    return 0


def _print_garbage(
    root: Path, garbage: "Garbage", orphans: list[str], more: dict[str, object]
) -> None:
    folders = [workspace.folder.relative_to(root) for workspace in garbage.workspaces]
    print_json({"workspaces": folders, "tags": garbage.tags, "mlflow_runs": orphans, **more})


def _remove(
    root: Path, garbage: "Garbage", orphans: list[str], report: Callable[[str], None]
) -> None:
    from idc.runs.retention import remove_garbage
    from idc.tracking.orphans import close_runs

    remove_garbage(root, garbage, on_removed=lambda what: report(f"removed {what}"))
    close_runs(root, orphans)
    for run_id in orphans:
        report(f"closed MLflow run {run_id}: its process died")


def _list(root: Path, garbage: "Garbage", orphans: list[str]) -> None:
    for workspace in garbage.workspaces:
        print(f"would remove {workspace.folder.relative_to(root)} ({workspace.opened:%F})")
    for tag in garbage.tags:
        print(f"would remove {tag}")
    for run_id in orphans:
        print(f"would close MLflow run {run_id}: its process died")
    if garbage.workspaces or garbage.tags or orphans:
        print("nothing was removed: add --yes")


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
        Command(
            "gc",
            "list, or with --yes remove, workspaces and tags of old runs",
            _gc,
            reads=".workspaces, tags of git, aliases in MLflow",
            writes="nothing; with --yes it removes what it lists",
            add_arguments=_add_gc,
            details="A run stays if it is younger than --days, among the --last ones, in use, or\n"
            "if an alias of a registered model points at it.",
            json=True,
        ),
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
