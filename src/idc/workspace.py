"""A workspace: a copy of the project in which a run with other parameters leaves no trace here.

Unchanged stages come back from the shared DVC cache; changed ones run. The copy needs no git.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from idc.config import load_params
from idc.errors import InputError
from idc.layout import (
    CASE_LISTS,
    CASE_SIDES,
    DVC_FILE,
    DVC_LOCK,
    LABEL_OVERRIDES,
    PARAMS,
    RAW,
)

WORKSPACES = Path(".workspaces")

_COPIED = (
    Path("src/idc"), Path("flows"), Path("tasks"), Path(".dvc/config"), Path(".dvcignore"),
    DVC_FILE, DVC_LOCK, PARAMS, CASE_LISTS, CASE_SIDES, LABEL_OVERRIDES,
)  # fmt: skip
_IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")

_SETTINGS = {
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # the 20 s it has by default are too few on a busy machine
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # threads that wait asleep: spinning ones slow two runs on one machine down tenfold
    "OMP_WAIT_POLICY": "passive",
}


def create_workspace(root: Path, folder: Path, overrides: Mapping[str, Any]) -> Path:
    """Make `folder` a fresh copy of the project with some parameters changed.

    Args:
        root: The project.
        folder: Where the copy goes; code and parameters of an earlier one there are replaced.
        overrides: New values by dotted key, such as `{"train.epochs": 3}`.

    Returns:
        The folder, absolute.

    Raises:
        InputError: If an override names no parameter or breaks its rule.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for part in _COPIED:
        _copy(root / part, folder / part)
    override_params(folder / PARAMS, overrides)
    _link_raw(root / RAW, folder / RAW)
    environment = stage_environment(folder)
    for key, value in (("core.no_scm", "true"), ("cache.dir", str(root.resolve() / ".dvc/cache"))):
        _run([sys.executable, "-m", "dvc", "config", "--local", key, value], folder, environment)
    return folder


def override_params(path: Path, overrides: Mapping[str, Any]) -> None:
    """Change values of a parameter file in place and check the result.

    Raises:
        InputError: If an override names no parameter or breaks its rule.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in overrides.items():
        section: Any = content
        *parents, last = key.split(".")
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            raise InputError(f"override {key}: {PARAMS} has no such parameter")
        section[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    load_params(path)


def load_overrides(path: Path) -> dict[str, Any]:
    """Read a file like `params.demo.yaml` as overrides by dotted key."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:  # noqa: ANN401
        if isinstance(value, dict):
            for key, below in value.items():
                visit(f"{prefix}.{key}" if prefix else key, below)
        else:
            flat[prefix] = value

    visit("", yaml.safe_load(path.read_text(encoding="utf-8")))
    return flat


def stage_environment(root: Path) -> dict[str, str]:
    """Return the environment in which the stages of `root` run: its own code, this Python."""
    environment = os.environ | _SETTINGS
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment["PYTHONPATH"] = f"{root / 'src'}{os.pathsep}{root}"
    environment["PYTHONUNBUFFERED"] = "1"
    environment.pop("MLFLOW_RUN_ID", None)
    return environment


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=_IGNORED)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _link_raw(source: Path, target: Path) -> None:
    """Show the raw archives in the workspace without a second copy of their bytes."""
    if not source.is_dir():
        return
    shutil.rmtree(target, ignore_errors=True)
    try:
        shutil.copytree(source, target, copy_function=os.link)
    except (OSError, shutil.Error):  # another file system, or one without hard links
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise InputError(f"{' '.join(command[1:])} failed in {folder}: {' '.join(last)}")
