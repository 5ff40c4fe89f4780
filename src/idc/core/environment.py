"""The environment of processes that this project starts: quiet, with its own code and Python."""

import os
import sys
from pathlib import Path
from types import MappingProxyType


def _read_settings(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


QUIET = MappingProxyType(_read_settings(Path(__file__).with_name("quiet.env")))
"""What keeps the tools from asking the network or reporting use, by name of the variable."""

PICTURES = MappingProxyType(
    {"MPLBACKEND": "agg", "MATPLOTLIBRC": str(Path(__file__).with_name("matplotlibrc"))}
)
"""What keeps pictures the same wherever they are drawn, by name of the variable.

A notebook leaves its own backend in `MPLBACKEND`, which a stage could not import; a user's
matplotlibrc would change fonts and grids of outputs whose bytes DVC compares.
"""


def own_environment(root: Path) -> dict[str, str]:
    """Return today's environment with the code of `root`, this Python, and `QUIET`."""
    environment = os.environ | QUIET
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment["PYTHONPATH"] = f"{root / 'src'}{os.pathsep}{root}"
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
