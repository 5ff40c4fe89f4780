import os
import random
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import suppress

import cv2
import numpy as np
import pytest

from idc.core.errors import InputError
from idc.data.ingest.archive import find_sources, list_members
from idc.data.ingest.decoding import UnreadableError
from idc.data.ingest.members import PLACE_COLUMNS, MemberPlace, MemberReader
from idc.data.ingest.pixel_store import store_patches

MIB = 1 << 20

# where a field stands after the mark of its record
CENTRAL = {"flags": 8, "crc": 16, "stored_bytes": 20, "num_bytes": 24, "offset": 42}
LOCAL = {"flags": 6, "crc": 14, "stored_bytes": 18, "num_bytes": 22}
ZIP64_ORDER = ("num_bytes", "stored_bytes", "offset")


def place_of(member):
    return MemberPlace(*(member[name] for name in PLACE_COLUMNS))


def make_pixels(seed):
    return np.random.default_rng(seed).integers(0, 200, (50, 50, 3), dtype=np.uint8)


def encode(pixels, level=1):
    settings = [cv2.IMWRITE_PNG_COMPRESSION, level]
    return cv2.imencode(".png", pixels[..., ::-1], settings)[1].tobytes()


def member(case="8863", x=1, y=1, label=0, folder=None, suffix="png"):
    folder = label if folder is None else folder
    return f"{case}/{folder}/{case}_idx5_x{x}_y{y}_class{label}.{suffix}"


def write_zip(path, members, method=zipfile.ZIP_STORED):
    members = members.items() if isinstance(members, dict) else members
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, method)
    return path


def write_folder(path, members):
    for name, content in members.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


def paths_of(listing):
    return listing.members["path"].tolist()


def store(listing, tmp_path):
    """Return index, unreadable files as {path: reason}, and pixels."""
    stored = store_patches(listing, tmp_path / "pixels.npy", num_processes=1)
    reasons = {entry["patch"].partition(":")[2]: entry["reason"] for entry in stored.unreadable}
    return stored.index, reasons, np.load(tmp_path / "pixels.npy")


def overwrite(path, mark, fields, values, kind="<I"):
    """Overwrite fields of the first record that starts with `mark`."""
    content = bytearray(path.read_bytes())
    start = content.index(mark)
    for field, value in values.items():
        struct.pack_into(kind, content, start + fields[field], value)
    path.write_bytes(content)


def declare(path, **values):
    """Make the first entry say other values, in the directory and in its own header."""
    overwrite(path, b"PK\x01\x02", CENTRAL, values)
    overwrite(path, b"PK\x03\x04", LOCAL, {key: values[key] for key in values if key in LOCAL})


def declare_in_64_bits(path, **values):
    """Make the directory's first entry say values that take 64 bits."""
    overwrite(path, b"PK\x01\x02", CENTRAL, dict.fromkeys(values, 0xFFFFFFFF))
    long = b"".join(struct.pack("<Q", values[key]) for key in ZIP64_ORDER if key in values)
    extra = struct.pack("<HH", 1, len(long)) + long
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    name_bytes = int.from_bytes(content[start + 28 : start + 30], "little")
    struct.pack_into("<H", content, start + 30, len(extra))
    content[start + 46 + name_bytes : start + 46 + name_bytes] = extra
    end = content.rindex(b"PK\x05\x06")
    size = int.from_bytes(content[end + 12 : end + 16], "little")
    struct.pack_into("<I", content, end + 12, size + len(extra))
    path.write_bytes(content)


def read_first(path):
    listing = list_members([path])
    with MemberReader([path]) as reader:
        return reader.read(place_of(listing.members.iloc[0]))


def peak_mib(function, *arguments):
    """Return the most memory that Python held while the call ran, whether or not it refused."""
    tracemalloc.start()
    try:
        with suppress(InputError, UnreadableError):
            function(*arguments)
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


