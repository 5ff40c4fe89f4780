"""Old runs: which are kept, and the removal of the others."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from idc.core.git import git, has_commit
from idc.core.layout import DVC_LOCK
from idc.runs.lineage import load_lock, result_digest
from idc.runs.tags import list_tags, tag_of
from idc.runs.workspace import Workspace, list_workspaces, remove_workspace


@dataclass(frozen=True)
class Retention:
    """Which runs are kept: those younger than `days`, and the `last` ones.

    A run that an alias of the registered model points at, and a workspace in use, are always kept.
    """

    days: float = 30.0
    last: int = 10


@dataclass(frozen=True)
class Garbage:
    """What the rule does not keep."""

    workspaces: tuple[Workspace, ...]
    tags: tuple[str, ...]


def find_garbage(root: Path, rule: Retention, aliased: Collection[str]) -> Garbage:
    """Return what the rule does not keep.

    Args:
        root: The project.
        rule: What is kept.
        aliased: Result digests of all model versions that an alias points at.
    """
    kept_tags = {tag_of(digest) for digest in aliased}
    oldest = datetime.now(UTC) - timedelta(days=rule.days)
    workspaces = tuple(
        workspace
        for number, workspace in enumerate(list_workspaces(root))
        if number >= rule.last
        and workspace.opened < oldest
        and not workspace.in_use
        and _tag_in(workspace) not in kept_tags
    )
    tags = tuple(
        tag
        for number, (tag, made) in enumerate(list_tags(root))
        if number >= rule.last and made < oldest and tag not in kept_tags
    )
    return Garbage(workspaces, tags)


def remove_garbage(root: Path, garbage: Garbage, on_removed: Callable[[str], None]) -> None:
    """Remove workspaces and tags; the DVC cache keeps its content until `dvc gc`."""
    for workspace in garbage.workspaces:
        remove_workspace(root, workspace.folder)
        on_removed(str(workspace.folder.relative_to(root)))
    for tag in garbage.tags:
        git(root, "tag", "--delete", tag)
        on_removed(tag)


def cache_command(root: Path, garbage: Garbage) -> list[str]:
    """Return the `dvc gc` command that frees what no branch, tag or workspace needs.

    Other clones that share the cache are not known here: add them after `--projects`.
    """
    gone = {workspace.folder for workspace in garbage.workspaces}
    kept = [
        str(workspace.folder.relative_to(root))
        for workspace in list_workspaces(root)
        if workspace.folder not in gone
    ]
    revisions = ["--all-branches", "--all-tags"] if has_commit(root) else []
    projects = ["--projects", *kept] if kept else []
    return ["dvc", "gc", "--workspace", *revisions, *projects]


def _tag_in(workspace: Workspace) -> str | None:
    """Return the tag that the results of a workspace have, or would have."""
    if not (workspace.folder / DVC_LOCK).exists():
        return None
    return tag_of(result_digest(load_lock(workspace.folder)))
