"""A workspace: a checkout of the project in which a run leaves no trace in the project itself.

With git it is a worktree of the last commit, or of the files as they are if they differ from it;
without git (an unpacked zip) it is a copy. Unchanged stages are restored from the shared DVC cache,
changed ones run; two workspaces never wait for each other's DVC lock. Runs are recorded in the
project's MLflow store.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from idc.core.config import dot_keys, load_params
from idc.core.dvc import dvc, experiment_project
from idc.core.environment import own_environment, prefect_home
from idc.core.errors import InputError
from idc.core.files import load_json, load_yaml, save_json
from idc.core.git import git, has_commit
from idc.core.layout import (
    CASE_LISTS,
    CASE_SUBSETS,
    DVC_FILE,
    DVC_LOCK,
    EARLIER_CASE_SUBSETS,
    LABEL_OVERRIDES,
    MLRUNS,
    PARAMS,
    RAW,
    RAW_POINTER,
    UNCOMMITTED,
    WORKSPACE_RECORD,
)
from idc.core.process_ids import ProcessId, identify_process, is_dead
from idc.core.removed_parameters import explain_removed
from idc.core.scratch import scratch_folder
from idc.core.store_uri import SQLITE, resolve_store_uri
from idc.runs.lineage import find_pointers

WORKSPACES = Path(".workspaces")

_PROJECT = (
    Path("src/idc"), Path("flows"), Path("tasks"), Path(".dvc/config"), Path(".dvcignore"),
    DVC_FILE, PARAMS, CASE_LISTS, LABEL_OVERRIDES,
)  # fmt: skip
# the earlier name of the subsets is included so that split can say what to do about it there too
_RESULTS = (DVC_LOCK, CASE_SUBSETS, EARLIER_CASE_SUBSETS, RAW_POINTER)
# what a run reads but raw pointers, tracked by git or not yet: a new module must not be left out
_READ_UNTRACKED = (Path("src"), Path("flows"), Path("tasks"), CASE_LISTS, *_RESULTS)
_IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")

_YAML_NULL = "tag:yaml.org,2002:null"
_YAML_WIDTH = 200  # longer than any line of params.yaml

# waiting threads sleep: if they spin, two runs on one machine slow each other down tenfold
_SETTINGS = {"OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class Workspace:
    """What a workspace records about itself in `.idc/workspace.json`."""

    folder: Path
    root: Path
    """The project it was made from."""
    commit: str
    """Of its code: 40 hex digits, followed by `-dirty` if it was uncommitted; or `none`."""
    opened: datetime
    """When a run last started in it."""
    in_use: bool
    """Whether the process that opened it is alive; one on another host counts as alive."""


def create_workspace(root: Path, folder: Path, overrides: Mapping[str, Any]) -> Path:
    """Make `folder` a checkout of the project with some parameters changed.

    An existing workspace there gets today's code and parameters and keeps its outputs.

    Args:
        root: The project.
        folder: Where the workspace goes.
        overrides: New values by dotted key, such as `{"train.epochs": 3}`.

    Returns:
        The folder, absolute.

    Raises:
        InputError: If an override names no parameter or breaks its rule, or git or DVC fails.
    """
    root, folder = root.resolve(), folder.resolve()
    lock = folder / DVC_LOCK
    own_lock = lock.read_bytes() if lock.is_file() and is_workspace(folder) else None
    (folder / WORKSPACE_RECORD).unlink(missing_ok=True)  # until all is there
    with_git = has_commit(root)
    commit = _check_out(root, folder) if with_git else _copy_files(root, folder)
    if own_lock is not None:
        lock.write_bytes(own_lock)
    _link_raw(root / RAW, folder / RAW)
    override_params(folder / PARAMS, overrides)
    _share_cache(root, folder, with_git=with_git)
    _record(root, folder, commit)
    return folder


def open_workspace(root: Path, folder: Path, overrides: Mapping[str, Any]) -> Path:
    """Make a workspace, or open the existing one unchanged: a run that is retried continues in it.

    Raises:
        InputError: As `create_workspace`.
    """
    if not is_workspace(folder):
        return create_workspace(root, folder, overrides)
    _record(root.resolve(), folder.resolve(), describe_workspace(folder).commit)
    return folder.resolve()


def copy_project(root: Path, folder: Path, overrides: Mapping[str, Any]) -> Path:
    """Make `folder` a project of its own: same code, no data, results, cache or store of `root`.

    An existing copy there gets today's code and parameters.

    Raises:
        InputError: If an override names no parameter or breaks its rule.
    """
    folder = folder.resolve()
    for part in _PROJECT:
        _copy(root / part, folder / part)
    override_params(folder / PARAMS, overrides)
    dvc(folder, "config", "--local", "core.no_scm", "true")
    return folder


def is_workspace(folder: Path) -> bool:
    """Say whether `folder` is a completely made workspace."""
    return (folder / WORKSPACE_RECORD).is_file()


def describe_workspace(folder: Path) -> Workspace:
    """Read what a workspace records about itself.

    Raises:
        InputError: If the folder is not a workspace.
    """
    record = load_json(folder / WORKSPACE_RECORD)
    return Workspace(
        folder=folder,
        root=Path(record["root"]),
        commit=record["commit"],
        opened=datetime.fromisoformat(record["opened"]),
        in_use=not is_dead(ProcessId(**record["opened_by"])),
    )


def project_of(folder: Path) -> Path:
    """Return the project that a workspace, or a temporary folder of `dvc exp run`, was made from.

    A project itself is its own. In its MLflow store the runs are recorded.
    """
    if (started_from := experiment_project(folder)) is not None:
        return project_of(started_from)
    return describe_workspace(folder).root if is_workspace(folder) else folder


def list_workspaces(root: Path) -> list[Workspace]:
    """Return the workspaces below `root`, the last opened first."""
    found = []
    for folder, below, _ in os.walk(root / WORKSPACES):
        if is_workspace(Path(folder)):
            found.append(describe_workspace(Path(folder)))
            below.clear()  # workspaces are not nested
    return sorted(found, key=lambda workspace: workspace.opened, reverse=True)


def remove_workspace(root: Path, folder: Path) -> None:
    """Remove a workspace and git's record of it; tags and the shared cache stay."""
    shutil.rmtree(folder)
    if has_commit(root):
        git(root, "worktree", "prune")
    for parent in folder.parents:
        if parent == root or any(parent.iterdir()):
            return
        parent.rmdir()


