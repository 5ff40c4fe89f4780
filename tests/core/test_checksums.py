import subprocess

import pytest

from idc.core.checksums import SUMS, require_unchanged, write_sums
from idc.core.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a.txt").write_bytes(b"content")
    (tmp_path / "below" / "b.txt").write_bytes(b"more")
    write_sums(tmp_path)
    return tmp_path


def test_sums_when_written_then_sha256sum_itself_reads_them(folder):
    done = subprocess.run(
        ["sha256sum", "--check", SUMS], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["a.txt: OK", "below/b.txt: OK"]


def test_sums_when_a_name_has_dots_or_other_line_separators_then_they_are_read_again(tmp_path):
    for name in ("a..b", "line\u2028separator"):
        (tmp_path / name).touch()
    write_sums(tmp_path)
    require_unchanged(tmp_path)
    (tmp_path / SUMS).write_text(f"{'0' * 64}  ../a\n")
    with pytest.raises(InputError, match="is damaged"):
        require_unchanged(tmp_path)


def test_require_unchanged_when_nothing_changed_then_passes(folder):
    assert require_unchanged(folder) is None
    assert write_sums(folder) == write_sums(folder), "the list does not list itself"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"contenu", r"a\.txt is not the file that SHA256SUMS lists: it was damaged"),
        ("below/b.txt", None, r"b\.txt is missing"),
        (SUMS, b"", r"a\.txt is not listed"),
        (SUMS, b"no list", "SHA256SUMS is damaged"),
        (SUMS, b"0" * 64 + b"  ../x\n", "SHA256SUMS is damaged"),
        (SUMS, b"\xff", "is not UTF-8"),
    ],
)
def test_require_unchanged_when_a_file_is_other_than_it_was_then_names_it(
    folder, name, content, says
):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        require_unchanged(folder, "a.txt", "below/b.txt")


def test_require_unchanged_when_the_folder_is_from_before_the_list_then_passes(folder):
    (folder / SUMS).unlink()
    assert require_unchanged(folder, "a.txt") is None
