"""How much disk folders take, and how much their removal frees, where files are hard links."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def disk_usage(*places: Path) -> int:
    """Return the bytes on disk of files, or of all files in folders, counting hard links once."""
    return sum({(s.st_dev, s.st_ino): _bytes(s) for s in _statuses(places)}.values())


def freed_bytes(places: Iterable[Path]) -> int:
    """Return the bytes that come free if these files and folders are removed together.

    A file that also has a name elsewhere, such as in DVC's cache, takes its place as before.
    """
    sizes: dict[tuple[int, int], int] = {}
    names_left: dict[tuple[int, int], int] = {}
    for status in _statuses(places):
        file = status.st_dev, status.st_ino
        sizes[file] = _bytes(status)
        names_left[file] = names_left.get(file, status.st_nlink) - 1
    return sum(size for file, size in sizes.items() if names_left[file] == 0)


def _bytes(status: os.stat_result) -> int:
    return status.st_blocks * 512


def _statuses(places: Iterable[Path]) -> Iterator[os.stat_result]:
    for path in (path for place in places for path in _files(place)):
        try:
            yield path.lstat()
        except FileNotFoundError:  # a run removed it meanwhile
            continue


def _files(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        yield place
    for folder, _, names in os.walk(place):
        yield from (Path(folder) / name for name in names)
