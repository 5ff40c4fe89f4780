"""Three trials of `make torture`: the driver works, and nothing is found."""

import json
import random

import pytest

from tests.torture.__main__ import main
from tests.torture.findings import examine
from tests.torture.place import Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A place whose reference run, and two disturbed ones, have been made."""
    folder = tmp_path_factory.mktemp("torture")
    seed = str(random.Random("nightly").randrange(1000))
    assert main(["--folder", str(folder), "--kill", "2", "--two", "1", "--seed", seed]) == 0
    return Place(folder)


def test_torture_when_runs_are_killed_then_one_repro_makes_what_an_undisturbed_run_makes(place):
    lines = (place.folder / "trials.jsonl").read_text().splitlines()
    trials = [json.loads(line) for line in lines]
    assert [trial["kind"] for trial in trials] == ["kill", "kill", "two"]
    assert all(trial["what"] and trial["found"] == [] for trial in trials)


def test_torture_when_something_is_left_or_differs_then_it_is_found(place):
    assert examine(place) == []
    (place.project / "data/.manifest.csv.partial").touch()
    (place.temporary / "model").mkdir()
    metrics = place.project / "reports/metrics.json"
    metrics.unlink()  # maybe a link to DVC's cache
    metrics.write_text("{}")
    assert examine(place) == [
        "stray file: data/.manifest.csv.partial",
        "other content: reports/metrics.json",
        "left in TMPDIR: model",
    ]
