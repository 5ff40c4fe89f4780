"""The environment of a fresh clone: installed packages, and nothing else of this process."""

import os
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


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


def link_requirements(venv: Path, lines: list[str]) -> Path:
    """Make an environment of the packages that `lines` require, and of what these require.

    Without a network: the packages are those installed here, which must be of the versions asked.

    Args:
        venv: A folder that does not exist yet.
        lines: As in requirements.txt.

    Returns:
        Its Python.

    Raises:
        ValueError: Naming a requirement that what is installed here does not meet.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    todo, done = [Requirement(line) for line in lines], set()
    while todo:
        requirement = todo.pop()
        package = distribution(requirement.name)
        if not requirement.specifier.contains(package.version, prereleases=True):
            raise ValueError(f"{requirement} is asked, {package.version} is installed")
        if (found := (canonicalize_name(requirement.name), *sorted(requirement.extras))) in done:
            continue
        done.add(found)
        _link_package(package, packages)
        extras = {"", *requirement.extras}
        for line in package.requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                todo.append(needed)
    return venv / "bin" / "python"


def _link_package(package: Distribution, into: Path) -> None:
    """Link a package's files; folders that several share (`nvidia/`) are made, not linked."""
    for file in package.files or []:
        target = into / PurePosixPath(file)
        if ".." in file.parts or "__pycache__" in file.parts or target.exists():
            continue  # commands in bin/ are not needed
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(package.locate_file(file))
