"""DVC as a subprocess, with the project's own code and Python."""

import os
import subprocess
import sys
from pathlib import Path

from idc.core.environment import own_environment
from idc.core.errors import InputError, first_reason


def dvc(root: Path, *arguments: str) -> str:
    """Run DVC in `root` and return what it printed.

    Raises:
        InputError: With DVC's own reason, if it fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root, env=own_environment(root), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        reason = first_reason(done.stderr or done.stdout)
        raise InputError(f"dvc {' '.join(arguments)} failed in {root}: {reason}")
    return done.stdout


def experiment_project(folder: Path) -> Path | None:
    """Return the project of an experiment that DVC runs in a temporary folder, as `--temp` does.

    Args:
        folder: Where a stage runs.
    """
    project = os.environ.get("DVC_ROOT")  # DVC tells it every stage
    if not project:
        return None
    is_temporary = (Path(project) / ".dvc/tmp").resolve() in folder.resolve().parents
    return Path(project) if is_temporary else None
