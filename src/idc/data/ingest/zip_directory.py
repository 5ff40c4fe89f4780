"""The directory of a zip as columns: half a million entries in a second.

`zipfile` makes an object of every entry, which at full size takes 5 seconds and 300 MB before the
first patch is read. Layout: APPNOTE.TXT 6.3.10 of PKWARE, sections 4.3.12 to 4.3.16 and 4.5.3.
"""

import struct
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np
import pandas as pd

_END = struct.Struct("<4s4H2LH")
_LOCATOR64 = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_MAX_COMMENT_BYTES = 0xFFFF
_ENTRY_BYTES = 46
_SEE_EXTRA = 0xFFFFFFFF  # a 32-bit field says: my value stands in the ZIP64 extra field
_UTF8 = 0x800
# without ZIP64, as macOS' own tool packs, the 16 bits of the count have overflown; that the
# directory is whole is known from its bytes
_NARROW_COUNTS = 1 << 16

_WIDE_FIELDS = ("num_bytes", "stored_bytes", "offset")
_FIELDS = {  # place in the entry, type
    "flags": (8, "<u2"),
    "method": (10, "<u2"),
    "crc": (16, "<u4"),
    "stored_bytes": (20, "<u4"),
    "num_bytes": (24, "<u4"),
    "offset": (42, "<u4"),
}


def read_directory(path: Path) -> pd.DataFrame:
    """List the files of a zip, without its folders.

    Returns:
        `path` (str, its parts separated by `/`), and int64: `offset` (of the entry in the file),
        `stored_bytes`, `num_bytes` (unpacked), `crc`, `method`, `flags`.

    Raises:
        BadZipFile: If it is no zip, is cut off, or its directory contradicts itself.
    """
    with path.open("rb") as file:
        names, columns = read_columns(file)
    files = pd.DataFrame({"path": pd.Series(names, dtype="str"), **columns})
    # Windows' tools have written its separator; no file of a patch archive has one in its name
    files["path"] = files["path"].str.replace("\\", "/")
    return files[~files["path"].str.endswith("/")].reset_index(drop=True)


def read_columns(file: BinaryIO) -> tuple[list[str], dict[str, np.ndarray]]:
    """List the entries of an open zip as they stand there.

    Returns:
        Their names, and int64 (entries,) by the other columns of `read_directory`.

    Raises:
        BadZipFile: As `read_directory`.
    """
    start, num_bytes, num_entries, shift, is_wide = _find_directory(file)
    file.seek(start)
    directory = file.read(num_bytes)
    try:
        positions, ends = _walk(directory)
        if num_entries != (len(positions) if is_wide else len(positions) % _NARROW_COUNTS):
            raise BadZipFile(f"{len(positions)} entries, {num_entries} promised")
        names, columns = _read_entries(directory, positions, ends)
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise BadZipFile(f"damaged directory: {error}") from None
    columns["offset"] += shift
    return names, columns


def _find_directory(file: BinaryIO) -> tuple[int, int, int, int, bool]:
    """Return where the directory starts, its bytes, its entries, and by how much offsets are off.

    Offsets are off where something was written before the zip, as in a self-extracting one. Last,
    whether the number of entries has 64 bits, which do not overflow.
    """
    size = file.seek(0, 2)
    tail_start = max(0, size - _END.size - _MAX_COMMENT_BYTES)
    file.seek(tail_start)
    tail = file.read()
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        raise BadZipFile("File is not a zip file")
    end = tail_start + found
    _, disk, _, _, num_entries, num_bytes, offset, _ = _END.unpack_from(tail, found)
    wide = _find_end64(file, end)
    if wide is not None:
        end, num_entries, num_bytes, offset = wide
    elif disk:
        raise BadZipFile("one part of several")
    start = end - num_bytes
    if start < 0 or start < offset:
        raise BadZipFile("the directory is not where it is said to be")
    return start, num_bytes, num_entries, start - offset, wide is not None


