"""Logs of the services, which run for months: kept below a size."""

import logging
import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from idc.core.layout import SERVICES

_MAX_BYTES = 10_000_000  # months of a weekly retraining, and a moment to search
_LOCK = "logs.lock"

log = logging.getLogger(__name__)


def rotate_logs(root: Path) -> None:
    """Copy a log of over 10 MB to `<name>.log.1` and empty it, also while its service runs.

    A service writes to the file that it was started with, so that file is emptied, not renamed;
    since it appends, its next line becomes the first. What it writes between copying and emptying
    is lost. Where another process is at it, or the disk is full, the logs stay as they are.
    """
    folder = root / SERVICES
    try:
        if not _large_logs(folder):
            return
        with FileLock(folder / _LOCK, timeout=0):
            for path in _large_logs(folder):  # as another process may have left them
                shutil.copyfile(path, path.with_name(f"{path.name}.1"))
                os.truncate(path, 0)
    except Timeout:
        return
    except OSError as error:
        log.warning("logs of the services stay as they are (%s)", error.strerror)


def _large_logs(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.log") if path.stat().st_size > _MAX_BYTES]
