"""Wait for what other processes do; the time it may take is that of a machine at work."""

import time
from collections.abc import Callable
from typing import Any

import psutil

PATIENCE_S = 600  # much for one run of the pipeline, little for a machine at work


def wait_until(holds: Callable[[], Any], what: str = "it", limit_s: float = PATIENCE_S) -> Any:
    """Return the first true answer of `holds`, or fail naming `what` was waited for."""
    deadline = time.monotonic() + limit_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what} did not come in {limit_s} s"
        time.sleep(0.1)
    return found


def has_ended(pid: int) -> bool:
    """Say whether no such process runs; it may end between any two looks at it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
