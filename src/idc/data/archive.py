"""Read labelled archives, zips or folders, into one pixel store, without unpacking them.

Listing and decoding are apart: the listing knows every patch, its label and its copies before a
single pixel is decoded, so contradictions stop the stage in seconds.
"""

import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pandas as pd

from idc.data.patches import PATCH_SIZE_PX, PatchName, parse_patch_name
from idc.errors import InputError
from idc.progress import track

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
_PATCHES_PER_CHUNK = 512
_WHITE_LEVEL = 220  # a pixel whose darkest channel is above this counts as white
_MAX_NAMES_IN_MESSAGE = 5


@dataclass(frozen=True)
class Member:
    """One patch inside an archive: the zip or folder, and its path inside."""

    source: Path
    path: str
    name: PatchName


@dataclass(frozen=True)
class Listing:
    """Every patch once, sorted by name, and how many nested copies were passed over."""

    members: tuple[Member, ...]
    num_copies: int


@dataclass(frozen=True)
class DecodedPatch:
    """Pixels padded to 50x50 with what was measured before padding; `pixels` None: unreadable."""

    pixels: np.ndarray | None
    height_px: int = 0
    width_px: int = 0
    sha256: str = ""
    white_share: float = 0.0


def find_sources(raw: Path) -> tuple[Path, ...]:
    """Return the zips directly below `raw`, and `raw` itself where it holds patch folders.

    Raises:
        InputError: If there is neither.
    """
    sources = sorted(raw.glob("*.zip")) if raw.is_dir() else []
    if raw.is_dir() and any(entry.is_dir() for entry in raw.iterdir()):
        sources.append(raw)
    if not sources:
        raise InputError(
            f"{raw} holds no archive: download the IDC breast-histopathology patches (277,524 PNG "
            f'files in one zip, "Breast Histopathology Images"), put the zip into {raw}/ and '
            f"run `dvc add {raw}`; `idc synth {raw}/synthetic.zip` makes one to try things with"
        )
    return tuple(sources)


def list_members(sources: Iterable[Path]) -> Listing:
    """List every patch of all sources once; a nested copy gives way to the shallowest path.

    Raises:
        InputError: If a zip cannot be read, an image is off the name grammar, its label folder
            contradicts its name, or one place on a slide carries two labels.
    """
    found = list(chain.from_iterable(_members_of(source) for source in sources))
    if not found:
        raise InputError("the archives hold no patch: expected <case>/<0|1>/<case>_idx5_x…_y….png")
    found.sort(key=lambda member: (member.name, member.path.count("/"), str(member.source)))
    members = tuple(
        member
        for before, member in zip([None, *found], found, strict=False)
        if before is None or before.name != member.name
    )
    _refuse_two_labels(members)
    return Listing(members, num_copies=len(found) - len(members))


def decode_members(members: Sequence[Member], *, num_workers: int) -> Iterator[DecodedPatch]:
    """Decode in the order of `members`, in `num_workers` processes (0: in this one)."""
    chunks = [
        members[start : start + _PATCHES_PER_CHUNK]
        for start in range(0, len(members), _PATCHES_PER_CHUNK)
    ]
    if num_workers == 0:
        decoded: Iterable[list[DecodedPatch]] = map(_decode_chunk, chunks)
        yield from chain.from_iterable(track(decoded, total=len(chunks), what="decoding"))
        return
    # spawn: a forked child would inherit the threads' locks of cv2 and numpy
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        decoded = pool.map(_decode_chunk, chunks)
        yield from chain.from_iterable(track(decoded, total=len(chunks), what="decoding"))


def store_patches(
    listing: Listing, pixels_path: Path, *, num_workers: int
) -> tuple[pd.DataFrame, list[str]]:
    """Write the readable patches to `pixels_path` as uint8 (patches, 50, 50, 3) RGB.

    Returns:
        The index (see `idc.data.patches.load_index`) and the archive paths of unreadable patches.

    Raises:
        InputError: If not one patch can be read.
    """
    shape = (len(listing.members), PATCH_SIZE_PX, PATCH_SIZE_PX, 3)
    store = np.lib.format.open_memmap(pixels_path, mode="w+", dtype=np.uint8, shape=shape)
    rows: list[dict[str, object]] = []
    unreadable: list[str] = []
    decoded = decode_members(listing.members, num_workers=num_workers)
    for member, patch in zip(listing.members, decoded, strict=True):
        if patch.pixels is None:
            unreadable.append(f"{member.source.name}:{member.path}")
            continue
        store[len(rows)] = patch.pixels
        rows.append(_index_row(member.name, patch))
    if not rows:
        raise InputError(f"none of {len(listing.members)} patches decodes, first {unreadable[0]}")
    store.flush()
    if unreadable:
        # fewer patches than rows were laid out: the header must say the true number
        np.save(pixels_path, np.array(store[: len(rows)]))
    return pd.DataFrame(rows).astype(_INDEX_DTYPES), unreadable


