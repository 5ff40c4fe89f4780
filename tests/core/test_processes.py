import os
import signal
from pathlib import Path

import pytest

from idc.core.errors import InputError
from idc.core.processes import count_cores, map_in_processes

# what runs in other processes is from the standard library: it pickles by its name
NOTHING = int


def run(function, jobs, num_processes=2, initializer=NOTHING, initargs=()):
    return list(
        map_in_processes(
            function, jobs, num_processes=num_processes, initializer=initializer, initargs=initargs
        )
    )


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
    assert run(sum, jobs, num_processes) == [sum(job) for job in jobs]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_map_in_processes_when_there_is_no_job_then_yields_nothing(num_processes):
    assert run(abs, [], num_processes) == []


def test_map_in_processes_when_there_are_more_processes_than_jobs_then_works():
    assert run(abs, [-1], num_processes=3) == [1]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_map_in_processes_when_jobs_are_endless_then_draws_few_ahead(num_processes):
    jobs = CountedJobs()
    results = map_in_processes(
        abs, jobs, num_processes=num_processes, initializer=NOTHING, initargs=()
    )
    ahead = []
    for num_done in range(1, 21):
        assert next(results) == num_done
        ahead.append(jobs.num_drawn - num_done)
    results.close()  # type: ignore[attr-defined]  # a generator
    assert max(ahead) <= 3 * num_processes


def test_map_in_processes_when_nothing_was_asked_for_then_draws_no_job():
    jobs = CountedJobs()
    map_in_processes(abs, jobs, num_processes=2, initializer=NOTHING)
    assert jobs.num_drawn == 0


def test_map_in_processes_when_initialised_then_every_process_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    found = run(os.path.abspath, ["a"] * 12, initializer=os.chdir, initargs=(tmp_path,))
    assert set(found) == {str(tmp_path / "a")}


def test_map_in_processes_when_two_work_then_this_process_is_none_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    run(abs, [1], initializer=os.chdir, initargs=(tmp_path,))
    assert Path.cwd() == tmp_path.parent


def test_map_in_processes_when_one_works_then_it_is_this_process():
    seen = []
    run(
        lambda job: seen.append((job, os.getpid())), [7], 1, lambda word: seen.append(word), ("go",)
    )
    assert seen == ["go", (7, os.getpid())]


def test_map_in_processes_when_a_process_is_killed_then_says_so_and_what_to_do():
    with pytest.raises(InputError, match=r"was killed.*run again with fewer runtime\.num_pro"):
        run(signal.raise_signal, [signal.SIGKILL])


@pytest.mark.parametrize("num_processes", [1, 2])
def test_map_in_processes_when_the_function_fails_then_its_error_arrives_after_what_was_done(
    num_processes,
):
    results = map_in_processes(
        int, ["1", "two", "3"], num_processes=num_processes, initializer=NOTHING
    )
    assert next(results) == 1
    with pytest.raises(ValueError, match="'two'"):
        next(results)


def test_count_cores_when_asked_then_is_what_this_process_may_use():
    assert 1 <= count_cores() <= (os.cpu_count() or 1)
