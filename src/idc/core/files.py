"""Write beside, then rename: a file or folder appears under its final name only when whole."""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from idc.core.errors import InputError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; on success it takes `path`'s place, on failure it is removed.

    Raises:
        InputError: If the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _naming_a_full_disk(path):
            yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it takes `path`'s place.

    Raises:
        InputError: If the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with _naming_a_full_disk(path):
            yield partial
        # moved aside first: killed in mid-removal, half a folder must not keep the final name
        outdated = path.with_name(f".{path.name}.outdated")
        shutil.rmtree(outdated, ignore_errors=True)
        if path.exists():
            path.replace(outdated)
        partial.replace(path)
        shutil.rmtree(outdated, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _naming_a_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise InputError(
            f"{path} cannot be written whole ({error.strerror})", fix="make room and run again"
        ) from None


def save_json(path: Path, content: Any) -> None:  # noqa: ANN401  (any JSON value)
    """Write `content` as indented JSON whose bytes depend on the content alone.

    Raises:
        ValueError: If the content holds NaN or infinity, which JSON cannot say.
    """
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with replacing_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def load_json(path: Path) -> Any:  # noqa: ANN401
    """Read a JSON file that a stage wrote.

    Raises:
        InputError: If it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing", fix="run `dvc repro` to make it") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON ({error})", fix="delete it and run `dvc repro`"
        ) from None


def load_yaml(path: Path, *, if_missing: str) -> Any:  # noqa: ANN401
    """Read a YAML file that people write.

    Args:
        path: The file.
        if_missing: What to do where there is none, for people.

    Raises:
        InputError: If it is missing or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing", fix=if_missing) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