def override_params(path: Path, overrides: Mapping[str, Any]) -> None:
    """Change values of a parameter file in place and check the result; comments stay.

    Raises:
        InputError: If an override names no parameter or breaks its rule.
    """
    editor = _create_editor()
    content = editor.load(path.read_text(encoding="utf-8"))
    for key, value in overrides.items():
        section: Any = content
        *parents, last = key.split(".")
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            removed = explain_removed(key)
            raise InputError(removed or f"{PARAMS} has no such parameter", f"override {key}")
        section[last] = value
    if overrides:
        with path.open("w", encoding="utf-8") as file:
            editor.dump(content, file)
    load_params(path)


def _create_editor() -> YAML:
    editor = YAML()
    editor.width = _YAML_WIDTH
    editor.preserve_quotes = True
    editor.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar(_YAML_NULL, "null")
    )
    return editor


def load_overrides(path: Path) -> dict[str, Any]:
    """Read a file like `configs/demo.yaml` as overrides by dotted key.

    Raises:
        InputError: If it is missing, not YAML, or holds no values by name.
    """
    content = load_yaml(path, if_missing="name a file like configs/demo.yaml")
    if not isinstance(content, dict):
        raise InputError(f"{path} names no parameters", fix="write it like configs/demo.yaml")
    return dot_keys(content)


def stage_environment(root: Path, store: str | None = None) -> dict[str, str]:
    """Return the environment in which the stages of `root` run: its own code, this Python.

    Args:
        root: The project, a workspace, or a temporary folder of `dvc exp run`.
        store: Address of the MLflow store; None takes `MLFLOW_TRACKING_URI`, else the project's.

    Raises:
        InputError: If it names no store that can be used.
    """
    project = project_of(root)
    environment = own_environment(root) | _SETTINGS | prefect_home(project, os.environ)
    environment.pop("MLFLOW_RUN_ID", None)
    store = store or environment.get("MLFLOW_TRACKING_URI")
    if store:
        environment["MLFLOW_TRACKING_URI"] = resolve_store_uri(store, project)
    elif project != root:
        environment["MLFLOW_TRACKING_URI"] = f"{SQLITE}{project / MLRUNS}/mlflow.db"
    return environment


