"""What the promotion log tells of former champions and of looks."""

from idc.lifecycle.promotion.log import count_looks, find_unfinished, former_champions
from idc.tracking.registry import Entry

GATE = frozenset("abcd")


def entry(kind, version, *, before=None, state="done", cases=GATE, models="m", digest="d"):
    return Entry("run", 0, kind, state, before, version, digest, cases, models)


def test_former_champions_when_promoted_and_rolled_back_then_the_last_is_the_one_returned_to():
    entries = [
        entry("promote", "1"),
        entry("keep", "2", before="1"),
        entry("promote", "3", before="1"),
        entry("promote", "5", before="3"),
        entry("rollback", "3", before="5"),
    ]
    assert former_champions(entries) == ["1", "3"]


def test_former_champions_when_an_alias_was_set_by_hand_before_then_knows_it():
    assert former_champions([entry("promote", "4", before="2")]) == ["2", "4"]


def test_former_champions_when_a_promotion_was_interrupted_then_it_does_not_count():
    entries = [entry("promote", "1"), entry("promote", "2", before="1", state="interrupted")]
    assert former_champions(entries) == ["1"]


def test_find_unfinished_when_an_entry_was_never_closed_then_finds_it():
    open_entry = entry("promote", "2", state="decided")
    assert find_unfinished([entry("promote", "1"), open_entry]) == [open_entry]


def count(entries, cases=GATE, models="now", digest="today"):
    return count_looks(entries, cases, models=models, gate_digest=digest)


def test_count_looks_when_others_looked_then_counts_them_and_this_one():
    assert count([entry("keep", "1", models="a"), entry("keep", "2", models="b")]) == 3


def test_count_looks_when_the_gate_grew_then_earlier_looks_still_count():
    assert count([entry("keep", "1")], cases=frozenset("abcdefgh")) == 2


def test_count_looks_when_most_gate_cases_are_new_then_it_is_another_gate():
    assert count([entry("keep", "1")], cases=frozenset("abcdefghi")) == 1


def test_count_looks_when_the_same_was_asked_before_then_counts_it_once():
    assert count([entry("keep", "1", models="now", digest="today")]) == 1