@pytest.fixture
def small_zip(tmp_path):
    members = {member(x=50 * i + 1, label=i % 2): encode(make_pixels(i)) for i in range(12)}
    return write_zip(tmp_path / "small.zip", members)


# --- sources ---


@pytest.mark.parametrize("made", [True, False])
def test_find_sources_when_there_is_no_archive_then_says_what_to_download(tmp_path, made):
    raw = tmp_path / "raw"
    if made:
        raw.mkdir()
    with pytest.raises(InputError, match=r"raw holds no archive: download .*dvc add"):
        find_sources(raw)


def test_find_sources_when_there_are_zips_and_folders_then_returns_both(small_zip, tmp_path):
    (tmp_path / "8863").mkdir()
    assert find_sources(tmp_path) == (small_zip, tmp_path)


def test_find_sources_when_there_are_zips_only_then_returns_them_by_name(tmp_path):
    zips = [write_zip(tmp_path / f"{name}.zip", {member(): b""}) for name in "ba"]
    assert find_sources(tmp_path) == (zips[1], zips[0])


@pytest.mark.parametrize("keep", [0, 10, 300, -1])
def test_list_members_when_the_zip_is_truncated_then_names_it(small_zip, keep):
    small_zip.write_bytes(small_zip.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"small\.zip is not a readable zip.*download it again"):
        list_members([small_zip])


def test_list_members_when_the_file_is_no_zip_then_names_it(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(InputError, match=r"a\.zip is not a readable zip"):
        list_members([tmp_path / "a.zip"])


@pytest.mark.parametrize("members", [{}, {"readme.txt": b"hello"}, {"8863/": b""}])
def test_list_members_when_there_is_no_patch_then_refuses(tmp_path, members):
    with pytest.raises(InputError, match="hold no patch: expected <case>"):
        list_members([write_zip(tmp_path / "a.zip", members)])


# --- names ---


@pytest.mark.parametrize("name", ["8863_x1_y1.png", "8863_idx5_x1_y1_class0.tif", "overview.PNG"])
def test_list_members_when_a_name_is_off_the_grammar_then_names_the_member(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", {member(): b"", f"8863/0/{name}": b""})
    with pytest.raises(InputError, match=rf"a\.zip:8863/0/{name} is not named <case>.*\(1 such"):
        list_members([path])


@pytest.mark.parametrize("case", ["A_1", "=A", 'A"1', "A,1", "A#1"])
def test_list_members_when_a_case_holds_what_none_may_then_the_rule_lists_it(tmp_path, case):
    path = write_zip(tmp_path / "a.zip", {f"{case}/0/{case}_idx5_x1_y1_class0.png": b""})
    with pytest.raises(InputError, match="rename or remove it; a case begins") as refused:
        list_members([path])
    rule = refused.value.fix.split()
    assert next(sign for sign in case if not sign.isalnum()) in rule


@pytest.mark.parametrize("label", [0, 1])
def test_list_members_when_folder_contradicts_name_then_names_both_labels(tmp_path, label):
    path = write_zip(tmp_path / "a.zip", {member(label=label, folder=1 - label): b""})
    says = f"folder says label {1 - label}, name says {label}"
    with pytest.raises(InputError, match=rf"a\.zip:8863/{1 - label}/8863_.*: {says}"):
        list_members([path])


def test_list_members_when_the_folder_is_no_label_then_the_name_tells(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member(label=1, folder="tumour"): b""})
    assert list_members([path]).members["label"].tolist() == [1]


def test_list_members_when_one_place_has_two_labels_then_names_the_place(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member(label=0): b"", member(label=1): b""})
    with pytest.raises(InputError, match=r"1 places .* two labels \(8863 x1 y1\): remove"):
        list_members([path])


def test_list_members_when_two_archives_disagree_on_a_label_then_names_the_place(tmp_path):
    sources = [write_zip(tmp_path / f"{i}.zip", {member(x=51, label=i): b""}) for i in (0, 1)]
    with pytest.raises(InputError, match=r"two labels \(8863 x51 y1\)"):
        list_members(sources)