def _check_out(root: Path, folder: Path) -> str:
    """Make `folder` a worktree of the files as they are; return the commit as git_commit has it."""
    head = git(root, "rev-parse", "HEAD")
    commit = _snapshot(root, head)
    if _is_worktree_of(root, folder):
        git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        git(root, "worktree", "add", "--quiet", "--force", "--detach", str(folder), commit)
    (folder / UNCOMMITTED).unlink(missing_ok=True)
    if commit == head:
        return commit
    # results of earlier runs and pointers to data are not changes to the code
    others = [f":(exclude){path}" for path in (*_RESULTS, RAW)]
    diff = git(root, "diff", "--binary", head, commit, "--", ".", *others)
    if not diff:
        return head
    (folder / UNCOMMITTED).parent.mkdir(exist_ok=True)
    (folder / UNCOMMITTED).write_text(diff + "\n", encoding="utf-8", errors="surrogateescape")
    return f"{commit}-dirty"


def _snapshot(root: Path, head: str) -> str:
    """Return a commit of the files as they are now: `head` itself if nothing differs.

    Like `git stash create`, plus the untracked files that a run reads; the index is not touched.
    """
    with scratch_folder() as scratch:
        index = scratch / "index"
        own_index = root / git(root, "rev-parse", "--git-path", "index")
        if own_index.exists():
            shutil.copy2(own_index, index)
        with_index = {"GIT_INDEX_FILE": str(index)}
        git(root, "add", "--update", environment=with_index)
        read = (*_READ_UNTRACKED, *_pointers_for_git(root))
        there = [path for path in read if (root / path).exists()]
        folders = [str(path) for path in there if (root / path).is_dir()]
        files = [str(path) for path in there if not (root / path).is_dir()]
        git(root, "add", "--", *folders, environment=with_index)
        # a user may ignore every CSV, and DVC all of data/raw, but not what a run reads
        git(root, "add", "--force", "--", *files, environment=with_index)
        tree = git(root, "write-tree", environment=with_index)
    if tree == git(root, "rev-parse", f"{head}^{{tree}}"):
        return head
    return git(root, "commit-tree", tree, "-p", head, "-m", f"Uncommitted files on {head[:12]}")


def _pointers_for_git(root: Path) -> list[Path]:
    """Return the raw pointers, but for those behind a link, which git refuses to look into."""
    pointers = [path.relative_to(root) for path in find_pointers(root)]
    return [path for path in pointers if not (root / path.parent).is_symlink()]


def _is_worktree_of(root: Path, folder: Path) -> bool:
    if not has_commit(folder):
        return False
    ours, theirs = (
        (place / git(place, "rev-parse", "--git-common-dir")).resolve() for place in (root, folder)
    )
    return ours == theirs


def _copy_files(root: Path, folder: Path) -> str:
    for part in _PROJECT:
        _copy(root / part, folder / part)
    for part in _RESULTS:
        _copy(root / part, folder / part)
    return "none"


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=_IGNORED)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _link_raw(source: Path, target: Path) -> None:
    """Make the raw archives visible in the workspace without copying their bytes."""
    if not source.is_dir():
        return
    if target.is_symlink():  # where `source` itself is a link
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)
    try:
        shutil.copytree(source, target, copy_function=os.link)
    except (OSError, shutil.Error):  # another file system, or one without hard links
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)


def _share_cache(root: Path, folder: Path, *, with_git: bool) -> None:
    own = root / ".dvc/config.local"  # may hold the path of the cache and credentials of a remote
    if own.is_file():
        _copy(own, folder / ".dvc/config.local")
    cache = dvc(root, "cache", "dir").strip() if (root / ".dvc").is_dir() else ""
    # relative: DVC cannot write letters outside ASCII, which the way to the project may have
    way = os.path.relpath(Path(cache or root / ".dvc/cache").resolve(), folder.resolve())
    dvc(folder, "cache", "dir", "--local", way)
    if not with_git:
        dvc(folder, "config", "--local", "core.no_scm", "true")


def _record(root: Path, folder: Path, commit: str) -> None:
    save_json(
        folder / WORKSPACE_RECORD,
        {
            "root": str(root),
            "commit": commit,
            "opened": datetime.now(UTC).isoformat(timespec="seconds"),
            "opened_by": asdict(identify_process(os.getpid())),
        },
    )
