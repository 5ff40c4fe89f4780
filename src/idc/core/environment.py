"""The environment of processes that this project starts: quiet, with its own code and Python."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from idc.core.layout import STATE, WORKSPACE_RECORD


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


_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def exempt_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep requests to this machine from a proxy.

    Where a proxy is set and this machine is not exempt, as in most hospitals, MLflow and Prefect
    would ask it for servers that it cannot reach, and wait for minutes.
    """
    exempt = {
        host.strip()
        for name in ("no_proxy", "NO_PROXY")
        for host in environment.get(name, "").split(",")
        if host.strip()
    }
    # `*` exempts every host, but for most clients only where it stands alone
    hosts = "*" if "*" in exempt else ",".join(sorted(exempt | set(_LOOPBACK)))
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def prefect_home(project: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that give a clone Prefect's database and settings of its own.

    A profile in the user's own `~/.prefect` may name a server, to which runs would go unasked, and
    two clones that share a database overwrite each other's deployments. So `PREFECT_HOME` is in the
    clone unless the user names one, profiles are not read (Prefect's defaults hold where the file
    of profiles does not exist), and a server is named by `PREFECT_API_URL` alone.
    """
    home = environment.get("PREFECT_HOME") or str(project / STATE / "prefect")
    profiles = str(project / STATE / "prefect" / "no_profiles.toml")
    return {"PREFECT_HOME": home, "PREFECT_PROFILES_PATH": profiles}


def own_environment(root: Path) -> dict[str, str]:
    """Return today's environment with the code of `root`, this Python, and what is set here."""
    environment = os.environ | QUIET | PICTURES | exempt_loopback(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment["PYTHONPATH"] = f"{root / 'src'}{os.pathsep}{root}"
    environment["PYTHONUNBUFFERED"] = "1"
    if (root / WORKSPACE_RECORD).is_file():
        # DVC keeps an index per folder under /var/tmp, which would outlive the workspace
        environment["DVC_SITE_CACHE_DIR"] = str(root / ".dvc/tmp/site")
    return environment