def test_list_members_when_two_zips_spell_an_accent_differently_then_it_is_one_case(tmp_path):
    cases = {"nfc": "M\u00fcller", "nfd": "Mu\u0308ller"}
    sources = [write_zip(tmp_path / f"{k}.zip", {member(v): b"same"}) for k, v in cases.items()]
    listing = list_members(sources)
    assert (listing.members["case"].tolist(), listing.num_copies) == (["M\u00fcller"], 1)


def test_list_members_when_a_name_in_a_zip_is_no_unicode_then_refuses(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member("M\u00fcller"): b""})
    path.write_bytes(path.read_bytes().replace("\u00fc".encode(), b"\xff\xff"))
    with pytest.raises(InputError, match=r"a\.zip"):
        list_members([path])


def test_list_members_when_a_name_in_a_folder_is_no_unicode_then_says_rename(tmp_path):
    folder = write_folder(tmp_path / "raw", {member(): b""})
    try:
        (folder / os.fsdecode(b"l\xe9sion.txt")).touch()
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    with pytest.raises(InputError, match="is not Unicode: rename"):
        list_members([folder])


# --- what is listed once ---


def test_list_members_when_members_are_in_any_order_then_sorts_by_place_as_number(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member(x=x): b"" for x in (1001, 51, 151)})
    assert list_members([path]).members["x"].tolist() == [51, 151, 1001]


def test_list_members_when_a_tree_is_nested_then_keeps_the_shallow_copy(tmp_path):
    path = write_zip(tmp_path / "a.zip", {f"IDC_regular/{member()}": b"", member(): b""})
    listing = list_members([path])
    assert (paths_of(listing), listing.num_copies) == ([member()], 1)


def test_list_members_when_a_copy_has_the_same_bytes_then_it_is_not_to_be_decoded(tmp_path):
    no_picture = b"nothing here decodes"
    members = {member(): no_picture, f"IDC/{member()}": no_picture}
    assert list_members([write_zip(tmp_path / "a.zip", members)]).rivals.empty


@pytest.mark.parametrize("other", [b"B" * 20, b"A" * 21])
def test_list_members_when_checksum_or_size_differ_then_the_pixels_must_tell(tmp_path, other):
    path = write_zip(tmp_path / "a.zip", {member(): b"A" * 20, f"IDC/{member()}": other})
    assert list_members([path]).rivals["path"].tolist() == [f"IDC/{member()}"]


def test_list_members_when_a_patch_is_in_two_zips_then_counts_it_once(tmp_path):
    for name in "ba":
        write_zip(tmp_path / f"{name}.zip", {member(): b""})
    listing = list_members(find_sources(tmp_path))
    assert [listing.name_of(row) for _, row in listing.members.iterrows()] == [f"a.zip:{member()}"]


def test_list_members_when_a_patch_is_in_zip_and_folder_then_is_a_copy_without_decoding(tmp_path):
    write_zip(tmp_path / "a.zip", {member(): b"no picture"})
    write_folder(tmp_path, {member(): b"no picture", member(x=51): b""})
    listing = list_members(find_sources(tmp_path))
    assert listing.members[["x", "source"]].to_numpy().tolist() == [[1, 0], [51, 1]]
    assert (listing.num_copies, len(listing.rivals)) == (1, 0)


@pytest.mark.parametrize("other", [member(suffix="jpg"), "8863/0/8863_idx5_x001_y01_class0.png"])
def test_list_members_when_two_names_say_the_same_then_they_are_one_patch(tmp_path, other):
    path = write_zip(tmp_path / "a.zip", {member(): b"same", other: b"same"})
    assert list_members([path]).num_copies == 1


