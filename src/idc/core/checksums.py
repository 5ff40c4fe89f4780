"""SHA-256 of every file of a folder, as `sha256sum` writes them: a flipped bit is refused.

They tell damage, in a copy or on a disk. Who can write to the folder can write them anew: against
that, their own digest is kept elsewhere, for a registered model with its version.
"""

import hashlib
from pathlib import Path

from idc.core.errors import InputError
from idc.core.files import load_text

SUMS = "SHA256SUMS"
"""Name of the file in the folder; `sha256sum --check SHA256SUMS` reads it too."""

_DIGITS = 64


def write_sums(folder: Path) -> str:
    """Write the digests of all files below `folder`; return the digest of that list."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in names if name != SUMS]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    return file_sha256(folder / SUMS)


def require_unchanged(folder: Path, *names: str) -> None:
    """Check files against what `write_sums` wrote; a folder from before that has no such list.

    Args:
        folder: The folder.
        names: Files below it; without any, all that are listed.

    Raises:
        InputError: Naming the first file that is missing, not listed or other than it was.
    """
    path = folder / SUMS
    if not path.is_file():
        return
    listed = _read_sums(path)
    for name in names or listed:
        if name not in listed:
            raise _changed(folder / name, f"is not listed in {SUMS}")
        if not (folder / name).is_file():
            raise _changed(folder / name, "is missing")
        if file_sha256(folder / name) != listed[name]:
            raise _changed(folder / name, f"is not the file that {SUMS} lists")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_sums(path: Path) -> dict[str, str]:
    listed = {}
    text = load_text(path, if_missing="restore it")
    # not splitlines: names may hold other line separators
    for line in text.removesuffix("\n").split("\n") if text else []:
        digest, _, name = line.partition("  ")
        if (
            len(digest) != _DIGITS
            or not name
            or Path(name).is_absolute()
            or ".." in Path(name).parts
        ):
            raise _changed(path, "is damaged")
        listed[name] = digest
    return listed


def _changed(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} {what}: it was damaged or exchanged",
        fix="restore it (`dvc checkout`, or a backup), or train again",
    )
