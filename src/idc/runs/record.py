"""Finished runs of workspaces: recorded under a tag, adopted into a branch, removed with age."""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from idc.core.errors import InputError
from idc.core.files import load_json, replacing_file
from idc.core.git import git, has_commit
from idc.core.layout import (
    CASE_SUBSETS,
    DVC_LOCK,
    EARLIER_CASE_SUBSETS,
    PARAMS,
    PUBLISHED,
    RAW,
    STATE,
)
from idc.data.split.case_subsets import (
    join_case_subsets,
    reject_earlier_name,
    with_today_header,
)
from idc.runs.lineage import load_lock, result_digest
from idc.runs.workspace import (
    Workspace,
    describe_workspace,
    list_workspaces,
    override_params,
    remove_workspace,
)

log = logging.getLogger(__name__)

TAG_PREFIX = "idc-run/"
_DIGITS = 12
_CODE = "src"
# where results are told is a matter of the branch, not of the run
_BRANCH_SECTION = "publish"
_ABSENT = object()


def tag_of(digest: str) -> str:
    """Return the tag of the run with this result digest."""
    return f"{TAG_PREFIX}{digest[:_DIGITS]}"


def record_run(workspace: Path) -> str | None:
    """Commit a finished run's lock, parameters, subsets and raw pointers, and tag the commit.

    The tag survives the workspace. A result that has a tag already keeps it.

    Returns:
        The tag, such as `idc-run/1234567890ab`; None without git.

    Raises:
        InputError: If nothing has run there, or git fails.
    """
    digest = result_digest(load_lock(workspace))
    if not has_commit(workspace):
        return None
    tag = tag_of(digest)
    if _commit_of(workspace, tag) is not None:
        return tag
    pointers = [path.relative_to(workspace) for path in (workspace / RAW).glob("*.dvc")]
    files = [PARAMS, DVC_LOCK, CASE_SUBSETS, *sorted(pointers)]
    there = [str(path) for path in files if (workspace / path).exists()]
    git(workspace, "add", "--force", "--", *there)
    published = load_json(workspace / PUBLISHED)
    git(
        workspace, "commit", "--quiet", "--allow-empty",
        "-m", f"Results of {workspace.name}",
        "-m", f"result digest {digest}\nMLflow run {published['run_id']}\n"
        f"model {published['model_name']} version {published['model_version']}",
    )  # fmt: skip
    git(workspace, "tag", tag, "HEAD")
    return tag


def keep_case_subsets(workspace: Path) -> int:
    """Add the subsets that a workspace's split gave to new cases to the project's own file.

    They hold for good: the next run must assign no case anew that a model of this one has learnt
    from. Runs at the same time wait for each other.

    Returns:
        How many cases were added.

    Raises:
        InputError: If the project's file says otherwise by now.
    """
    root = describe_workspace(workspace).root
    path, theirs = root / CASE_SUBSETS, (workspace / CASE_SUBSETS).read_text(encoding="utf-8")
    (root / STATE).mkdir(exist_ok=True)
    with FileLock(root / STATE / "case_subsets.lock"):
        ours = path.read_text(encoding="utf-8") if path.exists() else ""
        try:
            joined = join_case_subsets(ours, theirs)
        except InputError as error:
            raise InputError(f"{path}: {error}; run again on today's data") from None
        if joined == ours:
            return 0
        with replacing_file(path) as partial:
            partial.write_text(joined, encoding="utf-8")
    return len(joined.splitlines()) - max(2, len(ours.splitlines()))


@dataclass(frozen=True)
class Adopted:
    """What came into the branch."""

    commit: str
    """The new commit; the old one where all was there already."""
    changed_code: tuple[str, ...]
    """Files of the code in which the branch differs from the run."""
    changed_raw: bool
    """Whether the branch's raw pointers are not the run's."""


def adopt_run(root: Path, tag: str) -> Adopted:
    """Bring a recorded run into the current branch, as one commit.

    `dvc.lock` and `params.yaml` (but its section `publish`) become the run's; raw pointers that
    the branch lacks come too. A subset once given to a case stays: the subsets of the branch and of
    the run must agree, and the longer list is kept.

    Raises:
        InputError: If there is no git or no such tag, tracked files are changed, or the subsets of
            a case differ.
    """
    _require_git(root)
    commit = _commit_of(root, tag)
    if commit is None:
        raise InputError(f"there is no tag {tag}: `git tag --list '{TAG_PREFIX}*'` lists the runs")
    _require_clean(root)
    reject_earlier_name(root / CASE_SUBSETS)
    files = _adopted_files(root, commit)
    override_params(root / PARAMS, _changed_params(root, commit))
    git(root, "add", "--", str(PARAMS))
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(root / path) as partial:
            partial.write_text(content, encoding="utf-8")
        git(root, "add", "--force", "--", str(path))
    changed_code = git(root, "diff", "--name-only", commit, "--", _CODE).splitlines()
    ours = {path.name: path.read_text(encoding="utf-8") for path in (root / RAW).glob("*.dvc")}
    changed_raw = ours != {path.name: text for path, text in _pointers_in(root, commit).items()}
    if git(root, "diff", "--cached", "--name-only"):
        git(root, "commit", "--quiet", "-m", f"Adopt {tag}")
    return Adopted(git(root, "rev-parse", "HEAD"), tuple(changed_code), changed_raw)