@pytest.mark.parametrize(
    "name", [f"__MACOSX/{member()}", f"a/__MACOSX/{member()}", "8863/0/._a.png"]
)
def test_list_members_when_a_mac_left_its_files_then_passes_them_over(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", {name: b"", member(x=51): b""})
    assert paths_of(list_members([path])) == [member(x=51)]


def test_list_members_when_there_are_other_files_then_counts_them(tmp_path):
    others = {"readme.txt": b"", "8863/0/Thumbs.db": b"", f"__MACOSX/{member()}": b"", "a/": b""}
    path = write_zip(tmp_path / "a.zip", others | {member(): b""})
    assert list_members([path]).num_other_files == 3  # a folder's own entry is no file


def test_list_members_when_other_files_are_large_then_does_not_mind(tmp_path):
    members = {member(): b"", "slides.csv": bytes(2 * MIB)}
    path = write_zip(tmp_path / "a.zip", members, zipfile.ZIP_DEFLATED)
    assert list_members([path]).num_other_files == 1


# --- copies told by their pixels ---


def test_store_patches_when_a_copy_is_compressed_otherwise_then_it_is_a_copy(tmp_path):
    one, other = encode(make_pixels(0), level=0), encode(make_pixels(0), level=9)
    assert one != other
    listing = list_members([write_zip(tmp_path / "a.zip", {member(): one, f"b/{member()}": other})])
    assert (listing.num_copies, len(store(listing, tmp_path)[0])) == (1, 1)


def test_store_patches_when_two_of_one_name_differ_in_pixels_then_names_both(tmp_path):
    changed = make_pixels(0)
    changed[49, 49, 2] += 1
    members = {member(): encode(make_pixels(0)), f"b/{member()}": encode(changed)}
    listing = list_members([write_zip(tmp_path / "a.zip", members)])
    both = rf"a\.zip:{member()} and a\.zip:b/{member()} have one name and different pixels \(1 such"
    with pytest.raises(InputError, match=both):
        store(listing, tmp_path)


def test_store_patches_when_zip_and_folder_differ_in_pixels_then_names_both(tmp_path):
    write_zip(tmp_path / "a.zip", {member(): encode(make_pixels(0))})
    write_folder(tmp_path, {member(): encode(make_pixels(1))})
    listing = list_members(find_sources(tmp_path))
    with pytest.raises(InputError, match=rf"a\.zip:{member()} and {tmp_path.name}:{member()}"):
        store(listing, tmp_path)


def test_store_patches_when_the_second_copy_is_damaged_then_nothing_is_lost(tmp_path):
    members = {member(): encode(make_pixels(0)), f"b/{member()}": b"damaged"}
    listing = list_members([write_zip(tmp_path / "a.zip", members)])
    index, reasons, _ = store(listing, tmp_path)
    assert (len(index), reasons, listing.num_copies) == (1, {}, 1)


@pytest.mark.parametrize("seed", range(3))
def test_archive_when_its_members_are_shuffled_then_index_and_pixels_are_equal(tmp_path, seed):
    members = []
    for i in range(9):
        name = member(case=str(i % 3), x=50 * i + 1, label=i % 2)
        members += [(name, encode(make_pixels(i))), (f"b/{name}", encode(make_pixels(i), level=9))]
        members += [(f"c/{name}", encode(make_pixels(i), level=0)), (f"c/{i}.txt", b"")]
    index, _, pixels = store(list_members([write_zip(tmp_path / "a.zip", members)]), tmp_path)
    random.Random(seed).shuffle(members)
    listing = list_members([write_zip(tmp_path / "a.zip", members)])
    assert (listing.num_copies, listing.num_other_files) == (18, 9)
    shuffled_index, _, shuffled_pixels = store(listing, tmp_path)
    assert shuffled_index.equals(index)
    np.testing.assert_array_equal(shuffled_pixels, pixels)


# --- zips made to harm ---


def test_list_members_when_an_entry_unpacks_to_over_1_mib_then_names_it(tmp_path):
    members = {member(): encode(make_pixels(0)), member(x=51): bytes(MIB + 1)}
    path = write_zip(tmp_path / "a.zip", members, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=rf"a\.zip:{member(x=51)} has over 1,048,576 bytes"):
        list_members([path])


def test_list_members_when_an_entry_unpacks_to_1_mib_then_lists_it(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member(): bytes(MIB)}, zipfile.ZIP_DEFLATED)
    assert list_members([path]).members["num_bytes"].tolist() == [MIB]


