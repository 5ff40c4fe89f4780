import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from idc.core.errors import InputError
from idc.data.ingest.decoding import UnreadableError, decode_patch, pad_to_patch

GROWTH = """
import re, sys
from idc.data.ingest.decoding import UnreadableError, decode_patch

def peak_kib():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])

content = sys.stdin.buffer.read()
before = peak_kib()
try:
    decode_patch(content)
except UnreadableError as error:
    print(error, end=";")
print((peak_kib() - before) // 1024)
"""

END_OF_PNG = bytes(4) + b"IEND\xae\x42\x60\x82"

SIDEWAYS = 6  # the Exif orientation of a picture that viewers turn by a quarter


def make_pixels(seed, height=50, width=50, channels=3, kind=np.uint8):
    top = np.iinfo(kind).max
    values = np.random.default_rng(seed).integers(0, top, (height, width, channels), endpoint=True)
    return values.astype(kind)


def encode_by_cv2(pixels, suffix=".png"):
    """Encode RGB(A) or one channel: OpenCV takes blue first."""
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    return cv2.imencode(suffix, pixels[..., order])[1].tobytes()


def encode_by_pillow(image, kind="PNG", **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def as_rgb(image):
    return np.asarray(image.convert("RGB"))


def claim_png_size(content, width, height):
    """Write another size into the header, with the checksum that belongs to it."""
    changed = bytearray(content)
    struct.pack_into(">II", changed, 16, width, height)
    struct.pack_into(">I", changed, 29, zlib.crc32(bytes(changed[12:29])))
    return bytes(changed)


def claim_jpeg_size(content, width, height):
    changed = bytearray(content)
    struct.pack_into(">HH", changed, content.index(b"\xff\xc0") + 5, height, width)
    return bytes(changed)


@pytest.fixture
def png():
    return encode_by_cv2(make_pixels(0))


@pytest.fixture
def jpeg():
    return encode_by_pillow(Image.fromarray(make_pixels(0)), "JPEG")


# --- formats ---


@pytest.mark.parametrize(("height", "width"), [(50, 50), (50, 7), (13, 50), (1, 1)])
def test_decode_patch_when_8_bit_rgb_then_pixels_are_exact_and_format_is_the_published_one(
    height, width
):
    original = make_pixels(0, height, width)
    pixels, kind = decode_patch(encode_by_cv2(original))
    np.testing.assert_array_equal(pixels, original)
    assert (pixels.dtype.name, kind) == ("uint8", "8-bit RGB PNG")


@pytest.mark.parametrize(
    ("channels", "colour"), [(1, "greyscale"), (3, "RGB"), (4, "RGBA")], ids=lambda value: value
)
def test_decode_patch_when_16_bit_then_keeps_the_high_byte(channels, colour):
    original = make_pixels(0, channels=channels, kind=np.uint16)
    pixels, kind = decode_patch(encode_by_cv2(original))
    expected = np.broadcast_to((original >> 8)[..., :3], (50, 50, 3))
    np.testing.assert_array_equal(pixels, expected)
    assert kind == f"16-bit {colour} PNG"


def test_decode_patch_when_greyscale_then_all_three_channels_are_it():
    original = make_pixels(0, channels=1)
    pixels, kind = decode_patch(encode_by_cv2(original))
    np.testing.assert_array_equal(pixels, np.repeat(original, 3, axis=2))
    assert kind == "8-bit greyscale PNG"


def test_decode_patch_when_black_and_white_then_becomes_0_and_255():
    image = Image.fromarray(make_pixels(0, channels=1)[..., 0] > 127)
    pixels, kind = decode_patch(encode_by_pillow(image))
    np.testing.assert_array_equal(pixels, as_rgb(image))
    assert kind == "1-bit greyscale PNG"


@pytest.mark.parametrize(("colours", "bits"), [(2, 1), (16, 4), (256, 8)])
def test_decode_patch_when_palette_then_becomes_its_colours(colours, bits):
    image = Image.fromarray(make_pixels(0)).quantize(colours)
    pixels, kind = decode_patch(encode_by_pillow(image))
    np.testing.assert_array_equal(pixels, as_rgb(image))
    assert kind == f"{bits}-bit palette PNG"


@pytest.mark.parametrize(
    ("mode", "channels", "colour"), [("RGBA", 4, "RGBA"), ("LA", 2, "greyscale + alpha")]
)
def test_decode_patch_when_there_is_an_alpha_channel_then_drops_it(mode, channels, colour):
    image = Image.frombytes(mode, (50, 50), make_pixels(0, channels=channels).tobytes())
    pixels, kind = decode_patch(encode_by_pillow(image))
    opaque = image.copy()
    opaque.putalpha(255)
    np.testing.assert_array_equal(pixels, as_rgb(opaque))
    assert kind == f"8-bit {colour} PNG"


@pytest.mark.parametrize(("mode", "colour"), [("RGB", "RGB"), ("L", "greyscale")])
def test_decode_patch_when_jpeg_then_pixels_are_near_and_the_format_says_so(mode, colour):
    smooth = cv2.GaussianBlur(make_pixels(0), (0, 0), 8)
    image = Image.fromarray(smooth).convert(mode)
    pixels, kind = decode_patch(encode_by_pillow(image, "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - as_rgb(image)).max() <= 12
    assert kind == f"8-bit {colour} JPEG"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_decode_patch_when_it_carries_an_orientation_then_pixels_stay_as_stored(kind):
    image = Image.fromarray(cv2.GaussianBlur(make_pixels(0), (0, 0), 8))
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    turned, _ = decode_patch(encode_by_pillow(image, kind, exif=exif))
    np.testing.assert_array_equal(turned, decode_patch(encode_by_pillow(image, kind))[0])


# --- headers that lie ---


@pytest.mark.parametrize(
    ("width", "height"), [(20_000, 20_000), (50, 80), (80, 50), (51, 50), (2**31, 1)]
)
def test_decode_patch_when_a_png_claims_more_than_a_patch_then_says_how_much(png, width, height):
    with pytest.raises(UnreadableError, match=f"is {width}x{height} px, a patch has at most 50"):
        decode_patch(claim_png_size(png, width, height))


@pytest.mark.parametrize(("width", "height"), [(50, 30), (30, 50), (1, 1)])
def test_decode_patch_when_a_png_claims_less_than_it_holds_then_refuses(png, width, height):
    with pytest.raises(UnreadableError, match="holds more pixels than its header says"):
        decode_patch(claim_png_size(png, width, height))


@pytest.mark.parametrize(("width", "height"), [(50, 40), (50, 50), (40, 30)])
def test_decode_patch_when_a_png_claims_more_than_it_holds_then_refuses(width, height):
    sliver = encode_by_cv2(make_pixels(0, height=30))
    with pytest.raises(UnreadableError, match=r"holds (fewer|more) pixels"):
        decode_patch(claim_png_size(sliver, width, height))


def test_decode_patch_when_a_whole_patch_holds_more_rows_than_it_says_then_refuses():
    longer = encode_by_cv2(make_pixels(0, height=80))
    with pytest.raises(UnreadableError, match="holds more pixels than its header says"):
        decode_patch(claim_png_size(longer, 50, 50))


@pytest.mark.parametrize(("width", "height"), [(0, 50), (50, 0), (0, 0)])
def test_decode_patch_when_a_png_claims_no_pixel_then_refuses(png, width, height):
    with pytest.raises(UnreadableError, match="has no valid PNG header"):
        decode_patch(claim_png_size(png, width, height))


@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (9_900, 9_900), (51, 50), (50, 400)]
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decode_patch_when_a_jpeg_claims_more_than_a_patch_then_refuses(jpeg, width, height):
    with pytest.raises(UnreadableError, match="a patch has at most 50"):
        decode_patch(claim_jpeg_size(jpeg, width, height))


@pytest.mark.parametrize(("width", "height"), [(0, 50), (50, 0)])
def test_decode_patch_when_a_jpeg_claims_no_pixel_then_refuses(jpeg, width, height):
    with pytest.raises(UnreadableError, match=r"JPEG header|does not decode"):
        decode_patch(claim_jpeg_size(jpeg, width, height))


@pytest.mark.parametrize("colour", [1, 5, 7])
def test_decode_patch_when_the_png_colour_is_unknown_then_refuses(png, colour):
    changed = bytearray(png)
    changed[25] = colour
    with pytest.raises(UnreadableError, match="has no valid PNG header"):
        decode_patch(bytes(changed))


# --- damage ---


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"no picture", "is neither PNG nor JPEG"),
        (b"GIF89a", "is neither PNG nor JPEG"),
        (b"\x89PNG\r\n\x1a\n", "has no PNG header"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "has no PNG header"),
        (b"\xff\xd8\xff", "has no JPEG header"),
        (b"\xff\xd8\xff" + bytes(40), "has no JPEG header"),
    ],
)
def test_decode_patch_when_it_is_no_picture_then_says_why(content, reason):
    with pytest.raises(UnreadableError, match=f"^{reason}$"):
        decode_patch(content)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_decode_patch_when_it_ends_too_early_then_refuses(request, kind, keep):
    content = request.getfixturevalue(kind)
    with pytest.raises(
        UnreadableError, match=r"ends in the middle|has no JPEG header|does not decode"
    ):
        decode_patch(content[: int(keep * len(content))])


