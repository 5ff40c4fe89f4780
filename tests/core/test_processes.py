import os
import signal
from functools import partial
from pathlib import Path

import pytest

from idc.core.errors import InputError
from idc.core.processes import count_cores, map_in_processes


def worker(text):
    """A creator of a worker that pickles: other processes cannot import a test."""
    return partial(eval, text)


def run(text, jobs, num_processes=2):
    return list(map_in_processes(worker(text), jobs, num_processes=num_processes))


class CountedJobs:
    """Gives endless jobs and remembers how many were drawn."""

    def __init__(self):
        self.num_drawn = 0

    def __iter__(self):
        while True:
            self.num_drawn += 1
            yield self.num_drawn


@pytest.mark.parametrize("num_processes", [1, 2])
def test_map_in_processes_when_some_jobs_take_longer_then_keeps_their_order(num_processes):
    jobs = [range(2_000_000 if i % 4 == 0 else i) for i in range(24)]
    assert run("sum", jobs, num_processes) == [sum(job) for job in jobs]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_map_in_processes_when_there_is_no_job_then_yields_nothing(num_processes):
    assert run("abs", [], num_processes) == []


def test_map_in_processes_when_there_are_more_processes_than_jobs_then_works():
    assert run("abs", [-1], num_processes=3) == [1]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_map_in_processes_when_jobs_are_endless_then_draws_few_ahead(num_processes):
    jobs = CountedJobs()
    results = map_in_processes(worker("abs"), jobs, num_processes=num_processes)
    ahead = []
    for num_done in range(1, 21):
        assert next(results) == num_done
        ahead.append(jobs.num_drawn - num_done)
    results.close()  # type: ignore[attr-defined]  # a generator
    assert max(ahead) <= 3 * num_processes


def test_map_in_processes_when_nothing_was_asked_for_then_draws_no_job():
    jobs = CountedJobs()
    map_in_processes(worker("abs"), jobs, num_processes=2)
    assert jobs.num_drawn == 0


CHANGED_FOLDER = "[__import__('os').chdir({folder!r}), __import__('os').path.abspath][1]"


def test_map_in_processes_when_the_worker_is_made_then_it_is_in_every_process(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path.parent)
    found = run(CHANGED_FOLDER.format(folder=str(tmp_path)), ["a"] * 12)
    assert set(found) == {str(tmp_path / "a")}
    assert Path.cwd() == tmp_path.parent, "this process is none of those that work"


def test_map_in_processes_when_one_works_then_it_is_this_process_and_makes_one_worker():
    seen = []

    def create():
        seen.append("made")
        return lambda job: seen.append((job, os.getpid()))

    list(map_in_processes(create, [7, 8], num_processes=1))
    assert seen == ["made", (7, os.getpid()), (8, os.getpid())]


def test_map_in_processes_when_a_process_is_killed_then_says_so_and_what_to_do():
    with pytest.raises(InputError, match=r"was killed.*run again with fewer runtime\.num_pro"):
        run("__import__('signal').raise_signal", [int(signal.SIGKILL)])


@pytest.mark.parametrize("num_processes", [1, 2])
def test_map_in_processes_when_the_function_fails_then_its_error_arrives_after_what_was_done(
    num_processes,
):
    results = map_in_processes(worker("int"), ["1", "two", "3"], num_processes=num_processes)
    assert next(results) == 1
    with pytest.raises(ValueError, match="'two'"):
        next(results)


def test_count_cores_when_asked_then_is_what_this_process_may_use():
    assert 1 <= count_cores() <= (os.cpu_count() or 1)
