"""The command `gc`, which lists or removes what old runs left, wherever it lies."""

import argparse
import logging
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idc.cli.command import Command, print_json
from idc.core.disk import freed_bytes
from idc.core.errors import InputError

if TYPE_CHECKING:
    from idc.runs.retention import Garbage
    from idc.tracking.deleted import Deleted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Waste:
    """What no rule keeps."""

    garbage: "Garbage"
    orphans: list[str]
    """MLflow runs whose process died."""
    deleted: list["Deleted"]
    """Deleted in MLflow."""
    cache: list[Path]
    """Files of DVC's cache."""

    def as_json(self, root: Path) -> dict[str, Any]:
        return {
            "workspaces": [item.folder.relative_to(root) for item in self.garbage.workspaces],
            "tags": self.garbage.tags,
            "leftovers": [path.relative_to(root) for path in self.garbage.leftovers],
            "mlflow_runs": self.orphans,
            "mlflow_deleted": [item.name for item in self.deleted],
            "cache_files": len(self.cache),
            "freed_mb": round(freed_bytes(self._places()) / 1e6, 1),
        }

    def lines(self, root: Path) -> list[str]:
        """Return what would happen, with the MB that come free by it."""
        garbage = self.garbage
        lines = [
            f"would remove {item.folder.relative_to(root)} ({item.opened:%F}, {_mb(item.folder)})"
            for item in garbage.workspaces
        ]
        lines += [f"would remove {tag}" for tag in garbage.tags]
        lines += [f"would remove {p.relative_to(root)} ({_mb(p)})" for p in garbage.leftovers]
        lines += [f"would close MLflow run {name}: its process died" for name in self.orphans]
        lines += [
            f"would remove MLflow {item.kind} {item.name}, deleted there ({_mb(*_files(item))})"
            for item in self.deleted
        ]
        if self.cache:
            lines.append(
                f"would remove {len(self.cache)} files of DVC's cache ({_mb(*self.cache)})"
            )
        if lines:
            lines.append(f"nothing was removed: add --yes, which frees {_mb(*self._places())}")
        return lines

    def _places(self) -> Iterable[Path]:
        yield from (item.folder for item in self.garbage.workspaces)
        yield from self.garbage.leftovers
        yield from (path for item in self.deleted for path in _files(item))
        yield from self.cache


def _files(item: "Deleted") -> list[Path]:
    return [] if item.files is None else [item.files]


def _mb(*places: Path) -> str:
    return f"{freed_bytes(places) / 1e6:.1f} MB"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from idc.runs.retention import Retention

    rule = Retention()
    parser.add_argument("--days", type=float, default=rule.days, help=f"default: {rule.days:.0f}")
    parser.add_argument("--last", type=int, default=rule.last, help=f"default: {rule.last}")
    parser.add_argument(
        "--max-gb", type=float, help="of all workspaces: beyond it the oldest go, of any age"
    )
    parser.add_argument(
        "--cache", action="store_true", help="also what nothing names any more in DVC's cache"
    )
    parser.add_argument("--yes", action="store_true", help="remove them; else they are listed")


def _gc(options: argparse.Namespace) -> int:
    from idc.runs.retention import (
        Retention,
        cache_command,
        find_garbage,
        find_unused_cache,
        require_idle,
    )
    from idc.tracking.orphans import list_orphans
    from idc.tracking.registry import list_aliased_digests

    root = Path.cwd()
    if options.cache and options.yes:
        require_idle(root)  # before anything goes
    rule = Retention(options.days, options.last, options.max_gb)
    garbage = find_garbage(root, rule, list_aliased_digests(root))
    command = cache_command(root, garbage)
    listed = options.cache and (options.json or not options.yes)
    cache = find_unused_cache(root, command) if listed else []
    waste = _Waste(garbage, list_orphans(root), _list_deleted(root, options.days), cache)
    shown = waste.as_json(root) if options.json else {}  # while what goes still has a size
    if options.yes:
        _remove(root, waste, options, log.info if options.json else print)
    elif not options.json:
        for line in waste.lines(root):
            print(line)
    if options.json:
        print_json(shown | {"removed": options.yes, "cache_command": shlex.join(command)})
    if not (options.json or options.cache):
        print(f"frees the cache (first with --dry; or `idc gc --cache`): {shlex.join(command)}")
    return 0


def _list_deleted(root: Path, days: float) -> list["Deleted"]:
    from idc.tracking.deleted import list_deleted

    try:
        return list_deleted(root, days)
    except InputError as error:  # nothing else depends on it
        log.warning("%s", error)
        return []


def _remove(
    root: Path, waste: _Waste, options: argparse.Namespace, report: Callable[[str], None]
) -> None:
    from idc.runs.retention import cache_command, remove_garbage, remove_unused_cache
    from idc.tracking.deleted import remove_deleted
    from idc.tracking.orphans import close_runs

    remove_garbage(root, waste.garbage, on_removed=lambda what: report(f"removed {what}"))
    close_runs(root, waste.orphans)
    for run_id in waste.orphans:
        report(f"closed MLflow run {run_id}: its process died")
    remove_deleted(root, waste.deleted, options.days)
    for item in waste.deleted:
        report(f"removed MLflow {item.kind} {item.name}")
    if options.cache:
        number = remove_unused_cache(root, cache_command(root, waste.garbage))
        report(f"removed {number} files of DVC's cache")


GC = Command(
    "gc",
    "list, or with --yes remove, what old runs left on the disk",
    _gc,
    reads=".workspaces, .idc, tags of git, the local MLflow store; with --cache DVC's cache",
    writes="nothing; with --yes it removes or closes what it lists",
    add_arguments=_add_arguments,
    details="These are workspaces and tags of runs, checkpoints and embeddings of trainings that\n"
    "do not run, what was deleted in MLflow, and with --cache what no branch, tag or\n"
    "workspace names any more. A run stays if it is younger than --days, among the --last\n"
    "ones, in use, or if an alias of a registered model points at it. MLflow runs that are\n"
    "still RUNNING although their process is dead are closed.",
    json=True,
)
