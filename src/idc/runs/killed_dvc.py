"""What a DVC that was killed, or had no room to write, leaves half made and then fails on."""

import configparser
import json
import os
import re
import time
from pathlib import Path

_LOCKS = Path(".dvc/tmp/rwlock")  # who reads and writes which path
_WRITTEN_S = 1.0  # a DVC at work writes it in milliseconds
_CACHE = Path(".dvc/cache")
_FILLED_S = 60.0  # a DVC at work fills an entry at once; another workspace's may be about to
_CONFIGS = (Path(".dvc/config"), Path(".dvc/config.local"))  # the later one wins
_VALUE = re.compile(r"""(["'])(.*?)\1|([^#]*)""")  # in quotes, or up to a comment


def remove_empty_entries(root: Path) -> int:
    """Remove entries of the run cache that were made and not filled; return how many there were.

    DVC fails on such an entry, whenever the stage is to run on the same deps again, with "join()
    argument must be str".
    """
    removed = 0
    for entry in (_cache_folder(root) / "runs").glob("*/*/"):
        try:
            if time.time() - entry.stat().st_mtime > _FILLED_S:
                entry.rmdir()
                removed += 1
        except OSError:  # not empty, not ours to change, or gone
            continue
    return removed


def remove_torn_locks(root: Path) -> bool:
    """Remove DVC's list of locked paths if it is torn; say whether it was.

    DVC fails on it with "Unable to read RWLock-file" until somebody removes it.
    """
    path = root / _LOCKS
    if not _is_torn(path):
        return False
    time.sleep(_WRITTEN_S)
    if not _is_torn(path):
        return False
    try:
        path.unlink(missing_ok=True)
    except OSError:  # not ours to remove: DVC says the same
        return False
    return True


def _is_torn(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return True
    except OSError:  # there is none, or it is not ours to read
        return False
    return False


def _cache_folder(root: Path) -> Path:
    """Return the folder of the cache by the project's settings, without the second that DVC takes.

    What DVC itself could not read, and settings of the user or the machine, do not count.
    """
    folder = root / _CACHE
    for path in _CONFIGS:
        if own := _read_cache_dir(root / path):
            folder = (root / path).parent / own  # relative to the file that names it
    return folder


def _read_cache_dir(path: Path) -> str:
    """Return the folder that a file of settings names, nothing if it names none."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return ""
    value = _VALUE.match(config.get("cache", "dir", fallback=""))
    assert value is not None, "it matches even nothing"
    place = value[2] or (value[3] or "").strip()
    return os.path.expanduser(place)  # noqa: PTH111  (Path's raises for a user that there is not)
