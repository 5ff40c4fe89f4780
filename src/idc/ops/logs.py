"""Logs of the services, which run for months: kept below a size."""

import os
import shutil
from pathlib import Path

from idc.core.layout import SERVICES

_MAX_BYTES = 10_000_000  # months of a weekly retraining, and a moment to search


def rotate_logs(root: Path) -> None:
    """Move what a log holds beyond 10 MB to `<name>.log.1`, also while its service runs.

    A service writes to the file that it was started with, so that file is emptied, not renamed;
    since it appends, its next line becomes the first.
    """
    for path in (root / SERVICES).glob("*.log"):
        if path.stat().st_size > _MAX_BYTES:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)
