"""Temporary folders that do not pile up where processes are killed."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idc.core.process_ids import ProcessId, identify_process, is_dead

_PREFIX = "idc-scratch"
_SEPARATOR = "~"  # Python puts none into the name; the host stands last, and may hold any


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder among the system's temporary ones, which is removed in the end.

    What processes left there that were killed meanwhile is removed first: a model is some hundred
    megabytes.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{_SEPARATOR}*"):
        if _is_left(path):
            shutil.rmtree(path, ignore_errors=True)
    own = identify_process(os.getpid())
    before = _SEPARATOR.join((_PREFIX, str(own.pid), str(own.started), ""))
    with tempfile.TemporaryDirectory(f"{_SEPARATOR}{own.host}", before) as folder:
        yield Path(folder)


def _is_left(path: Path) -> bool:
    try:
        _, pid, started, _, host = path.name.split(_SEPARATOR, 4)
        process = ProcessId(host, int(pid), float(started))
    except ValueError:  # anybody may name a file there as he likes
        return False
    return host == socket.gethostname() and is_dead(process)