@pytest.mark.parametrize("declared", [0, 7000])
def test_read_when_an_entry_inflates_to_more_than_declared_then_is_unreadable(tmp_path, declared):
    path = write_zip(tmp_path / "a.zip", {member(): bytes(32 * MIB)}, zipfile.ZIP_DEFLATED)
    declare(path, num_bytes=declared)
    with pytest.raises(UnreadableError, match="damaged in the archive"):
        read_first(path)
    assert peak_mib(read_first, path) < 2


def test_read_when_the_lie_has_a_fitting_checksum_then_is_unreadable(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member(): bytes(2 * MIB)}, zipfile.ZIP_DEFLATED)
    declare(path, num_bytes=7000, crc=zlib.crc32(bytes(7000)))
    with pytest.raises(UnreadableError, match="damaged in the archive"):
        read_first(path)


def test_read_when_an_entry_holds_less_than_declared_then_is_unreadable(small_zip):
    declare(small_zip, num_bytes=9000)
    with pytest.raises(UnreadableError, match="damaged in the archive"):
        read_first(small_zip)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_read_when_an_entry_is_said_to_fill_the_archive_then_memory_stays_bounded(tmp_path, method):
    members = [(member(), encode(make_pixels(0))), ("slide.raw", bytes(32 * MIB))]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for (name, content), kind in zip(members, [method, zipfile.ZIP_STORED], strict=True):
            file.writestr(name, content, kind)
    declare(path, stored_bytes=30 * MIB)
    assert peak_mib(read_first, path) < 8


@pytest.mark.parametrize(
    "values",
    [
        {"stored_bytes": 2**40},
        {"stored_bytes": 2**63},
        {"stored_bytes": 2**64 - 1},
        {"offset": 2**40},
        {"offset": 2**63},
        {"offset": 2**64 - 1},
        {"num_bytes": 2**64 - 1},
    ],
    ids=lambda values: "-".join(f"{key}-{value:x}" for key, value in values.items()),
)
def test_archive_when_the_directory_gives_absurd_numbers_then_one_line_names_the_patch(
    tmp_path, values
):
    path = write_zip(tmp_path / "a.zip", {member(): encode(make_pixels(0))})
    declare_in_64_bits(path, **values)
    with pytest.raises(InputError, match=rf"a\.zip:{member()}"):
        store(list_members([path]), tmp_path)


@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "..", "/x.png", "..\\x.png", "a\\..\\x.png", "C:\\x.png"]
)
def test_list_members_when_a_path_leaves_its_folder_then_names_it(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", {member(): b"", name: b""})
    with pytest.raises(InputError, match="leaves its folder") as refusal:
        list_members([path])
    shown = name.replace("\\", "/")
    assert str(refusal.value).startswith(f"a.zip:{shown} leaves")


def test_list_members_when_windows_wrote_backslashes_then_lists_the_patches(tmp_path):
    plain = {member(): encode(make_pixels(0)), member(x=51, label=1): encode(make_pixels(1))}
    path = write_zip(tmp_path / "a.zip", plain)
    # zipfile itself replaces separators as it writes, so this is done to the bytes
    content = path.read_bytes()
    for name in plain:
        content = content.replace(name.encode(), name.replace("/", "\\").encode())
    path.write_bytes(content)
    assert b"\\" in content
    listing = list_members([path])
    assert listing.members["label"].tolist() == [0, 1]
    _, unreadable, pixels = store(listing, tmp_path)
    assert not unreadable
    np.testing.assert_array_equal(pixels, [make_pixels(0), make_pixels(1)])


def test_list_members_when_dots_are_part_of_a_name_then_lists_the_patch(tmp_path):
    path = write_zip(tmp_path / "a.zip", {f"..a/b../{member()}": b""})
    assert len(list_members([path]).members) == 1


def test_list_members_when_an_entry_is_encrypted_then_names_it(small_zip):
    overwrite(small_zip, b"PK\x01\x02", CENTRAL, {"flags": 1}, kind="<H")
    with pytest.raises(InputError, match=rf"small\.zip:{member()} is encrypted; 1 such"):
        list_members([small_zip])


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_list_members_when_the_method_is_another_then_names_the_entry(tmp_path, method):
    path = write_zip(tmp_path / "a.zip", {member(): b"A" * 99}, method)
    with pytest.raises(InputError, match=rf"{member()} is compressed by a method other than"):
        list_members([path])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_read_when_a_byte_of_the_data_is_damaged_then_is_unreadable(tmp_path, method):
    path = write_zip(tmp_path / "a.zip", {member(): encode(make_pixels(0))}, method)
    content = bytearray(path.read_bytes())
    content[3000] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"damaged in the archive \((checksum|does not infl)"):
        read_first(path)


