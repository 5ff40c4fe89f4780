import pickle

import pytest

from idc.core.errors import InputError, first_reason


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("one text"), "one text"),
        (InputError("3 patches", "a.zip"), "a.zip: 3 patches"),
        (InputError("no such key", fix="remove it"), "no such key: remove it"),
        (InputError("out of range", "params.yaml", "use 3"), "params.yaml: out of range: use 3"),
    ],
)
def test_input_error_when_fields_are_given_then_the_line_is_where_what_fix(error, line):
    assert str(error) == line


def test_input_error_when_a_value_is_thousands_of_digits_then_the_line_keeps_both_its_ends():
    error = InputError(f"override 1 ({'9' * 5000}): no such patch", "labels.csv", "fix it")
    assert str(error).startswith(f"labels.csv: override 1 ({'9' * 300}")
    assert str(error).endswith(f"{'9' * 200}): no such patch: fix it")
    assert len(str(error)) < 800


def test_input_error_when_found_inside_a_plan_then_the_fix_stays_the_last_part():
    inner = InputError("no such parameter", "train.epoch", "fix its spelling")
    outer = inner.found_in("plan.yaml: fast")
    assert str(outer) == "plan.yaml: fast: train.epoch: no such parameter: fix its spelling"
    assert (outer.what, outer.fix) == ("no such parameter", "fix its spelling")


def test_input_error_when_raised_in_another_process_then_its_fields_come_along():
    # our own error, as a worker process sends it back: nothing foreign is unpickled
    error = pickle.loads(pickle.dumps(InputError("out of range", "params.yaml", "use 3")))
    assert (error.what, error.where, error.fix) == ("out of range", "params.yaml", "use 3")
    assert str(error) == "params.yaml: out of range: use 3"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "WARNING: slow\nERROR: unexpected error - ascii\n\nHaving any troubles?",
            "ERROR: unexpected",
        ),
        ("a.csv\nhint: Use -f if you mean it\nhint: or do not", "a.csv"),
        ("hint: do\nfatal: not a git repository\n", "fatal: not a git"),
        ("", "it does not say why"),
    ],
)
def test_first_reason_then_is_the_line_that_says_why(output, reason):
    assert first_reason(output).startswith(reason)


def test_input_error_when_a_name_holds_an_escape_sequence_then_no_terminal_obeys_it():
    assert str(InputError("case \x1b[2J\r\u202e\ud800 twice")) == (
        r"case \x1b[2J\r\u202e\ud800 twice"
    )
    assert str(InputError("Müller: 2 patches\nand 3")) == "Müller: 2 patches\nand 3"


def test_input_error_when_its_parts_are_read_then_they_too_are_short_and_printable():
    error = InputError(f"case \x1b[2J {'9' * 5000}", "a\r.zip", "rename \x1b[1m")
    assert error.what.startswith(r"case \x1b[2J 999")
    assert len(error.what) < 800
    assert (error.where, error.fix) == (r"a\r.zip", r"rename \x1b[1m")
    again = error.found_in("plan\x07.yaml")
    assert (again.what, again.where) == (error.what, r"plan\x07.yaml: a\r.zip")
