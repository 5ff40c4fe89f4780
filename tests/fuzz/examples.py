"""Sound zips and images, which a fuzzer starts from."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

_NAMES = ("8863/0/8863_idx5_x1_y51_class0.png", "M\u00fcller/1/M\u00fcller_idx5_x51_y1_class1.png")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def draw_images() -> Iterator[bytes]:
    """Yield small pictures of every kind that is read."""
    values = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    for mode in _MODES:
        yield _encode(image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode))
    yield _encode(image, optimize=True)
    yield _encode(image, "JPEG")
    yield _encode(image.convert("L"), "JPEG", quality=20)
    yield _encode(image.convert("CMYK"), "JPEG")
    yield _encode(image, "JPEG", progressive=True)
    yield _interlaced()


def draw_zips() -> Iterator[bytes]:
    """Yield small zips of every kind that is read, and two kinds that are refused."""
    patch = next(draw_images())
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        yield _pack(patch, method)
    yield _pack(patch, comment=b"a note")
    yield b"#!/bin/sh\n" + _pack(patch)
    yield _pack(patch, names=[name.replace("/", "\\") for name in _NAMES])
    yield _pack(patch, names=["../" + _NAMES[0]])
    yield _in_64_bits(_pack(patch, names=_NAMES[:1]))
    yield _pack(patch, names=[])


def _encode(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def _interlaced() -> bytes:
    """Return a PNG of one pixel that says it is in seven parts, of which one is there."""
    plain = _encode(Image.new("L", (1, 1), 7))
    header = bytearray(plain[:33])
    header[28] = 1
    struct.pack_into(">L", header, 29, zlib.crc32(header[12:29]))
    return bytes(header) + plain[33:]


def _pack(
    content: bytes,
    method: int = zipfile.ZIP_STORED,
    *,
    names: list[str] | tuple[str, ...] = _NAMES,
    comment: bytes = b"",
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.comment = comment
        for name in names:
            entry = zipfile.ZipInfo("placeholder", (1980, 1, 1, 0, 0, 0))
            entry.filename = name  # as it is: ZipInfo's own constructor changes separators
            archive.writestr(entry, content, method)
    return file.getvalue()


def _in_64_bits(packed: bytes) -> bytes:
    """Return a zip of one entry with its values in the 64-bit fields, and the 64-bit end."""
    start, end = packed.index(b"PK\x01\x02"), packed.rindex(b"PK\x05\x06")
    entry = bytearray(packed[start:end])
    stored, size = struct.unpack_from("<2L", entry, 20)
    struct.pack_into("<2L", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<L", entry, 42, 0xFFFFFFFF)
    extra = struct.pack("<2H3Q", 1, 24, size, stored, 0)
    struct.pack_into("<H", entry, 30, len(extra))
    entry += extra
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(entry), start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + len(entry), 1)
    return packed[:start] + bytes(entry) + record + locator + packed[end:]
