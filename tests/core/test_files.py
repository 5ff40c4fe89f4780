from pathlib import Path

import pytest

from idc.core.errors import InputError
from idc.core.files import (
    load_json,
    load_yaml,
    parse_yaml,
    replacing_file,
    replacing_folder,
    save_json,
    try_writing,
)


def write_half(path):
    with replacing_file(path) as partial:
        partial.write_text("half")
        raise KeyError


def test_replacing_file_when_it_succeeds_then_only_the_final_name_is_there(tmp_path):
    with replacing_file(tmp_path / "below" / "a.txt") as partial:
        partial.write_text("new")
    assert [file.name for file in (tmp_path / "below").iterdir()] == ["a.txt"]


def test_replacing_file_when_it_fails_then_keeps_the_old_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_folder_when_it_succeeds_then_old_files_are_gone(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    with replacing_folder(folder) as partial:
        (partial / "new.txt").write_text("new")
    assert [file.name for file in folder.iterdir()] == ["new.txt"]


def test_replacing_folder_when_it_fails_then_keeps_the_old_one_only(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    with pytest.raises(FileExistsError), replacing_folder(folder) as partial:
        partial.mkdir()
    assert [file.name for file in folder.iterdir()] == ["old.txt"]
    assert list(tmp_path.iterdir()) == [folder]


def test_replacing_folder_when_a_kill_left_a_partial_then_starts_empty(tmp_path):
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "stale.txt").write_text("stale")
    with replacing_folder(tmp_path / "a") as partial:
        assert list(partial.iterdir()) == []


def test_try_writing_when_the_folder_or_one_above_can_be_written_then_nothing_is_left(tmp_path):
    try_writing(tmp_path)
    try_writing(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []


def test_try_writing_when_it_cannot_be_written_then_the_system_says_why(tmp_path):
    with pytest.raises(OSError, match="proc"):
        try_writing(Path("/proc/cache"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        try_writing(tmp_path / "file" / "below")


def test_save_json_when_key_order_differs_then_writes_the_same_bytes(tmp_path):
    save_json(tmp_path / "a.json", {"x": 1, "y": [0.5]})
    save_json(tmp_path / "b.json", {"y": [0.5], "x": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_save_json_when_a_value_is_nan_then_refuses_and_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_load_json_when_saved_before_then_returns_the_content(tmp_path):
    save_json(tmp_path / "a.json", {"x": [0.1, "ä", None]})
    assert load_json(tmp_path / "a.json") == {"x": [0.1, "ä", None]}


def test_load_json_when_missing_then_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match="run `dvc repro`"):
        load_json(tmp_path / "a.json")


def test_load_json_when_damaged_then_says_to_delete_it(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        load_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: \xff", r"is not UTF-8 \(invalid start byte at byte 3\): save it as UTF-8"),
        (b"a: 2001-99-99", "is not YAML: month must be in"),
        (b"a: !!timestamp x", "is not YAML"),
        (b"a: !!bool x", "is not YAML"),
        (b'a: !!int ""', "is not YAML"),
        (b"a: 0b_", "is not YAML"),
        (b"a: " + b"9" * 5000, "is not YAML: Exceeds the limit"),
        (b"a: 0x" + b"f" * 5000, "is not YAML: a number of more than 64 bits"),
        (b"[" * 5000, "is not YAML: maximum recursion depth"),
        (b"&a [*a]", "is not YAML: over 100,000 values"),
        (b"!!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor"),
        (b"a" * (1 << 20), "is not YAML: over 524,288 characters"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_load_yaml_when_it_is_no_yaml_of_ours_then_says_why_in_one_line(tmp_path, content, says):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as refused:
        load_yaml(path, if_missing="")
    assert "\n" not in str(refused.value)


def test_parse_yaml_when_aliases_stand_for_a_billion_values_then_refuses_at_once():
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    text = "\n".join(["a0: &a0 [1, 1]", *levels])
    with pytest.raises(InputError, match="over 100,000 values, aliases followed"):
        parse_yaml(text, "plan")
    assert parse_yaml("a: &a [1]\nb: *a", "plan") == {"a": [1], "b": [1]}


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b"9" * 5000, b"{"])
def test_load_json_when_it_is_no_json_then_says_so_in_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is not (JSON|UTF-8)"):
        load_json(path)


def test_load_json_when_it_is_a_folder_then_says_so(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_json(tmp_path)