@pytest.mark.parametrize("width", [50, 20])
def test_decode_patch_when_any_bit_of_a_png_is_flipped_then_never_gives_other_pixels(width):
    original = make_pixels(0, width=width) // 64 * 64
    content = encode_by_cv2(original)
    for bit in [*range(8 * 33), *range(8 * 33, 8 * len(content), 401)]:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            pixels, _ = decode_patch(bytes(flipped))
        except UnreadableError:
            continue
        np.testing.assert_array_equal(pixels, original)


def test_decode_patch_when_bytes_of_a_jpeg_are_damaged_then_refuses_or_gives_a_patch(jpeg):
    for place in range(3, len(jpeg), 11):
        damaged = bytearray(jpeg)
        damaged[place] ^= 0xFF
        try:
            pixels, _ = decode_patch(bytes(damaged))
        except UnreadableError:
            continue
        assert max(pixels.shape) <= 50


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_decode_patch_when_bytes_follow_the_end_of_the_picture_then_they_do_not_matter(
    request, kind
):
    content = request.getfixturevalue(kind)
    pixels, _ = decode_patch(content + b"left here by a program that adds its own notes")
    np.testing.assert_array_equal(pixels, decode_patch(content)[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("before", [b"", END_OF_PNG], ids=["at_once", "behind_an_early_end"])
def test_decode_patch_when_a_chunk_claims_half_a_gib_then_memory_stays_bounded(png, before):
    long = bytearray(png[:33] + before + png[33:])
    struct.pack_into(">I", long, 33 + len(before), 512 << 20)  # how long the pixels' chunk is
    # the decoder's own memory shows in the size of the process only
    done = subprocess.run([sys.executable, "-c", GROWTH], input=bytes(long), capture_output=True)
    reason, growth_mib = done.stdout.decode().split(";")
    assert reason == "ends in the middle"
    assert int(growth_mib) < 64


# --- padding ---


@pytest.mark.parametrize(("height", "width"), [(50, 1), (1, 50), (13, 20), (50, 50)])
def test_pad_to_patch_when_smaller_then_keeps_the_corner_and_fills_from_it(height, width):
    pixels = make_pixels(0, height, width)
    padded = pad_to_patch(pixels)
    assert padded.shape == (50, 50, 3)
    np.testing.assert_array_equal(padded[:height, :width], pixels)
    assert {*padded.reshape(-1)} == {*pixels.reshape(-1)}


def test_pad_to_patch_when_narrow_then_the_border_is_a_mirror():
    pixels = make_pixels(0, width=30)
    np.testing.assert_array_equal(pad_to_patch(pixels)[:, 30:], pixels[:, :9:-1])


@pytest.mark.parametrize(("height", "width"), [(50, 60), (51, 50)])
def test_pad_to_patch_when_too_large_then_refuses(height, width):
    with pytest.raises(InputError, match=f"not {width}x{height}"):
        pad_to_patch(make_pixels(0, height, width))