def test_read_when_there_is_no_entry_where_the_directory_says_then_is_unreadable(small_zip):
    overwrite(small_zip, b"PK\x01\x02", CENTRAL, {"offset": 5})
    with pytest.raises(UnreadableError, match="no entry where the directory says"):
        read_first(small_zip)


def test_read_when_bytes_stand_before_the_zip_then_finds_its_entries(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member(): b"content"}, zipfile.ZIP_DEFLATED)
    path.write_bytes(b"#!/bin/sh unpacks itself" + path.read_bytes())
    assert read_first(path) == b"content"


def test_archive_when_any_byte_of_its_directory_is_damaged_then_refuses_or_leaves_out(tmp_path):
    path = tmp_path / "a.zip"
    write_zip(
        path, {member("\u00e9", x=x): encode(np.full((50, 50, 3), 200, "u1")) for x in (1, 2)}
    )
    whole = path.read_bytes()
    for place in range(whole.index(b"PK\x01\x02"), len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x80
        path.write_bytes(damaged)
        try:
            index, reasons, _ = store(list_members([path]), tmp_path)
            assert len(index) + len(reasons) <= 2
        except InputError as error:
            assert "a.zip" in str(error)  # noqa: PT017  (both ways out are right)


# --- folders ---


def test_list_members_when_a_folder_is_read_then_finds_what_the_zip_holds(small_zip, tmp_path):
    zipfile.ZipFile(small_zip).extractall(tmp_path / "folder")
    assert paths_of(list_members([tmp_path / "folder"])) == paths_of(list_members([small_zip]))


def test_read_when_a_file_of_a_folder_is_over_1_mib_then_is_unreadable(tmp_path):
    folder = write_folder(tmp_path / "raw", {member(): bytes(MIB + 1)})
    with pytest.raises(UnreadableError, match="over 1,048,576 bytes"):
        read_first(folder)


def test_list_members_when_a_copy_in_a_folder_is_huge_then_memory_stays_bounded(tmp_path):
    folder = write_folder(tmp_path / "raw", {member(): b"", f"b/{member()}": b""})
    os.truncate(folder / f"b/{member()}", 64 * MIB)
    assert peak_mib(list_members, [folder]) < 16


def test_read_when_a_link_points_nowhere_then_is_unreadable(tmp_path):
    folder = write_folder(tmp_path / "raw", {member(): b""})
    (folder / member(x=51)).symlink_to("nowhere")
    listing = list_members([folder])
    with MemberReader([folder]) as reader, pytest.raises(UnreadableError, match="No such file"):
        reader.read(place_of(listing.members.iloc[1]))


def test_list_members_when_a_copy_is_a_link_that_points_nowhere_then_lists_the_patch(tmp_path):
    folder = write_folder(tmp_path / "raw", {member(): b"", f"b/c/{member(x=51)}": b""})
    (folder / "b" / member()).parent.mkdir(parents=True)
    (folder / "b" / member()).symlink_to("nowhere")
    assert list_members([folder]).members["x"].tolist() == [1, 51]


def test_list_members_when_cases_and_their_parent_are_links_then_lists_their_patches(tmp_path):
    elsewhere = write_folder(tmp_path / "disk", {member(): b"", member(case="9", x=51): b""})
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "IDC").symlink_to(elsewhere)
    assert list_members([raw]).members["case"].tolist() == ["8863", "9"]
    (raw / "IDC").unlink()
    for case in ("8863", "9"):
        (raw / case).symlink_to(elsewhere / case)
    listing = list_members([raw])
    assert listing.members["case"].tolist() == ["8863", "9"]
    with MemberReader([raw]) as reader:
        assert reader.read(place_of(listing.members.iloc[0])) == b""


