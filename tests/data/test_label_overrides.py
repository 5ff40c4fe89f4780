import pandas as pd
import pytest

from idc.core.errors import InputError
from idc.data.manifest.label_overrides import load_label_overrides, relabel

HEADER = "case,x,y,label,reason"


@pytest.fixture
def index(make_index):
    return make_index({"a": (3, 2), "007": (2, 2)})


@pytest.fixture
def load(tmp_path, index):
    def write_and_load(*lines, header=HEADER):
        path = tmp_path / "label_overrides.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return load_label_overrides(path, index)

    return write_and_load


def test_load_label_overrides_when_there_are_some_then_points_at_their_patches(load, index):
    found = load("a,151,1,0,fat only", '007,1,1,1,"nests, lower left"')
    assert found["row"].tolist() == [3, 5]
    assert found["label"].tolist() == [0, 1]
    assert found["reason"].tolist() == ["fat only", "nests, lower left"]
    assert index.loc[5, ["case", "x", "y"]].tolist() == ["007", 1, 1]


def test_load_label_overrides_when_there_is_the_header_alone_then_holds_none(load):
    assert len(load()) == 0


def test_load_label_overrides_when_as_shipped_then_holds_none(project_root, index):
    assert len(load_label_overrides(project_root / "data/label_overrides.csv", index)) == 0


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("b,1,1,1,x", r"b x1 y1\): the archive has no such patch"),
        ("a,1,51,1,x", r"a x1 y51\): the archive has no such patch"),
        ("7,1,1,1,x", "the archive has no such patch"),
        ("a,151,1,0,again", "the patch is there twice"),
        ("a,1,1,2,x", "label '2' must be 0"),
        ("a,1,1,,x", "label '' must be 0"),
        (",1,1,1,x", "the archive has no such patch"),
        ("a,1,1,0,x", "label 0 is the archive's own"),
        ("a,1,1,1, ", "no reason is given"),
        ("a,1.5,1,1,x", "x '1.5' is no place"),
        ("a,1,-1,1,x", "y '-1' is no place"),
    ],
)
def test_load_label_overrides_when_a_line_is_wrong_then_names_it(load, line, fault):
    with pytest.raises(InputError, match=rf"label_overrides\.csv: override 2 \(.*{fault}") as told:
        load("a,151,1,0,fine", line)
    assert "\n" not in str(told.value)


def test_load_label_overrides_when_the_header_is_another_then_says_which(load):
    with pytest.raises(InputError, match=f"must begin with the line {HEADER}"):
        load(header="case,x,y,label")


def test_load_label_overrides_when_it_is_missing_then_says_what_to_do(tmp_path, index):
    with pytest.raises(InputError, match=f"is missing: restore it, or write the line {HEADER}"):
        load_label_overrides(tmp_path / "label_overrides.csv", index)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "must begin with the line"),
        (b"\xff\xfe\x00", "cannot be read: "),
        (f"{HEADER}\na,1,1,1,fat, no nests\n".encode(), "override 1 has 6 fields instead of 5"),
        (f"{HEADER}\na,1,1,1\n".encode(), "override 1 has 4 fields instead of 5"),
    ],
)
def test_load_label_overrides_when_it_is_no_table_then_says_so(tmp_path, index, content, fault):
    path = tmp_path / "label_overrides.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=fault):
        load_label_overrides(path, index)


def test_load_label_overrides_when_a_spreadsheet_saved_it_then_reads_it_too(tmp_path, index):
    path = tmp_path / "label_overrides.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\na,151,1,0,fat only\r\n".encode())
    assert load_label_overrides(path, index)["row"].tolist() == [3]


def test_relabel_when_patches_are_corrected_then_only_their_labels_change(load, index):
    manifest = index.rename_axis("row").reset_index()[["row", "case", "x", "y", "label"]]
    manifest = manifest.sample(frac=1.0, random_state=1).query("row != 5")
    found = relabel(manifest, load("a,151,1,0,fat only", "007,1,1,1,not drawn"))
    expected = manifest.assign(label=manifest["label"].where(manifest["row"] != 3, 0))
    pd.testing.assert_frame_equal(found, expected)
    pd.testing.assert_frame_equal(relabel(manifest, load()), manifest)
