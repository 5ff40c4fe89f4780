"""Many jobs in several processes."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from idc.core.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")

_JOBS_PER_PROCESS = 3  # one at work, the others ready: no process waits, memory stays bounded


def count_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_processes(
    create_worker: Callable[[], Callable[[Job], Result]],
    jobs: Iterable[Job],
    *,
    num_processes: int,
) -> Iterator[Result]:
    """Yield `worker(job)` in the order of `jobs`, which are drawn only as they are needed.

    Args:
        create_worker: Called once in each process before its first job; what it returns does the
            jobs of that process, and may keep open what it needs for them. Must pickle, as must
            jobs and results.
        jobs: Arguments of the worker.
        num_processes: How many work; 1 is this process itself.

    Raises:
        InputError: If a process is killed from outside.
    """
    if num_processes == 1:
        yield from map(create_worker(), jobs)
        return
    # spawn: a forked child would inherit the locks of this process's threads
    pool = ProcessPoolExecutor(num_processes, get_context("spawn"), _start, (create_worker,))
    waiting = iter(jobs)
    try:
        under_way: deque[Future[Result]] = deque(
            pool.submit(_work, job) for job in islice(waiting, _JOBS_PER_PROCESS * num_processes)
        )
        while under_way:
            yield under_way.popleft().result()
            under_way.extend(pool.submit(_work, job) for job in islice(waiting, 1))
    except BrokenProcessPool:
        raise InputError(
            "a working process was killed, perhaps out of memory",
            fix="run again with fewer runtime.num_processes",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


# of a process that `map_in_processes` started, and of no other: an executor hands its initialiser's
# result to no job, so it has to lie in the module
_worker: Callable[[Any], Any]


def _start(create_worker: Callable[[], Callable[[Any], Any]]) -> None:
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = create_worker()


def _work(job: Any) -> Any:  # noqa: ANN401  (whatever the worker takes and returns)
    return _worker(job)


def _end_with_parent() -> None:
    """A killed parent must not leave its children waiting for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