@dataclass(frozen=True)
class Retention:
    """Which runs stay: younger than `days`, or among the `last` ones; and whatever an alias names.

    A run that an alias of the registered model points at, and a workspace in use, always stay.
    """

    days: float = 30.0
    last: int = 10


@dataclass(frozen=True)
class Garbage:
    """What no rule keeps."""

    workspaces: tuple[Workspace, ...]
    tags: tuple[str, ...]


def find_garbage(root: Path, rule: Retention, aliased: Collection[str]) -> Garbage:
    """Return what the rule gives up.

    Args:
        root: The project.
        rule: What stays.
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
        for number, (tag, made) in enumerate(_tags(root))
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
    """Return the `dvc gc` that frees what neither a branch, a tag nor a workspace needs.

    Other clones that share the cache are not known here: name them behind `--projects`.
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


def _require_git(root: Path) -> None:
    if not has_commit(root):
        raise InputError(f"{root} is no git repository with a commit: runs are tags of one")


def _require_clean(root: Path) -> None:
    """Refuse changes that adopting would mix up; subsets join the run's, so they may be new."""
    changed = git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    changed += git(root, "status", "--porcelain", "--", str(DVC_LOCK), str(PARAMS)).splitlines()
    for name in (line[3:] for line in changed):
        if name != str(CASE_SUBSETS):
            raise InputError(f"{name} is not committed: commit or undo it, then adopt")


def _adopted_files(root: Path, commit: str) -> dict[Path, str]:
    files = {DVC_LOCK: _file_in(root, commit, DVC_LOCK) or ""}
    subsets = _file_in(root, commit, CASE_SUBSETS)
    if subsets is None:  # a run from before December 2026
        subsets = _file_in(root, commit, EARLIER_CASE_SUBSETS)
    if subsets is not None:
        files[CASE_SUBSETS] = _longer_subsets(root / CASE_SUBSETS, subsets)
    pointers = _pointers_in(root, commit)
    return files | {path: text for path, text in pointers.items() if not (root / path).exists()}


def _pointers_in(root: Path, commit: str) -> dict[Path, str]:
    """Return the raw pointers of a commit and their content."""
    names = git(root, "ls-tree", "--name-only", commit, f"{RAW}/").splitlines()
    pointers = [Path(name) for name in names if name.endswith(".dvc")]
    return {path: _file_in(root, commit, path) or "" for path in pointers}


def _changed_params(root: Path, commit: str) -> dict[str, Any]:
    """Return by dotted key what the run's parameters change in the branch's.

    Those that are none any more are named in the log and left out: only code of then reads them.
    """
    ours = yaml.safe_load((root / PARAMS).read_text(encoding="utf-8"))
    theirs = yaml.safe_load(_file_in(root, commit, PARAMS) or "")
    changed = {
        f"{section}.{key}": value
        for section, values in theirs.items()
        if section != _BRANCH_SECTION
        for key, value in values.items()
        if value != ours.get(section, {}).get(key, _ABSENT)
    }
    known = {f"{section}.{key}" for section, values in ours.items() for key in values}
    gone = sorted(changed.keys() - known)
    if gone:
        log.warning("left out, for they are no parameters any more: %s", ", ".join(gone))
    return {key: value for key, value in changed.items() if key in known}


def _longer_subsets(path: Path, theirs: str) -> str:
    theirs = with_today_header(theirs)
    ours = with_today_header(path.read_text(encoding="utf-8")) if path.exists() else theirs
    try:
        joined = join_case_subsets(ours, theirs)
    except InputError as error:
        raise InputError(f"{path.name}: {error}: such a run cannot be adopted") from None
    if joined not in (ours, theirs):
        raise InputError(
            f"{path.name}: the branch and the run each gave subsets to cases the other does not "
            "know: run again on today's data"
        )
    return joined


def _tags(root: Path) -> list[tuple[str, datetime]]:
    """Return the tags of runs and when their commits were made, the newest first."""
    if not has_commit(root):
        return []
    listed = git(
        root, "for-each-ref", "--sort=-creatordate",
        "--format=%(refname:short) %(creatordate:unix)", f"refs/tags/{TAG_PREFIX}",
    )  # fmt: skip
    pairs = [line.rsplit(" ", 1) for line in listed.splitlines()]
    return [(tag, datetime.fromtimestamp(int(made), UTC)) for tag, made in pairs]


def _tag_in(workspace: Workspace) -> str | None:
    """Return the tag that a workspace's results have, or would have."""
    if not (workspace.folder / DVC_LOCK).exists():
        return None
    return tag_of(result_digest(load_lock(workspace.folder)))


def _commit_of(root: Path, tag: str) -> str | None:
    try:
        return git(root, "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}")
    except InputError:
        return None


def _file_in(root: Path, commit: str, path: Path) -> str | None:
    try:
        return git(root, "show", f"{commit}:{path}") + "\n"
    except InputError:
        return None
