"""Image bytes to the pixels of one patch: nothing is decoded before its header is believed.

A header may promise 20,000 x 20,000 px in a hundred bytes, so the size is read and judged first.
The compressed part of a PNG is inflated here, by ISA-L and only as far as the header promises, and
handed to the decoder uncompressed: that takes two thirds of the time that the decoder alone takes,
and a picture that holds more or less than its header says is found out.
"""

import io
import struct

import cv2
import numpy as np

from idc.core.errors import InputError
from idc.data.patches import PATCH_SIZE_PX

try:
    from isal import isal_zlib as zlib
    from isal.igzip_lib import IsalError as InflateError
except ImportError:  # the registered model's environment goes without: zlib gives the same bytes
    import zlib  # type: ignore[no-redef]
    from zlib import error as InflateError  # type: ignore[assignment]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_PNG_COLOURS = {  # name, channels
    0: ("greyscale", 1),
    2: ("RGB", 3),
    3: ("palette", 1),
    4: ("greyscale + alpha", 2),
    6: ("RGBA", 4),
}
_PNG_HEADER_BYTES = 33  # signature and IHDR chunk
_IHDR = struct.Struct(">2L5B")
_CHUNK = struct.Struct(">L4s")
_IEND = b"\x00\x00\x00\x00IEND\xaeB`\x82"

# a camera's note on how it was held must not turn a patch of a slide
_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class UnreadableError(ValueError):
    """The bytes are no usable patch; the message says why, in a few words."""


def decode_patch(content: bytes) -> tuple[np.ndarray, str]:
    """Decode the bytes of one PNG or JPEG file that holds at most 50x50 px.

    16-bit values keep their high byte, greyscale and palette images become RGB, an alpha channel
    is dropped.

    Returns:
        uint8 (height, width, 3) RGB, and the format found, such as `16-bit greyscale PNG`.

    Raises:
        UnreadableError: If the bytes are neither, are damaged, or are larger than a patch.
    """
    height, width, kind = _read_header(content)
    if max(height, width) > PATCH_SIZE_PX:
        raise UnreadableError(f"is {width}x{height} px, a patch has at most 50 a side")
    plain = _inflate_png(content) if content.startswith(_PNG_SIGNATURE) else content
    pixels = cv2.imdecode(np.frombuffer(plain, np.uint8), _AS_STORED)
    if pixels is None:
        raise UnreadableError("does not decode")
    if pixels.shape != (height, width, 3):
        raise UnreadableError("decodes to another size than its header says")
    return np.asarray(pixels, dtype=np.uint8), kind


def is_image_file(content: bytes) -> bool:
    """Say whether the bytes begin as a PNG or JPEG does."""
    return content.startswith((_PNG_SIGNATURE, _JPEG_SIGNATURE))


def pad_to_patch(pixels: np.ndarray) -> np.ndarray:
    """Pad (height, width, 3) uint8 to 50x50 at the right and bottom by reflection.

    White padding would tell the label: slide-edge slivers are nearly all IDC-.

    Raises:
        InputError: If a side is longer than 50 px.
    """
    height, width = pixels.shape[:2]
    if max(height, width) > PATCH_SIZE_PX:
        raise InputError(f"a patch is at most {PATCH_SIZE_PX} px a side, not {width}x{height}")
    below, right = PATCH_SIZE_PX - height, PATCH_SIZE_PX - width
    # "symmetric" repeats the border, so it also pads a patch one pixel thin
    return np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="symmetric")


def _read_header(content: bytes) -> tuple[int, int, str]:
    """Return height and width in px and the format, without decoding."""
    if content.startswith(_PNG_SIGNATURE):
        return _read_png_header(content)
    if content.startswith(_JPEG_SIGNATURE):
        return _read_jpeg_header(content)
    raise UnreadableError("is neither PNG nor JPEG" if content else "is empty")


def _read_png_header(content: bytes) -> tuple[int, int, str]:
    if len(content) < _PNG_HEADER_BYTES or content[12:16] != b"IHDR":
        raise UnreadableError("has no PNG header")
    width, height, depth, colour = _IHDR.unpack_from(content, 16)[:4]
    if min(width, height) == 0 or colour not in _PNG_COLOURS:
        raise UnreadableError("has no valid PNG header")
    return height, width, f"{depth}-bit {_PNG_COLOURS[colour][0]} PNG"


def _inflate_png(content: bytes) -> bytes:
    """Return the same picture with its pixels uncompressed; an interlaced one as it is.

    Raises:
        UnreadableError: If it is damaged, or holds more or less than its header promises.
    """
    compressed, palette = _read_chunks(content)
    width, height, depth, colour, _, _, interlaced = _IHDR.unpack_from(content, 16)
    if interlaced:
        return content  # in seven parts, whose sizes only the decoder knows; none is published
    row_bytes = 1 + (width * depth * _PNG_COLOURS[colour][1] + 7) // 8
    promised = height * row_bytes
    inflate = zlib.decompressobj()
    try:
        rows = inflate.decompress(compressed, promised + 1)
    except InflateError:  # type: ignore[misc]  # its stub takes it for an instance
        raise UnreadableError("does not inflate") from None
    if len(rows) > promised:
        raise UnreadableError("holds more pixels than its header says")
    if len(rows) < promised or not inflate.eof:
        raise UnreadableError("holds fewer pixels than its header says")
    # one stored block (RFC 1951, 3.2.4): at most 50 rows of 401 bytes, 65,535 would fit
    size = struct.pack("<2H", promised, promised ^ 0xFFFF)
    body = b"IDAT\x78\x01\x01" + size + rows + struct.pack(">L", zlib.adler32(rows))
    chunk = struct.pack(">L", len(body) - 4) + body + struct.pack(">L", zlib.crc32(body))
    return content[:_PNG_HEADER_BYTES] + palette + chunk + _IEND


def _read_chunks(content: bytes) -> tuple[bytes, bytes]:
    """Return the compressed pixels, and the whole palette chunk where there is one.

    The decoder makes room for what a chunk says it holds, up to 2 GiB, before it reads it: so every
    chunk up to the end must lie within the file.
    """
    data, palette = [], b""
    position = _PNG_HEADER_BYTES
    while position + 8 <= len(content):
        length, kind = _CHUNK.unpack_from(content, position)
        if kind == b"IDAT":
            data.append(content[position + 8 : position + 8 + length])
        elif kind == b"PLTE":
            palette = content[position : position + 12 + length]
        position += 12 + length
        if kind == b"IEND" and data:  # what comes after it, notes of some program, is not read
            break
    if position > len(content):
        raise UnreadableError("ends in the middle")
    return b"".join(data), palette


def _read_jpeg_header(content: bytes) -> tuple[int, int, str]:
    from PIL import Image  # rare here, and a worker process should start fast

    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            width, height = image.size
            return height, width, f"8-bit {'greyscale' if image.mode == 'L' else 'RGB'} JPEG"
    except Image.DecompressionBombError:
        raise UnreadableError("is over 10,000 px a side, a patch has at most 50") from None
    except (OSError, ValueError, SyntaxError):
        raise UnreadableError("has no JPEG header") from None
