"""Old runs: which are kept, and the removal of the others."""

import re
import shlex
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from idc.core.disk import disk_usage
from idc.core.dvc import dvc
from idc.core.errors import InputError
from idc.core.git import git, has_commit
from idc.core.layout import CHECKPOINTS, EMBEDDINGS, RAW
from idc.runs.lineage import load_lock, result_digest
from idc.runs.tags import list_tags, tag_of
from idc.runs.workspace import Workspace, list_workspaces, remove_workspace

# what `dvc gc` says of each file with --dry, and of all files without
_REMOVING = re.compile(r"^Removing (.+)$", re.MULTILINE)
_REMOVED = re.compile(r"^Removed (\d+) objects from .* cache", re.MULTILINE)


@dataclass(frozen=True)
class Retention:
    """Which runs are kept: those younger than `days`, and the `last` ones.

    With `max_gb` the oldest ones go, whatever their age, until all workspaces take no more.
    A run that an alias of the registered model points at, and a workspace in use, are always kept.
    """

    days: float = 30.0
    last: int = 10
    max_gb: float | None = None


@dataclass(frozen=True)
class Garbage:
    """What the rule does not keep."""

    workspaces: tuple[Workspace, ...]
    tags: tuple[str, ...]
    leftovers: tuple[Path, ...] = ()
    """Checkpoints of trainings that never ended, and embeddings, in folders that are kept."""


def find_garbage(root: Path, rule: Retention, aliased: Collection[str]) -> Garbage:
    """Return what the rule does not keep.

    Args:
        root: The project.
        rule: What is kept.
        aliased: Result digests of all model versions that an alias points at.
    """
    kept_tags = {tag_of(digest) for digest in aliased}
    oldest = datetime.now(UTC) - timedelta(days=rule.days)
    known = list_workspaces(root)
    tag_in = {workspace: _tag_in(workspace) for workspace in known}
    removable = [w for w in known if not w.in_use and tag_in[w] not in kept_tags]
    gone = {w for w in known[rule.last :] if w.opened < oldest}
    too_large = set() if rule.max_gb is None else _beyond(rule.max_gb, root, known, removable)
    workspaces = tuple(w for w in removable if w in gone | too_large)
    # two workspaces with the same results have one tag
    their_tags = {tag_in[w] for w in too_large} - {tag_in[w] for w in known if w not in workspaces}
    tags = tuple(
        tag
        for number, (tag, made) in enumerate(list_tags(root))
        if tag not in kept_tags and (tag in their_tags or (number >= rule.last and made < oldest))
    )
    kept = [root, *(w.folder for w in known if w not in workspaces and not w.in_use)]
    leftovers = tuple(path for folder in kept for path in _find_leftovers(folder, oldest))
    return Garbage(workspaces, tags, leftovers)


def remove_garbage(root: Path, garbage: Garbage, on_removed: Callable[[str], None]) -> None:
    """Remove workspaces, tags and leftovers; the DVC cache keeps its content."""
    for workspace in garbage.workspaces:
        remove_workspace(root, workspace.folder)
        on_removed(str(workspace.folder.relative_to(root)))
    for tag in garbage.tags:
        git(root, "tag", "--delete", tag)
        on_removed(tag)
    for path in garbage.leftovers:
        shutil.rmtree(path)
        on_removed(str(path.relative_to(root)))
    if has_commit(root):
        git(root, "gc", "--auto", "--quiet")  # the commands that git follows by it are not ours


def cache_command(root: Path, garbage: Garbage) -> list[str]:
    """Return the `dvc gc` command that frees what no branch, tag, `dvc exp` or workspace needs.

    Other clones that share the cache are not known here: add them after `--projects`.
    """
    gone = {workspace.folder for workspace in garbage.workspaces}
    kept = [
        str(workspace.folder.relative_to(root))
        for workspace in list_workspaces(root)
        if workspace.folder not in gone
    ]
    # not all commits: DVC would read each of them once for every project
    revisions = ["--all-branches", "--all-tags", "--all-experiments"] if has_commit(root) else []
    projects = ["--projects", *kept] if kept else []
    return ["dvc", "gc", "--workspace", *revisions, *projects]


def find_unused_cache(root: Path, command: Sequence[str]) -> list[Path]:
    """Return the files that a `dvc gc` command would remove from the cache.

    Raises:
        InputError: If DVC fails, as while another command holds its lock; or other clones may
            share the cache, because it does not lie in this one.
    """
    return [Path(path) for path in _REMOVING.findall(_collect(root, command, "--dry"))]


def require_idle(root: Path) -> None:
    """Check that nothing runs here or in a workspace, so that `dvc gc` can be relied on.

    It lists what is used first and removes the rest later: what a run saves meanwhile would go too.

    Raises:
        InputError: Naming the first folder in which something runs.
    """
    known = list_workspaces(root)
    used = [w.folder for w in known if w.in_use]
    used += [folder for folder in (root, *(w.folder for w in known)) if _is_training(folder)]
    if used:
        raise InputError(
            f"a run is at work in {used[0]}, whose results DVC might take for unused",
            "--cache",
            "try again when it has ended, or leave --cache out",
        )


def remove_unused_cache(root: Path, command: Sequence[str]) -> int:
    """Let a `dvc gc` command remove files from the cache and return how many.

    Raises:
        InputError: As `require_idle` and `find_unused_cache`.
    """
    require_idle(root)
    return sum(map(int, _REMOVED.findall(_collect(root, command))))


def _collect(root: Path, command: Sequence[str], *options: str) -> str:
    cache = (root / dvc(root, "cache", "dir").strip()).resolve()
    if not cache.is_relative_to(root.resolve()):
        raise InputError(
            f"the DVC cache {cache} lies outside the clone, so that others may use it",
            fix=f"name them after --projects and run it yourself: {shlex.join(command)}",
        )
    return dvc(root, *command[1:], "--force", *options)


def _beyond(
    max_gb: float, root: Path, known: Sequence[Workspace], removable: Sequence[Workspace]
) -> set[Workspace]:
    """Return the oldest workspaces, without which the others take at most so much.

    The raw archives are links, and stay where they are.
    """
    raw, beyond = root / RAW, set()
    for oldest in reversed(removable):
        kept = [w.folder for w in known if w not in beyond]
        if disk_usage(raw, *kept) - disk_usage(raw) <= max_gb * 1e9:
            break
        beyond.add(oldest)
    return beyond


def _find_leftovers(folder: Path, oldest: datetime) -> list[Path]:
    """Return checkpoints and embeddings older than that; none while a training runs there."""
    if _is_training(folder):
        return []
    places = [*(folder / CHECKPOINTS).glob("*/"), *(folder / EMBEDDINGS).glob("*/")]
    return [path for path in sorted(places) if _last_change(path) < oldest]


def _is_training(folder: Path) -> bool:
    return any(_is_held(lock) for lock in (folder / CHECKPOINTS).glob("*.lock"))


def _is_held(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _last_change(folder: Path) -> datetime:
    times = [path.lstat().st_mtime for path in (folder, *folder.rglob("*"))]
    return datetime.fromtimestamp(max(times), UTC)


def _tag_in(workspace: Workspace) -> str | None:
    """Return the tag that the results of a workspace have, or would have; None if none is known."""
    try:
        return tag_of(result_digest(load_lock(workspace.folder)))
    except InputError:  # no stage has run yet, or a kill or a merge damaged the lock
        return None