def _find_end64(file: BinaryIO, end: int) -> tuple[int, int, int, int] | None:
    """Return place, entries, bytes and offset of the ZIP64 end record, where there is one."""
    if end < _LOCATOR64.size + _END64.size:
        return None
    file.seek(end - _LOCATOR64.size)
    signature, _, _, _ = _LOCATOR64.unpack(file.read(_LOCATOR64.size))
    if signature != b"PK\x06\x07":
        return None
    # it stands just before its locator; the place the locator gives may be off
    place = end - _LOCATOR64.size - _END64.size
    file.seek(place)
    record = _END64.unpack(file.read(_END64.size))
    if record[0] != b"PK\x06\x06":
        raise BadZipFile("no ZIP64 end record before its locator")
    return place, record[7], record[8], record[9]


def _walk(directory: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return where each entry begins and where its name ends; int64 (entries,) each."""
    lengths = struct.Struct("<3H")
    positions, ends = [], []
    position = 0
    while position < len(directory):
        if directory[position : position + 4] != b"PK\x01\x02":
            raise BadZipFile("damaged directory")
        name, extra, comment = lengths.unpack_from(directory, position + 28)
        positions.append(position)
        ends.append(position + _ENTRY_BYTES + name)
        position += _ENTRY_BYTES + name + extra + comment
    if position != len(directory):
        raise BadZipFile("the directory ends in the middle of an entry")
    return np.array(positions, np.int64), np.array(ends, np.int64)


def _read_entries(
    directory: bytes, positions: np.ndarray, ends: np.ndarray
) -> tuple[list[str], dict[str, np.ndarray]]:
    raw = np.frombuffer(directory, np.uint8)
    columns = {
        name: _numbers(raw, positions + place, kind) for name, (place, kind) in _FIELDS.items()
    }
    names = [
        directory[begin:end].decode("utf-8" if is_utf8 else "cp437")
        for begin, end, is_utf8 in zip(
            (positions + _ENTRY_BYTES).tolist(),
            ends.tolist(),
            ((columns["flags"] & _UTF8) > 0).tolist(),
            strict=True,
        )
    ]
    extra_bytes = _numbers(raw, positions + 30, "<u2")
    _widen(columns, raw, ends, ends + extra_bytes)
    return names, columns


def _widen(
    columns: dict[str, np.ndarray], raw: np.ndarray, extras: np.ndarray, stops: np.ndarray
) -> None:
    """Put the 64-bit values of large entries in place.

    Their ZIP64 field holds, in this order, only those that do not fit into 32 bits.

    Args:
        columns: From the entries themselves; changed in place.
        raw: The directory.
        extras: Where the extra fields of each entry begin.
        stops: Where they end.
    """
    wide = [columns[name] == _SEE_EXTRA for name in _WIDE_FIELDS]
    rows = np.flatnonzero(np.any(wide, axis=0))
    rows, places = _find_zip64_fields(raw, rows, extras[rows], stops[rows])
    values = places + 4
    ends = values + _numbers(raw, places + 2, "<u2")
    for name, is_wide in zip(_WIDE_FIELDS, wide, strict=True):
        here = is_wide[rows] & (values + 8 <= np.minimum(ends, stops[rows]))
        # beyond 2^62 it fits no file
        found = np.minimum(_numbers(raw, values[here], "<u8", np.uint64), 2**62)
        columns[name][rows[here]] = found.astype(np.int64)
        values = values + 8 * here


def _find_zip64_fields(
    raw: np.ndarray, rows: np.ndarray, places: np.ndarray, stops: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that have a ZIP64 extra field, and where it begins."""
    found_rows, found_places = [], []
    while len(rows):
        inside = places + 4 <= stops
        rows, places, stops = rows[inside], places[inside], stops[inside]
        is_zip64 = _numbers(raw, places, "<u2") == 1
        found_rows.append(rows[is_zip64])
        found_places.append(places[is_zip64])
        rows, stops = rows[~is_zip64], stops[~is_zip64]
        places = places[~is_zip64]
        places = places + 4 + _numbers(raw, places + 2, "<u2")
    if not found_rows:
        return rows, places
    return np.concatenate(found_rows), np.concatenate(found_places)


def _numbers(raw: np.ndarray, places: np.ndarray, kind: str, result: type = np.int64) -> np.ndarray:
    """Return the number of this type that begins at each place."""
    width = np.arange(np.dtype(kind).itemsize)
    return np.asarray(raw[places[:, None] + width].view(kind).ravel().astype(result))
