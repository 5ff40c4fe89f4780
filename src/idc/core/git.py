"""Git as a subprocess, so that hooks, signing and inherited variables of the user play no part."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from idc.core.errors import InputError, first_reason

# a hook that runs this code would name its own repository by these
_INHERITED = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
)  # fmt: skip
_SETTINGS = (
    "-c", f"core.hooksPath={os.devnull}",
    "-c", "commit.gpgSign=false",
    "-c", "tag.gpgSign=false",
    "-c", "core.quotePath=false",
    "-c", "advice.detachedHead=false",
)  # fmt: skip
_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "idc"), ("EMAIL", "idc@localhost"))
}


_FOREIGN = "dubious ownership"


class ForeignRepositoryError(InputError):
    """A repository of another user, in which git runs nothing: not the same as no repository."""


def git(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run git in `root` and return what it printed, without the last newline.

    Commits are made in the name of `idc`, so that a machine without a configured user can run.

    Raises:
        InputError: With git's own reason, if it fails or is not installed.
    """
    kept = {key: value for key, value in os.environ.items() if key not in _INHERITED}
    try:
        done = subprocess.run(
            ["git", *_SETTINGS, "-C", str(root), *arguments],
            env=kept | _IDENTITY | dict(environment or {}),
            capture_output=True,
            text=True,
            errors="surrogateescape",
        )
    except OSError as error:
        raise InputError(f"git cannot be run ({error})", fix="install it") from None
    if done.returncode:
        if _FOREIGN in done.stderr:
            raise ForeignRepositoryError(
                f"git refuses {root}, which belongs to another user",
                fix=f"git config --global --add safe.directory '{root.resolve()}'",
            )
        reason = first_reason(done.stderr or done.stdout)
        raise InputError(f"git {arguments[0]} failed in {root}: {reason}")
    return done.stdout.rstrip("\n")


def has_commit(root: Path) -> bool:
    """Say whether `root` is the top of a git repository or worktree that has a commit.

    A folder inside some other repository, such as an unpacked zip, is not.

    Raises:
        ForeignRepositoryError: If it belongs to another user.
    """
    try:
        top = git(root, "rev-parse", "--show-toplevel")
        git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except ForeignRepositoryError:
        raise
    except InputError:
        return False
    return Path(top).resolve() == root.resolve()
