import pytest

from idc.core.errors import InputError
from idc.core.files import load_json, replacing_file, replacing_folder, save_json


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
