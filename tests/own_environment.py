"""The environment of a fresh clone: installed packages, and nothing else of this process."""

import os
import sys
from pathlib import Path


def link_environment(venv: Path) -> None:
    """Make a `.venv` of this environment, as `make setup` would have made it."""
    venv.mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name != ".installed":
            (venv / part.name).symlink_to(part)
    (venv / ".installed").touch()


def clean_environment(folder: Path) -> dict[str, str]:
    """Return the variables of somebody who works in `folder` and has set nothing up."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DVC", "GIT", "MAKE", "MFLAGS", "MLFLOW", "PREFECT", "VENV"))
    }
    code = os.pathsep.join(map(str, (folder / "src", folder)))  # not that of another checkout
    return kept | {"PYTHONPATH": code, "MLFLOW_DISABLE_TELEMETRY": "1"}
