"""The git tags of recorded runs: `idc-run/` and the first digits of the result digest."""

from datetime import UTC, datetime
from pathlib import Path

from idc.core.errors import InputError
from idc.core.git import git, has_commit

TAG_PREFIX = "idc-run/"
_DIGITS = 12


def tag_of(digest: str) -> str:
    """Return the tag of the run with this result digest."""
    return f"{TAG_PREFIX}{digest[:_DIGITS]}"


def list_tags(root: Path) -> list[tuple[str, datetime]]:
    """Return the tags of runs and the times of their commits, newest first."""
    if not has_commit(root):
        return []
    listed = git(
        root, "for-each-ref", "--sort=-creatordate",
        "--format=%(refname:short) %(creatordate:unix)", f"refs/tags/{TAG_PREFIX}",
    )  # fmt: skip
    pairs = [line.rsplit(" ", 1) for line in listed.splitlines()]
    return [(tag, datetime.fromtimestamp(int(made), UTC)) for tag, made in pairs]


def commit_of(root: Path, tag: str) -> str | None:
    """Return the commit that a tag points at, None if there is no such tag."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}")
    except InputError:
        return None
