"""A recorded run brought into the current branch."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from idc.core.errors import InputError
from idc.core.files import load_yaml, replacing_file
from idc.core.git import git, has_commit
from idc.core.layout import CASE_SUBSETS, DVC_LOCK, EARLIER_CASE_SUBSETS, PARAMS, RAW, RAW_POINTER
from idc.data.split.case_subsets import (
    join_case_subsets,
    reject_earlier_name,
    with_today_header,
)
from idc.runs.lineage import find_pointers
from idc.runs.tags import TAG_PREFIX, commit_of
from idc.runs.workspace import override_params

log = logging.getLogger(__name__)

_CODE = "src"
# where results are published is a matter of the branch, not of the run
_BRANCH_SECTION = "publish"
_ABSENT = object()


@dataclass(frozen=True)
class Adopted:
    """What was brought into the branch."""

    commit: str
    """The new commit; the old one if the branch already had everything."""
    changed_code: tuple[str, ...]
    """Files of the code in which the branch differs from the run."""
    changed_raw: bool
    """Whether the branch's raw pointers differ from the run's."""


def adopt_run(root: Path, tag: str) -> Adopted:
    """Bring a recorded run into the current branch, as one commit.

    `dvc.lock` and `params.yaml` (except its section `publish`) become the run's; raw pointers that
    the branch lacks are added. A case keeps its subset: the subsets of the branch and of the run
    must agree, and the longer list is kept.

    Raises:
        InputError: If there is no git repository or no such tag, tracked files are changed, or the
            subsets of a case differ.
    """
    _require_git(root)
    commit = commit_of(root, tag)
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
    pointers = find_pointers(root)
    ours = {path.relative_to(root): path.read_text(encoding="utf-8") for path in pointers}
    changed_raw = ours != _pointers_in(root, commit)
    if git(root, "diff", "--cached", "--name-only"):
        git(root, "commit", "--quiet", "-m", f"Adopt {tag}")
    return Adopted(git(root, "rev-parse", "HEAD"), tuple(changed_code), changed_raw)


def _require_git(root: Path) -> None:
    if not has_commit(root):
        raise InputError(f"{root} is not a git repository with a commit, which adopting needs")


def _require_clean(root: Path) -> None:
    """Reject changes that adopting would overwrite; uncommitted subsets are merged, so allowed."""
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
    """Return the raw pointers in a commit and their content."""
    names = git(root, "ls-tree", "--name-only", commit, f"{RAW}/", str(RAW_POINTER)).splitlines()
    pointers = [Path(name) for name in names if name.endswith(".dvc")]
    return {path: _file_in(root, commit, path) or "" for path in pointers}


def _changed_params(root: Path, commit: str) -> dict[str, Any]:
    """Return the run's parameters that differ from the branch's, by dotted key.

    Parameters that no longer exist are named in the log and left out: only older code reads them.
    """
    ours = load_yaml(root / PARAMS, if_missing="restore it from git")
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
        log.warning("left out because they are no longer parameters: %s", ", ".join(gone))
    return {key: value for key, value in changed.items() if key in known}


def _longer_subsets(path: Path, theirs: str) -> str:
    theirs = with_today_header(theirs)
    ours = with_today_header(path.read_text(encoding="utf-8")) if path.exists() else theirs
    try:
        joined = join_case_subsets(ours, theirs)
    except InputError as error:
        raise InputError(f"{path.name}: {error}: this run cannot be adopted") from None
    if joined not in (ours, theirs):
        raise InputError(
            f"{path.name}: the branch and the run each assigned cases that the other does not "
            "have: run again on today's data"
        )
    return joined


def _file_in(root: Path, commit: str, path: Path) -> str | None:
    try:
        return git(root, "show", f"{commit}:{path}") + "\n"
    except InputError:
        return None