def test_list_members_when_several_links_lead_to_a_case_then_it_is_read_once_and_said(
    tmp_path, caplog
):
    elsewhere = write_folder(tmp_path / "disk", {member(): b"", member(case="9", x=51): b""})
    raw = write_folder(tmp_path / "raw", {member(case="7"): b""})
    (raw / "1st").symlink_to(elsewhere / "8863")
    (raw / "2nd").symlink_to(elsewhere / "8863")
    (raw / "all").symlink_to(elsewhere)  # holds the case as well
    (raw / "0th").symlink_to(raw / "7")  # beside the folder itself, and before it
    listing = list_members([raw])
    assert listing.members["path"].tolist() == [
        member(case="7"), "1st/0/8863_idx5_x1_y1_class0.png", f"all/{member(case='9', x=51)}"
    ]  # fmt: skip
    assert listing.num_copies == 0
    said = [message.replace(f"{raw}/", "") for message in caplog.messages]
    assert said == [
        f"{link} is the same folder as {first}: read once"
        for link, first in (("0th", "7"), ("2nd", "1st"), ("all/8863", "1st"))
    ]


def test_refuse_change_when_a_file_behind_a_link_changed_then_names_the_folder(tmp_path):
    elsewhere = write_folder(tmp_path / "disk", {member(): b""})
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "IDC").symlink_to(elsewhere)
    source = list_members([raw]).sources[0]
    (elsewhere / member()).write_bytes(b"more")
    with pytest.raises(InputError, match="was changed while it was read"):
        source.reject_change()


@pytest.mark.parametrize(
    ("target", "says"),
    [("nowhere", "link .*/9 points nowhere"), ("..", "link .*/9 points to a folder that it is in")],
)
def test_list_members_when_a_link_hides_a_folder_then_names_it(tmp_path, target, says):
    folder = write_folder(tmp_path / "raw", {member(): b""})
    (folder / "9").symlink_to(target)
    with pytest.raises(InputError, match=says):
        list_members([folder])


# --- changes ---


@pytest.mark.parametrize("change", ["time", "size", "gone"])
def test_refuse_change_when_a_zip_changed_then_names_it(small_zip, change):
    source = list_members([small_zip]).sources[0]
    if change == "gone":
        small_zip.unlink()
    elif change == "size":
        state = small_zip.stat()
        small_zip.write_bytes(small_zip.read_bytes() + b"\0")
        os.utime(small_zip, ns=(state.st_atime_ns, state.st_mtime_ns))
    else:
        os.utime(small_zip, ns=(0, 0))
    with pytest.raises(InputError, match=r"small\.zip was changed while it was read: run again"):
        source.reject_change()


def test_refuse_change_when_a_file_was_added_to_a_folder_then_names_the_folder(tmp_path):
    folder = write_folder(tmp_path / "raw", {member(): b""})
    source = list_members([folder]).sources[0]
    write_folder(folder, {member(x=51): b""})
    with pytest.raises(InputError, match=r"raw was changed while it was read"):
        source.reject_change()


def test_refuse_change_when_nothing_changed_then_passes(small_zip):
    assert list_members([small_zip]).sources[0].reject_change() is None
