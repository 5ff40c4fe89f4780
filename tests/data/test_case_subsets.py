import pytest

from idc.core.config import SubsetFractions
from idc.core.errors import InputError
from idc.data.split.case_subsets import (
    ensure_case_subsets,
    join_case_subsets,
    load_case_subsets,
    save_case_subsets,
)

FRACTIONS = SubsetFractions(val=0.15, gate=0.1, test=0.2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "case_subsets.csv"


def save(path, before, **added):
    save_case_subsets(path, FRACTIONS, 17, before=before, added=added)


def test_load_case_subsets_when_there_is_no_file_then_holds_none(path):
    assert load_case_subsets(path, FRACTIONS, 17) == {}


def test_save_case_subsets_when_loaded_again_then_is_the_same(path):
    save(path, {}, b="test", a="train")
    assert load_case_subsets(path, FRACTIONS, 17) == {"a": "train", "b": "test"}


def test_save_case_subsets_when_cases_are_added_then_no_earlier_byte_changes(path):
    save(path, {}, b="test", c="val")
    before = path.read_bytes()
    save(path, {"b": "test", "c": "val"}, a="gate")
    assert path.read_bytes() == before + b"a,gate\n"


def test_save_case_subsets_when_nothing_is_new_then_leaves_the_file_alone(path):
    save(path, {}, b="test")
    before = path.stat().st_mtime_ns
    save(path, {"b": "test"})
    assert path.stat().st_mtime_ns == before


def test_save_case_subsets_when_the_file_holds_none_yet_then_states_the_rule(path):
    ensure_case_subsets(path)
    save(path, {}, a="val")
    assert path.read_text() == "# seed 17, val 0.15, gate 0.1, test 0.2\ncase,subset\na,val\n"


def test_ensure_case_subsets_when_there_is_a_file_then_keeps_it(path):
    save(path, {}, a="val")
    before = path.read_bytes()
    ensure_case_subsets(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("fractions", "seed"),
    [({"val": 0.15, "gate": 0.1, "test": 0.25}, 17), (FRACTIONS.model_dump(), 18)],
)
def test_load_case_subsets_when_the_rule_is_another_then_advises(path, fractions, seed):
    save(path, {}, a="val")
    with pytest.raises(InputError, match=r"was assigned by `seed 17, val 0\.15.*remove the file"):
        load_case_subsets(path, SubsetFractions(**fractions), seed)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b,tests\n", "knows no subset 'tests'"),
        ("a,val\n", "names a case twice"),
        ("<<<<<<< HEAD,a,b\n", "is no table of case and subset"),
        ("b\n", "is no table of case and subset"),
    ],
)
def test_load_case_subsets_when_a_line_is_wrong_then_says_so(path, line, message):
    save(path, {}, a="val")
    path.write_text(path.read_text() + line)
    with pytest.raises(InputError, match=message):
        load_case_subsets(path, FRACTIONS, 17)


RULE = "# seed 17\ncase,subset\n"


@pytest.mark.parametrize(
    ("ours", "theirs", "joined"),
    [
        ("", RULE + "a,val\n", RULE + "a,val\n"),
        ("case,subset\n", RULE + "a,val\n", RULE + "a,val\n"),
        (RULE + "a,val\n", "case,subset\n", RULE + "a,val\n"),
        (RULE + "b,val\n", RULE + "b,val\na,test\n", RULE + "b,val\na,test\n"),
        (RULE + "b,val\na,test\n", RULE + "b,val\n", RULE + "b,val\na,test\n"),
        (RULE + "b,val\nc,gate\n", RULE + "b,val\nd,train\na,test\n",
         RULE + "b,val\nc,gate\na,test\nd,train\n"),
    ],
)  # fmt: skip
def test_join_case_subsets_when_they_agree_then_holds_the_cases_of_both(ours, theirs, joined):
    assert join_case_subsets(ours, theirs) == joined


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (RULE + "a,test\n", "case a is on val here, on test in the run"),
        ("# seed 18\ncase,subset\nb,val\n", "another rule"),
    ],
)
def test_join_case_subsets_when_they_contradict_then_refuses(theirs, message):
    with pytest.raises(InputError, match=message):
        join_case_subsets(RULE + "a,val\n", theirs)


def load(path):
    return load_case_subsets(path, FRACTIONS, 17)


EARLIER = "# seed 17, val 0.15, gate 0.1, test 0.2\ncase,side\na,test\nb,train\n"


def test_load_case_subsets_when_the_column_has_its_earlier_name_then_reads_it(path):
    path.write_text(EARLIER)
    assert load_case_subsets(path, FRACTIONS, 17) == {"a": "test", "b": "train"}
    save(path, {"a": "test", "b": "train"}, c="val")
    assert path.read_text() == EARLIER.replace("side", "subset") + "c,val\n"


@pytest.mark.parametrize("today", [None, "case,subset\n"])
@pytest.mark.parametrize("read", [ensure_case_subsets, load])
def test_case_subsets_when_the_file_has_its_earlier_name_then_no_case_is_assigned_anew(
    path, today, read
):
    path.with_name("case_sides.csv").write_text(EARLIER)
    if today is not None:
        path.write_text(today)
    with pytest.raises(InputError, match=r"`git mv .*case_sides\.csv .*case_subsets\.csv`"):
        read(path)
    assert path.exists() == (today is not None)


def test_case_subsets_when_the_file_of_the_earlier_name_holds_no_case_then_goes_on(path):
    path.with_name("case_sides.csv").write_text("case,side\n")
    assert load_case_subsets(path, FRACTIONS, 17) == {}


def test_join_case_subsets_when_a_subset_has_the_earlier_header_then_the_result_has_todays():
    today = EARLIER.replace("side", "subset")
    assert join_case_subsets(today, EARLIER) == today
    assert join_case_subsets(EARLIER, today + "c,val\n") == today + "c,val\n"
    assert join_case_subsets("", EARLIER) == today


def test_save_case_subsets_when_an_editor_left_out_the_last_line_end_then_no_case_is_lost(path):
    save(path, {}, a="val")
    path.write_text(path.read_text().rstrip("\n"))
    before = load_case_subsets(path, FRACTIONS, 17)
    save(path, before, b="test")
    assert load_case_subsets(path, FRACTIONS, 17) == {"a": "val", "b": "test"}


def test_join_case_subsets_when_ours_lacks_its_last_line_end_then_no_case_is_lost():
    ours, theirs = "# rule\ncase,subset\na,val", "# rule\ncase,subset\nb,test\n"
    assert join_case_subsets(ours, theirs).endswith("a,val\nb,test\n")


def test_load_case_subsets_when_it_is_not_utf_8_then_says_so(path):
    path.write_bytes(b"case,subset\nM\xfcller,val\n")
    with pytest.raises(InputError, match="is not UTF-8"):
        load_case_subsets(path, FRACTIONS, 17)
