"""A recorded run brought into the current branch."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from idc.core.errors import InputError
from idc.core.files import replacing_file
from idc.core.git import git, has_commit
from idc.core.layout import CASE_SUBSETS, DVC_LOCK, EARLIER_CASE_SUBSETS, PARAMS, RAW
from idc.data.split.case_subsets import (
    join_case_subsets,
    reject_earlier_name,
    with_today_header,
)
from idc.runs.tags import TAG_PREFIX, commit_of
from idc.runs.workspace import override_params

log = logging.getLogger(__name__)

_CODE = "src"
# where results are published is a matter of the branch, not of the run
_BRANCH_SECTION = "publish"
_ABSENT = object()


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
    ours = {path.name: path.read_text(encoding="utf-8") for path in (root / RAW).glob("*.dvc")}
    changed_raw = ours != {path.name: text for path, text in _pointers_in(root, commit).items()}
    if git(root, "diff", "--cached", "--name-only"):
        git(root, "commit", "--quiet", "-m", f"Adopt {tag}")
    return Adopted(git(root, "rev-parse", "HEAD"), tuple(changed_code), changed_raw)


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


def _file_in(root: Path, commit: str, path: Path) -> str | None:
    try:
        return git(root, "show", f"{commit}:{path}") + "\n"
    except InputError:
        return None
