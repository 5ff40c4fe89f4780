"""Read the bytes of single patches from zips and folders; nothing is ever unpacked."""

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from idc.data.ingest.decoding import UnreadableError

MAX_FILE_BYTES = 1 << 20
"""A 50x50 patch has some 6 kB, as a 16-bit RGBA picture at most 21 kB."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")


PLACE_COLUMNS = ("source", "path", "offset", "stored_bytes", "num_bytes", "crc", "method")

Places = list[list[Any]]
"""The values of `PLACE_COLUMNS`, column by column: so they pass fast between processes."""


@dataclass(frozen=True, slots=True)
class MemberPlace:
    """Where one file's bytes are; the last five say nothing for a file in a folder."""

    source: int
    path: str
    offset: int
    stored_bytes: int
    num_bytes: int
    crc: int
    method: int


def unpack_places(places: Places) -> Iterator[MemberPlace]:
    """Yield one place after the other."""
    return starmap(MemberPlace, zip(*places, strict=True))


class MemberReader:
    """Reads members of the sources; as a context manager it closes the zips it opened."""

    def __init__(self, sources: Sequence[Path]) -> None:
        self._sources = sources
        self._folders = {number for number, source in enumerate(sources) if source.is_dir()}
        self._open: dict[int, IO[bytes]] = {}

    def __enter__(self) -> "MemberReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def read(self, member: MemberPlace) -> bytes:
        """Return the bytes of one file, never more than its entry declares.

        Raises:
            UnreadableError: If it is gone or damaged.
        """
        source = self._sources[member.source]
        try:
            if member.source in self._folders:
                return read_file(source / member.path)
            if member.source not in self._open:
                self._open[member.source] = source.open("rb", buffering=0)
            return read_entry(self._open[member.source], member)
        except OSError as error:
            raise UnreadableError(f"cannot be read ({error.strerror})") from None


def read_file(path: Path) -> bytes:
    """Return the bytes of a file, where they are not too many for a patch.

    Raises:
        UnreadableError: If they are.
    """
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableError(f"has over {MAX_FILE_BYTES:,} bytes")
    return content


def read_entry(file: IO[bytes], member: MemberPlace) -> bytes:
    """Read one entry where the directory says it is.

    zipfile itself reads the whole directory (5 seconds and 300 MB of memory at full size) in each
    process that opens an archive, and takes longer to open an entry than to read it.

    Raises:
        UnreadableError: If it is damaged.
    """
    file.seek(member.offset)
    # header, name and content in one read; the name is nearly always as long as its path
    entry = file.read(_LOCAL_HEADER.size + len(member.path) + member.stored_bytes)
    if len(entry) < _LOCAL_HEADER.size or entry[:4] != b"PK\x03\x04":
        raise UnreadableError("is damaged in the archive (no entry where the directory says)")
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(entry)
    start = _LOCAL_HEADER.size + name_bytes
    name = entry[_LOCAL_HEADER.size : start].replace(b"\\", b"/")  # as the directory is read
    if name != member.path.encode() and name != member.path.encode("cp437", "replace"):
        raise UnreadableError("has another name in the archive than in its directory")
    start += extra_bytes
    content = entry[start : start + member.stored_bytes]
    if len(content) < member.stored_bytes:
        file.seek(member.offset + start)
        content = file.read(member.stored_bytes)
    if member.method == zipfile.ZIP_DEFLATED:
        try:
            content = zlib.decompressobj(-15).decompress(content, member.num_bytes + 1)
        except zlib.error:
            raise UnreadableError("is damaged in the archive (does not inflate)") from None
    if len(content) != member.num_bytes or zlib.crc32(content) != member.crc:
        raise UnreadableError("is damaged in the archive (checksum)")
    return content
