"""What must hold of any bytes at all: the reader takes them, or refuses them by its own errors.

Each function is called with what a fuzzer made up (`coverage_guided`) and with the inputs that were
kept (`test_readers`). Whatever else than those errors leaves it is a fault of the reader.
"""

import io
import os
import zipfile
from pathlib import Path

import numpy as np

from idc.core.errors import InputError
from idc.data.ingest.archive import list_members
from idc.data.ingest.decoding import UnreadableError, decode_patch, pad_to_patch
from idc.data.ingest.members import (
    MAX_FILE_BYTES,
    PLACE_COLUMNS,
    MemberPlace,
    MemberReader,
    read_entry,
    unpack_places,
)
from idc.data.ingest.zip_directory import read_columns
from idc.data.patches import PATCH_SHAPE

_SHARED_MEMORY = Path("/dev/shm")
_ENTRIES = 4  # of one zip: what holds of the first holds of the others


def read_zip(content: bytes) -> None:
    """Read the directory of a zip in memory, and its first entries, as ingest does."""
    file = io.BytesIO(content)
    try:
        names, columns = read_columns(file)
    except zipfile.BadZipFile:
        return
    for row, name in enumerate(names[:_ENTRIES]):
        facts = {key: int(columns[key][row]) for key in PLACE_COLUMNS if key in columns}
        # as ingest does before it reads any
        if max(facts["stored_bytes"], facts["num_bytes"]) > MAX_FILE_BYTES:
            continue
        if facts["offset"] < len(content):
            _read_entry(file, MemberPlace(source=0, path=name.replace("\\", "/"), **facts))


def _read_entry(file: io.BytesIO, place: MemberPlace) -> None:
    try:
        read = read_entry(file, place)
    except UnreadableError:
        return
    assert len(read) == place.num_bytes


def decode_image(content: bytes) -> None:
    """Decode an image, as ingest and the served model do."""
    try:
        pixels, kind = decode_patch(content)
    except UnreadableError as error:
        assert "\n" not in str(error)  # noqa: PT017  (both ways out are right)
        return
    assert pixels.dtype == np.uint8
    assert kind.endswith(("PNG", "JPEG"))
    assert pad_to_patch(pixels).shape == PATCH_SHAPE


def list_archive(content: bytes) -> None:
    """List a zip of patches on the disk, and read what it lists: slower, but all of it."""
    path = (_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path()) / f"idc-fuzz-{os.getpid()}.zip"
    path.write_bytes(content)
    try:
        listing = list_members([path])
        columns = listing.members[list(PLACE_COLUMNS)]
        with MemberReader([path]) as reader:
            for place in unpack_places([columns[key].tolist() for key in columns]):
                try:
                    decode_patch(reader.read(place))
                except UnreadableError:
                    continue
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017  (as above)
    finally:
        path.unlink()


READERS = {"zip": read_zip, "image": decode_image, "archive": list_archive}
