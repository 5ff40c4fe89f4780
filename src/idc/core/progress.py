"""Progress with an estimate of the time left: a bar on a terminal, a line now and then in a log."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

_SECONDS_BETWEEN_LINES = 15.0

log = logging.getLogger(__name__)


def track(items: Iterable[Item], *, total: int, what: str) -> Iterator[Item]:
    """Yield the items, telling how many of `total` are done and how long the rest will take."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES and done < total:
            left_s = (now - start) / done * (total - done)
            log.info("%s: %d of %d, about %.0f s left", what, done, total, left_s)
            last = now
