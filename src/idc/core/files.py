"""Write beside, then rename: a file or folder appears under its final name only when whole."""

import errno
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from idc.core.errors import InputError

_MAX_YAML_CHARACTERS = 1 << 19  # params.yaml has 9,000; the parser takes some seconds for so many
_MAX_YAML_NODES = 100_000
_MAX_INTEGER = 1 << 64  # longer ones cannot even be printed, from 4,300 digits on
# PyYAML's constructors let pass whatever Python's own conversions raise
_YAML_ERRORS = (
    yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError,
    RecursionError,
)  # fmt: skip

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


def try_writing(folder: Path) -> None:
    """Write a file into the folder, or the nearest one above that exists; nothing is left.

    Raises:
        OSError: If that fails, as where it may not be written or its disk is full.
    """
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    with tempfile.TemporaryFile(dir=existing) as file:
        file.write(b"probe")


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
    text = load_text(path, if_missing="run `dvc repro` to make it")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not JSON ({error})", fix="delete it and run `dvc repro`"
        ) from None


def load_yaml(path: Path, *, if_missing: str) -> Any:  # noqa: ANN401
    """Read a YAML file that people write.

    Args:
        path: The file.
        if_missing: What to do where there is none, for people.

    Raises:
        InputError: If it is missing, or as `parse_yaml`.
    """
    return parse_yaml(load_text(path, if_missing=if_missing), str(path))


def parse_yaml(text: str, name: str) -> Any:  # noqa: ANN401
    """Read YAML that people write.

    Args:
        text: The content.
        name: What it is, for people.

    Raises:
        InputError: If it is not YAML, or larger than any file of this project: with aliases, a few
            lines can stand for more than fits into memory.
    """
    try:
        if len(text) > _MAX_YAML_CHARACTERS:
            raise ValueError(f"over {_MAX_YAML_CHARACTERS:,} characters")
        content = yaml.safe_load(text)
        _reject_expansion(content)
    except _YAML_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{name} is not YAML: {reason}") from None
    return content


def _reject_expansion(content: Any) -> None:  # noqa: ANN401
    """Check that the content, its aliases followed, is small.

    Raises:
        ValueError: If not.
    """
    left, num_nodes = [content], 0
    while left:
        node = left.pop()
        num_nodes += 1
        if isinstance(node, dict):
            left += [*node, *node.values()]
        elif isinstance(node, list | tuple | set):
            left += node
        elif isinstance(node, int) and abs(node) >= _MAX_INTEGER:
            raise ValueError("a number of more than 64 bits")
        if num_nodes + len(left) > _MAX_YAML_NODES:
            raise ValueError(f"over {_MAX_YAML_NODES:,} values, aliases followed")


def load_text(path: Path, *, if_missing: str) -> str:
    """Read a text file that people edit.

    Args:
        path: The file.
        if_missing: What to do where there is none, for people.

    Raises:
        InputError: If it is missing, cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} is missing", fix=if_missing) from None
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise InputError(f"{path} is not UTF-8 ({reason})", fix="save it as UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
