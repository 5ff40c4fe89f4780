"""Where a result comes from: the git commit and the digests that DVC recorded."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from idc.core.errors import InputError
from idc.core.files import load_json, load_text, load_yaml, parse_yaml
from idc.core.git import ForeignRepositoryError, git
from idc.core.layout import CASE_SUBSETS, DVC_LOCK, PARAMS, RAW, RAW_POINTER, WORKSPACE_RECORD

PUBLISH_STAGE = "publish"


class _Item(BaseModel):
    """A dependency or an output, of `dvc.lock`."""

    path: str
    md5: str


class _Stage(BaseModel):
    deps: list[_Item] = []
    outs: list[_Item] = []


class _Out(BaseModel):
    """What a pointer of DVC names."""

    path: str
    md5: str | None = None
    size: int | None = None


_STAGES = TypeAdapter(dict[str, _Stage])
_OUTS = TypeAdapter(list[_Out])

# the results of a run are not changes to the code
_RESULTS = (DVC_LOCK, CASE_SUBSETS, RAW, RAW_POINTER)


def git_commit(root: Path) -> str:
    """Return the commit of the code at `root`, `none` without git; `-dirty` if changed since.

    In a workspace it is a commit of exactly its code, and `-dirty` if that was uncommitted; changed
    parameters do not count there.

    Raises:
        ForeignRepositoryError: If git refuses, because the clone belongs to another user.
    """
    record = root / WORKSPACE_RECORD
    recorded = str(load_json(record)["commit"]) if record.is_file() else None
    if recorded == "none":
        return recorded
    top = _git(root, "rev-parse", "--show-toplevel")
    # a workspace or an exported tree inside some other repository has no commit of its own
    if top is None or Path(top).resolve() != root.resolve():
        return "none"
    commit = recorded or _git(root, "rev-parse", "HEAD")
    if commit is None:
        return "none"
    own = (*_RESULTS, PARAMS) if recorded else _RESULTS
    others = (".", *(f":(exclude){path}" for path in own))
    changed = _git(root, "status", "--porcelain", "-uno", "--", *others)
    return f"{commit.removesuffix('-dirty')}-dirty" if changed else commit


def load_lock(root: Path) -> dict[str, Any]:
    """Read the stages that `dvc.lock` records.

    Raises:
        InputError: If there is no lock yet, or it is damaged, as by a merge of git.
    """
    path = root / DVC_LOCK
    if not path.exists():
        raise InputError(f"{DVC_LOCK} is missing", fix="run `dvc repro` first")
    content = load_text(path, if_missing="run `dvc repro` first")
    if any(line.startswith("    for pointer in find_pointers(root):
        for out in _outs_of(pointer) or [{"path": pointer.stem}]:
            if not _is_named_by(out, pointer.parent / out["path"], by_content=by_content):
                stale.append(pointer)
                break
    return stale


def _outs_of(pointer: Path) -> list[dict[str, Any]]:
    """Return what a pointer of DVC names, all of it beside the pointer.

    Raises:
        InputError: If it is no such pointer.
    """
    content = load_yaml(pointer, if_missing="restore it from git")
    outs = content.get("outs") if isinstance(content, dict) else None
    try:
        items = _OUTS.validate_python(outs or [])
    except ValidationError:
        items = None
    if (
        items is None
        or not isinstance(content, dict)
        or any(not _is_beside(item.path) for item in items)
    ):
        raise InputError(
            f"{pointer} is no pointer of DVC to what lies beside it",
            fix="restore it from git, or remove it and `dvc add` the archive again",
        )
    return outs or []


def _is_beside(path: str) -> bool:
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _is_named_by(out: dict[str, Any], path: Path, *, by_content: bool) -> bool:
    if not path.exists() or path.is_dir() != str(out.get("md5", "")).endswith(".dir"):
        return False
    if path.is_file() and path.stat().st_size != out.get("size", path.stat().st_size):
        return False
    if not by_content or "md5" not in out:
        return True
    found = folder_md5(path) if path.is_dir() else file_md5(path)
    return found == str(out["md5"])


def reject_stale_pointers(root: Path, *, by_content: bool) -> None:
    """Check that the archives are those that DVC's pointers name; arguments as `stale_pointers`.

    Raises:
        InputError: Naming the first pointer for which that does not hold.
    """
    for pointer in stale_pointers(root, by_content=by_content):
        raise InputError(
            f"the archive that {pointer} names is not here",
            fix=f"`dvc pull {pointer}` fetches it, or `dvc add {pointer.with_suffix('')}` records "
            "the archive that is here instead",
        )


def knows_commit(root: Path, commit: str) -> bool:
    """Say whether the git of `root` holds a commit."""
    return _git(root, "cat-file", "-e", f"{commit}^{{commit}}") is not None


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git printed, or None if it failed or is not installed."""
    try:
        return git(root, *arguments)
    except ForeignRepositoryError:
        raise
    except InputError:
        return None
