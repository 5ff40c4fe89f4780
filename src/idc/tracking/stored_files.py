"""Files of runs and models in the store: which are there, and the missing ones added."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mlflow.entities import FileInfo
from mlflow.tracking import MlflowClient


def list_files(
    list_folder: Callable[[str | None], Sequence[FileInfo]], folder: str | None = None
) -> set[str]:
    """Return the paths of all files of a run or model.

    Args:
        list_folder: What MLflow lists of one folder, None for the uppermost.
        folder: Where to begin.
    """
    found: set[str] = set()
    for item in list_folder(folder):
        found |= list_files(list_folder, item.path) if item.is_dir else {item.path}
    return found


def log_missing_files(
    client: MlflowClient, run_id: str, artifacts: Mapping[str, Path], *, overwrite: bool = False
) -> int:
    """Add those files of the artifacts that a run lacks; those that are there are not looked into.

    Args:
        client: Of the store.
        run_id: The run.
        artifacts: Files and folders by their name, which is their path's last part.
        overwrite: Whether all of them count as missing.

    Returns:
        How many were missing.
    """
    there = set() if overwrite else list_files(partial(client.list_artifacts, run_id))
    num_missing = 0
    for name, path in artifacts.items():
        files = _files_of(name, path)
        missing = sorted(files.keys() - there)
        num_missing += len(missing)
        if path.is_dir() and len(missing) == len(files):
            client.log_artifacts(run_id, str(path), name)
            continue
        for file in missing:
            client.log_artifact(run_id, str(files[file]), file.rpartition("/")[0] or None)
    return num_missing


def _files_of(name: str, path: Path) -> dict[str, Path]:
    """Return where each file of an artifact lies here, by its path in the store."""
    if not path.is_dir():
        return {name: path}
    return {
        f"{name}/{file.relative_to(path).as_posix()}": file
        for file in path.rglob("*")
        if file.is_file()
    }
