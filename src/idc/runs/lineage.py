"""Where a result comes from: the git commit and the digests that DVC recorded."""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError

from idc.core.errors import InputError
from idc.core.files import load_json, load_text, load_yaml, parse_yaml
from idc.core.git import ForeignRepositoryError, git
from idc.core.layout import CASE_SUBSETS, DVC_LOCK, PARAMS, RAW, RAW_POINTER, WORKSPACE_RECORD

PUBLISH_STAGE = "publish"
_MAX_NAME, _MAX_PATH = 255, 3000  # bytes; Linux allows 4096 with the folders above


def _require_possible(path: str) -> str:
    if len(os.fsencode(path)) > _MAX_PATH or any(
        len(os.fsencode(part)) > _MAX_NAME for part in path.split("/")
    ):
        raise ValueError("no file can have so long a name")
    return path


_PathName = Annotated[str, AfterValidator(_require_possible)]


class _Item(BaseModel):
    """A dependency or an output, of `dvc.lock`."""

    path: _PathName
    md5: str


class _Stage(BaseModel):
    deps: list[_Item] = []
    outs: list[_Item] = []


class _Out(BaseModel):
    """What a pointer of DVC names."""

    path: _PathName
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
    if any(line.startswith("<<<<<<< ") for line in content.splitlines()):
        raise InputError(
            f"{DVC_LOCK} has conflict markers of git",
            fix=f"`git checkout --ours {DVC_LOCK}` (or `--theirs`), then `make repro`",
        )
    lock = parse_yaml(content, DVC_LOCK.name)
    stages = lock.get("stages") if isinstance(lock, dict) else None
    remedy = f"restore it (`git checkout {DVC_LOCK}`), or remove it and run `make repro`"
    if not isinstance(stages, dict):
        raise InputError(f"{DVC_LOCK} records no stages", fix=remedy)
    try:
        _STAGES.validate_python(stages)
        json.dumps(stages, sort_keys=True)
    except (ValidationError, TypeError, ValueError) as error:
        reason = _first_fault(error)
        raise InputError(f"{DVC_LOCK} is damaged ({reason})", fix=remedy) from None
    return stages


def _first_fault(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)[:200]
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))[:200]}: {fault['msg'].lower()}"


def result_digest(stages: dict[str, Any]) -> str:
    """Return 64 hex digits that identify one combination of data, code, parameters and results."""
    results = {name: stage for name, stage in stages.items() if name != PUBLISH_STAGE}
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


def recorded_md5(stages: dict[str, Any], stage: str, path: str) -> str:
    """Return the md5 of a dependency or output (folders end in `.dir`), as DVC recorded it.

    Raises:
        InputError: If the stage has not run.
    """
    entry = stages.get(stage, {})
    for item in [*entry.get("deps", []), *entry.get("outs", [])]:
        if item["path"] == path:
            return str(item["md5"])
    raise InputError(
        f"{DVC_LOCK} records no {path} of stage {stage}", fix=f"run `dvc repro {stage}`"
    )


def reject_unrecorded_results(root: Path, stages: dict[str, Any]) -> None:
    """Check that the result files are the ones `dvc.lock` records.

    Raises:
        InputError: Naming the first file that differs.
    """
    for name, stage in stages.items():
        if name == PUBLISH_STAGE:
            continue
        for out in stage.get("outs", []):
            path = root / out["path"]
            if out["md5"].endswith(".dir"):
                intact = path.is_dir()
            else:
                intact = path.is_file() and file_md5(path) == out["md5"]
            if not intact:
                raise InputError(
                    f"{out['path']} is not what {DVC_LOCK} records", fix="run `dvc repro`"
                )


def file_md5(path: Path) -> str:
    """Return the md5 of a file, as DVC records it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def folder_md5(folder: Path) -> str:
    """Return the md5 of a folder, ending in `.dir`, as DVC records it.

    It is the md5 of a JSON list of the files' paths and md5s. Of what `.dvcignore` excludes, only
    bytecode is excluded here.
    """
    files = [
        {"md5": file_md5(path), "relpath": path.relative_to(folder).as_posix()}
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    listed = json.dumps(sorted(files, key=lambda file: file["relpath"]), sort_keys=True)
    return f"{hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest()}.dir"


def find_pointers(root: Path) -> list[Path]:
    """Return DVC's pointers to the raw archives: beside each, or one to their whole folder."""
    whole = root / RAW_POINTER
    return sorted((root / RAW).glob("*.dvc")) + ([whole] if whole.is_file() else [])


def stale_pointers(root: Path, *, by_content: bool) -> list[Path]:
    """Return DVC's pointers whose archive is missing or is not the one they name.

    Args:
        root: The project.
        by_content: Compare the content of the archives; otherwise only their sizes.
    """
    stale = []
    for pointer in find_pointers(root):
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
