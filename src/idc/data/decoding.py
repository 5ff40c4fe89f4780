"""Image bytes to the pixels of one patch: nothing is decoded before its header is believed.

A header may promise 20,000 x 20,000 px in a hundred bytes, so the size is read and judged first.
"""

import io
import struct
import zlib

import cv2
import numpy as np

from idc.data.patches import PATCH_SIZE_PX
from idc.errors import InputError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_PNG_COLOURS = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale + alpha", 6: "RGBA"}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

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
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), _AS_STORED)
    if pixels is None:
        raise UnreadableError("does not decode")
    if pixels.shape != (height, width, 3):
        raise UnreadableError("decodes to another size than its header says")
    return np.asarray(pixels, dtype=np.uint8), kind


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
    if len(content) < 33 or content[12:16] != b"IHDR":
        raise UnreadableError("has no PNG header")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    if min(width, height) == 0 or colour not in _PNG_COLOURS:
        raise UnreadableError("has no valid PNG header")
    if max(width, height) <= PATCH_SIZE_PX:
        data = _pixel_data(content)
        whole_patch = width == height == PATCH_SIZE_PX
        if not whole_patch and not interlaced:
            _require_promised_bytes(data, height, width * depth * _PNG_CHANNELS[colour])
    return height, width, f"{depth}-bit {_PNG_COLOURS[colour]} PNG"


def _require_promised_bytes(data: list[bytes], height: int, bits_per_row: int) -> None:
    """Refuse a PNG whose data goes on where its header says it ends.

    The decoder takes the rows it was promised and drops the others without an error: a slide-edge
    patch could so lose most of its tissue. Too little data it refuses by itself.
    """
    promised = height * (1 + (bits_per_row + 7) // 8)
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(b"".join(data), promised + 1)
    except zlib.error:
        return  # the decoder will say so
    if len(found) > promised:
        raise UnreadableError("holds more pixels than its header says")


def _pixel_data(content: bytes) -> list[bytes]:
    """Return the compressed pixels, chunk by chunk.

    The decoder makes room for what a chunk says it holds, up to 2 GiB, before it reads it: so every
    chunk must end within the file.
    """
    data = []
    position = len(_PNG_SIGNATURE)
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        if kind == b"IDAT":
            data.append(content[position + 8 : position + 8 + length])
        position += 12 + length
    if position > len(content):
        raise UnreadableError("ends in the middle")
    return data


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
