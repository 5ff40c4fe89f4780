"""The plans of experiments and sweeps, such as `configs/screen.yaml` and `configs/sweep.yaml`."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from idc.core.config import Section
from idc.core.errors import InputError
from idc.core.files import load_yaml

Content = TypeVar("Content", bound=Section)


def read_plan(path: Path, kind: type[Content], *, example: str) -> Content:
    """Read a plan's file and check the form of all that it holds.

    Args:
        path: The file.
        kind: What it must hold.
        example: The project's own file of that kind, named where this one is missing.

    Raises:
        InputError: Naming the file, the first key at fault, and the fault.
    """
    content = load_yaml(path, if_missing=f"name a file like {example}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"]) or "the whole file"
        raise InputError(f"{path}: {key}: {fault['msg'].lower()}") from None
