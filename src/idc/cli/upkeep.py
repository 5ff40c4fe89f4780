"""Commands for finished runs and the local store: `adopt`, `gc`, `backup`, `relocate`."""

import argparse
import logging
import shlex
from pathlib import Path

from idc.cli.command import Commands, add_command
from idc.core.errors import InputError
from idc.runs.record import (
    Garbage,
    Retention,
    adopt_run,
    cache_command,
    find_garbage,
    remove_garbage,
)

log = logging.getLogger(__name__)


def add_commands(commands: Commands) -> None:
    """Add the commands of this group."""
    adopt = add_command(
        commands, "adopt", _adopt, what="bring a recorded run into the current branch"
    )
    adopt.add_argument("tag", help="such as idc-run/1234567890ab")
    _add_gc(commands)
    backup = add_command(
        commands, "backup", _back_up, what="copy the local MLflow store, even while runs write"
    )
    backup.add_argument("folder", type=Path, help="a folder that does not exist yet")
    add_command(
        commands, "relocate", _relocate, what="fix the MLflow store of a moved or restored clone"
    )


def _add_gc(commands: Commands) -> None:
    rule = Retention()
    gc = add_command(
        commands,
        "gc",
        _gc,
        what="list, or with --yes remove, workspaces and tags of old runs",
        description="A run stays if it is younger than --days, among the --last ones, in use, or "
        "if an alias of a registered model points at it.",
    )
    gc.add_argument("--days", type=float, default=rule.days, help=f"default: {rule.days:.0f}")
    gc.add_argument("--last", type=int, default=rule.last, help=f"default: {rule.last}")
    gc.add_argument("--yes", action="store_true", help="remove them; without it they are listed")


def _adopt(options: argparse.Namespace) -> int:
    adopted = adopt_run(Path.cwd(), options.tag)
    print(f"{options.tag} is in the branch as {adopted.commit[:12]}; `make repro` brings its files")
    if adopted.changed_code:
        print(
            f"the branch's code differs from the run's in {', '.join(adopted.changed_code)}: "
            f"what reads it runs again; `git diff {options.tag} -- src`"
        )
    if adopted.changed_raw:
        print("the branch's raw pointers are not the run's: ingest runs again, on today's data")
    return 0


def _gc(options: argparse.Namespace) -> int:
    from idc.tracking.orphans import list_orphans
    from idc.tracking.registry import list_aliased_digests

    root = Path.cwd()
    rule = Retention(options.days, options.last)
    garbage = find_garbage(root, rule, list_aliased_digests(root))
    orphans = list_orphans(root)
    if options.yes:
        _remove(root, garbage, orphans)
    else:
        _list(root, garbage, orphans)
    print("frees the cache (first with --dry): " + shlex.join(cache_command(root, garbage)))
    return 0


def _remove(root: Path, garbage: Garbage, orphans: list[str]) -> None:
    from idc.tracking.orphans import close_runs

    remove_garbage(root, garbage, on_removed=lambda what: print(f"removed {what}"))
    close_runs(root, orphans)
    for run_id in orphans:
        print(f"closed MLflow run {run_id}: its process died")


def _list(root: Path, garbage: Garbage, orphans: list[str]) -> None:
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
            f"the store is {shown_uri(Path.cwd())}: back it up where its server runs, see "
            "docs/how-to/backup.md"
        )
    return path.parent
