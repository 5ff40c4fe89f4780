"""The columns of a zip's directory against what zipfile itself reads."""

import struct
import zipfile

import pytest

from idc.data.ingest.zip_directory import read_directory

COLUMNS = {
    "path": "filename",
    "offset": "header_offset",
    "stored_bytes": "compress_size",
    "num_bytes": "file_size",
    "crc": "CRC",
    "method": "compress_type",
    "flags": "flag_bits",
}


def agree(path):
    """Say whether both readers find the same files."""
    files = read_directory(path)
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    assert len(entries) > 0
    return all(
        files[column].tolist() == [getattr(entry, name) for entry in entries]
        for column, name in COLUMNS.items()
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.zip"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_read_directory_when_compared_with_zipfile_then_finds_the_same(path, method):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("folder")
        for i in range(300):
            archive.writestr(f"folder/{i}.png", bytes(i))
        archive.writestr("Ärzte/ü.png", b"named in Unicode")
        archive.comment = b"a comment"
    assert agree(path)


def test_read_directory_when_something_stands_before_the_zip_then_offsets_are_of_the_file(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"content")
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert agree(path)
    assert path.read_bytes()[read_directory(path).loc[0, "offset"] :].startswith(b"PK\x03\x04")


def test_read_directory_when_the_count_has_overflown_without_zip64_then_finds_all(path):
    num_entries = (1 << 16) + 5
    names = [f"{number}.png".encode() for number in range(num_entries)]
    directory = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), *[0] * 6)
        + name
        for name in names
    )  # fmt: skip
    count = num_entries % (1 << 16)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), 0, 0)
    path.write_bytes(directory + end)
    assert read_directory(path)["path"].tolist() == [name.decode() for name in names]
    end = end.replace(struct.pack("<H", count), struct.pack("<H", count + 1))
    path.write_bytes(directory + end)
    with pytest.raises(zipfile.BadZipFile, match="65541 entries, 6 promised"):
        read_directory(path)


@pytest.mark.parametrize("note", [b"", struct.pack("<2H6s", 0x5455, 6, b"a date")])
def test_read_directory_when_values_need_64_bits_then_reads_them(path, monkeypatch, note):
    # as if four bytes were too few from 100 on: zipfile then writes all that ZIP64 has
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(6):
            entry = zipfile.ZipInfo(f"{i}.png")
            entry.extra = note
            archive.writestr(entry, bytes(60 * i))
    assert b"PK\x06\x06" in path.read_bytes()
    assert agree(path)


def test_read_directory_when_the_count_of_64_bits_is_wrong_by_its_overflow_then_refuses(path):
    num_entries = (1 << 16) + 1
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(num_entries):
            archive.writestr(zipfile.ZipInfo(f"{i}.png"), b"")
    assert len(read_directory(path)) == num_entries
    content = bytearray(path.read_bytes())
    struct.pack_into("<2Q", content, content.rfind(b"PK\x06\x06") + 24, 1, 1)
    path.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile, match="65537 entries, 1 promised"):
        read_directory(path)


@pytest.mark.parametrize("cut", [1, 10, 30, 80])
def test_read_directory_when_the_end_is_cut_off_then_refuses(path, cut):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"content")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(zipfile.BadZipFile):
        read_directory(path)


def test_read_directory_when_an_entry_is_missing_then_refuses(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"content")
        archive.writestr("b.png", b"content")
    content = bytearray(path.read_bytes())
    end = content.rfind(b"PK\x05\x06")
    struct.pack_into("<2H", content, end + 8, 3, 3)
    path.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile, match="2 entries, 3 promised"):
        read_directory(path)


def test_read_directory_when_there_is_no_file_in_it_then_is_empty(path):
    zipfile.ZipFile(path, "w").close()
    assert read_directory(path).empty
