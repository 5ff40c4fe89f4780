"""The input of experiments: plans such as `configs/screen.yaml`, and `KEY=VALUE` settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from idc.core.config import Section, dot_keys
from idc.core.errors import InputError
from idc.core.files import load_yaml, parse_yaml

_MAX_SHOWN = 200  # characters

Content = TypeVar("Content", bound=Section)


def read_plan(path: Path, kind: type[Content], *, example: str) -> Content:
    """Read the file of a plan and validate its content.

    Args:
        path: The file.
        kind: The model of its content.
        example: The project's own file of that kind, named if this one is missing.

    Raises:
        InputError: Naming the file, the first key with an error, and the error.
    """
    content = load_yaml(path, if_missing=f"name a file like {example}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"]) or "the whole file"
        raise InputError(fault["msg"].lower(), f"{path}: {key}") from None


def read_overrides(path: Path | None, settings: Sequence[str]) -> dict[str, Any]:
    """Return new parameter values by dotted key.

    Args:
        path: A file that nests them as params.yaml does, such as `configs/demo.yaml`, or None.
        settings: `KEY=VALUE` each; they take precedence over the file.

    Raises:
        InputError: If the file is missing or holds no keys, or a setting is not `KEY=VALUE`.
    """
    nested = {} if path is None else load_yaml(path, if_missing="name a file like params.yaml")
    if not isinstance(nested, dict):
        raise InputError(f"{path} holds no parameters", fix="nest keys and values as params.yaml")
    return dot_keys(nested) | dict(map(parse_setting, settings))


def parse_setting(text: str) -> tuple[str, Any]:
    """Return key and value of `KEY=VALUE`; the value is read as YAML, as in params.yaml.

    Raises:
        InputError: If there is no `=`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    where = f"--set {' '.join(text.split())[:_MAX_SHOWN]}"
    if not equals:
        raise InputError("no value", where, "write KEY=VALUE, such as train.epochs=3")
    try:
        return key, parse_yaml(value, value)
    except InputError:
        shown = " ".join(value.split())[:_MAX_SHOWN]
        raise InputError(f"{shown} is not a YAML value", where) from None
