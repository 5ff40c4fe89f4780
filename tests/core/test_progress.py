import logging
import re
from types import SimpleNamespace

from idc.core import progress


def test_track_when_output_goes_to_a_log_then_a_line_now_and_then_says_how_long_it_will_take(
    monkeypatch, caplog
):
    clock = iter(range(0, 1000, 10))  # ten seconds an item
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO, progress.log.name):
        assert [*progress.track("abcdef", total=6, what="letters")] == [*"abcdef"]
    told = [re.findall(r"\d+", record.getMessage()) for record in caplog.records]
    assert told == [["2", "6", "40"], ["4", "6", "20"]]  # every 15 s, and not at the end