_INDEX_DTYPES = {
    "x": "int32", "y": "int32", "label": "int8", "height_px": "int16", "width_px": "int16",
}  # fmt: skip


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


def decode_image(content: bytes) -> np.ndarray | None:
    """Decode PNG or JPEG bytes to uint8 (height, width, 3) RGB; None where they are neither."""
    if not content:
        return None
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    return None if pixels is None else np.asarray(pixels, dtype=np.uint8)


def _members_of(source: Path) -> Iterator[Member]:
    for path in _paths_in(source):
        parts = PurePosixPath(path)
        if parts.suffix.lower() not in _IMAGE_SUFFIXES or parts.name.startswith("."):
            continue
        if "__MACOSX" in parts.parts:
            continue
        yield Member(source, path, _checked_name(source, parts))


def _paths_in(source: Path) -> list[str]:
    if source.is_dir():
        return [file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file()]
    try:
        with zipfile.ZipFile(source) as archive:
            return [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{source} is not a readable zip ({error}): download it again and compare its size"
        ) from None


def _checked_name(source: Path, path: PurePosixPath) -> PatchName:
    try:
        name = parse_patch_name(path.name)
    except InputError as error:
        raise InputError(f"{source.name}:{path}: {error}; rename or remove it") from None
    folder = path.parent.name
    if folder in {"0", "1"} and int(folder) != name.label:
        raise InputError(
            f"{source.name}:{path}: folder says label {folder}, name says {name.label}; "
            "mend whichever is wrong"
        )
    return name


def _refuse_two_labels(members: Sequence[Member]) -> None:
    places = Counter((member.name.case, member.name.x, member.name.y) for member in members)
    twice = [place for place, times in places.items() if times > 1]
    if twice:
        named = ", ".join(f"{case} x{x} y{y}" for case, x, y in twice[:_MAX_NAMES_IN_MESSAGE])
        raise InputError(
            f"{len(twice)} places on a slide carry two labels ({named}): remove the wrong patch"
        )


def _decode_chunk(members: Sequence[Member]) -> list[DecodedPatch]:
    cv2.setNumThreads(1)
    archives = {
        source: zipfile.ZipFile(source)
        for source in {member.source for member in members}
        if not source.is_dir()
    }
    try:
        return [_decode(_read(member, archives)) for member in members]
    finally:
        for archive in archives.values():
            archive.close()


def _read(member: Member, archives: dict[Path, zipfile.ZipFile]) -> bytes:
    try:
        if member.source in archives:
            return archives[member.source].read(member.path)
        return (member.source / member.path).read_bytes()
    except (zipfile.BadZipFile, OSError):
        return b""


def _decode(content: bytes) -> DecodedPatch:
    pixels = decode_image(content)
    if pixels is None or max(pixels.shape[:2]) > PATCH_SIZE_PX:
        return DecodedPatch(pixels=None)
    height, width = pixels.shape[:2]
    return DecodedPatch(
        pixels=pad_to_patch(pixels),
        height_px=height,
        width_px=width,
        sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        white_share=float((pixels.min(axis=2) > _WHITE_LEVEL).mean()),
    )


def _index_row(name: PatchName, patch: DecodedPatch) -> dict[str, object]:
    return {
        "case": name.case,
        "x": name.x,
        "y": name.y,
        "label": name.label,
        "height_px": patch.height_px,
        "width_px": patch.width_px,
        "sha256": patch.sha256,
        "sliver": (patch.height_px, patch.width_px) != (PATCH_SIZE_PX, PATCH_SIZE_PX),
        "near_blank": patch.white_share > 0.75,
        "blank": patch.white_share > 0.90,
    }
