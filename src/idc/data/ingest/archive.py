"""List what labelled archives, zips or folders, hold: every patch once, before any is decoded.

Nothing is ever unpacked. Contradictions (a name off the grammar, a folder that says another label,
one place with two labels) stop here, in seconds. A patch costs some 300 bytes of memory, whatever
its size.
"""

import hashlib
import logging
import os
import re
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from idc.core.errors import InputError
from idc.data.ingest.decoding import UnreadableError
from idc.data.ingest.members import MAX_FILE_BYTES, PLACE_COLUMNS, read_file
from idc.data.ingest.names import CASE_RULE, NAME_GRAMMAR, parse_paths
from idc.data.ingest.zip_directory import read_directory

log = logging.getLogger(__name__)

_IMAGE = r"(?i)\.(png|jpe?g|tiff?|bmp)$"
_LEFT_BY_MACOS = r"(^|/)(__MACOSX/|\._)"
_UNSAFE = r"(^|/)\.\.(/|$)|^/|^[A-Za-z]:"
_MAX_NAMES_IN_MESSAGE = 5
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_NAME_KEY = ["case", "x", "y", "label"]


@dataclass(frozen=True)
class Source:
    """A zip or a folder of patches, and the state it was listed in."""

    path: Path
    state: str

    def reject_change(self) -> None:
        """Check that nothing was changed since the listing.

        Raises:
            InputError: If something was.
        """
        if not self.path.exists() or _state_of(self.path) != self.state:
            raise InputError(
                f"{self.path} was changed while it was read", fix="run again when it is complete"
            )


@dataclass(frozen=True)
class Listing:
    """What the sources hold.

    `members` has a row per patch, sorted by case, x, y: `case`, `x`, `y`, `label`, `source` (number
    in `sources`), `path` inside it, and where a zip keeps it: `offset`, `stored_bytes`, `num_bytes`
    (unpacked), `crc`, `method`. `rivals` has the same columns for further files of the same name
    whose bytes differ: only their pixels can tell whether they are copies.
    """

    sources: tuple[Source, ...]
    members: pd.DataFrame
    rivals: pd.DataFrame
    num_copies: int
    num_other_files: int

    def name_of(self, member: pd.Series) -> str:
        """Return `<source>:<path inside>` of one row of `members` or `rivals`."""
        return _name(member, self.sources)


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
            f"{raw} holds no archive",
            fix="download the IDC breast-histopathology patches (277,524 PNG files in one zip, "
            f'"Breast Histopathology Images"), put the zip into {raw}/ and '
            f"run `dvc add {raw}/<name>.zip`; `idc synth {raw}/synthetic.zip` makes one to try "
            "things with",
        )
    return tuple(sources)


def list_members(paths: Iterable[Path]) -> Listing:
    """List every patch of all sources once; a copy gives way to the shallowest path.

    Raises:
        InputError: If a zip cannot be read or holds what no patch archive does, a link leads
            nowhere or into itself, an image is off the name grammar, its label folder contradicts
            its name, or one place on a slide carries two labels.
    """
    sources = tuple(Source(path, _state_of(path)) for path in paths)
    tables = [_files_of(source.path).assign(source=i) for i, source in enumerate(sources)]
    files = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"path": []})
    images = files[_matches(files["path"], _IMAGE) & ~_matches(files["path"], _LEFT_BY_MACOS)]
    if images.empty:
        raise InputError("the archives hold no patch", fix=f"expected <case>/<0|1>/{NAME_GRAMMAR}")
    images = _parse_names(images.reset_index(drop=True), sources)
    first = ~images.duplicated(_NAME_KEY)
    members = images[first].reset_index(drop=True)
    _reject_two_labels(members)
    further = images[~first].reset_index(drop=True)
    rivals = further[_differing(members, further, sources)].reset_index(drop=True)
    return Listing(
        sources,
        members,
        rivals,
        num_copies=len(further),
        num_other_files=len(files) - len(images),
    )


def _state_of(source: Path) -> str:
    """Return a digest over names, sizes and times of change: any change while reading shows."""
    files = [source] if source.is_file() else sorted(_files_below(source)[0])
    digest = hashlib.sha256()
    for file in files:
        try:
            facts = file.stat()
        except OSError:  # it went meanwhile: reading it will say so
            continue
        digest.update(os.fsencode(file) + f":{facts.st_size}:{facts.st_mtime_ns};".encode())
    return digest.hexdigest()


def _files_below(folder: Path) -> tuple[list[Path], dict[Path, Path]]:
    """Return every file below a folder, also behind links to files and folders.

    A folder that several paths lead to is read once: where it lies, else by the first link.

    Returns:
        The files, and the links that were not followed with the path by which each was read.

    Raises:
        InputError: If a link that may be one to a folder points nowhere, or to a folder that it is
            in.
    """
    files: list[Path] = []
    read: dict[Path, Path] = {}
    again: dict[Path, Path] = {}
    folders, links = [(folder, frozenset[Path]())], deque[tuple[Path, frozenset[Path]]]()
    while folders or links:
        place, above = folders.pop() if folders else links.popleft()
        real = place.resolve()
        if real in read:
            again[place] = read[real]
            continue
        read[real] = place
        inside = above | {real, *real.parents}
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            path = Path(entry)
            if not entry.is_dir():
                _reject_dangling(entry)
                files.append(path)
            elif not entry.is_symlink():
                folders.append((path, inside))
            elif path.resolve() in inside:
                raise InputError(
                    f"the link {path} points to a folder that it is in", fix="remove it"
                )
            else:
                links.append((path, inside))
    return files, again


def _reject_dangling(entry: os.DirEntry[str]) -> None:
    path = Path(entry)
    if entry.is_symlink() and not path.exists() and not _is_image(path):
        raise InputError(
            f"the link {path} points nowhere", fix="mount what it points to, or remove it"
        )


def _is_image(path: Path) -> bool:
    return re.search(_IMAGE, path.name) is not None


def _files_of(source: Path) -> pd.DataFrame:
    """Return a row per file: `path` and the columns that say where a zip keeps it."""
    if source.is_dir():
        return _files_of_folder(source)
    try:
        files = read_directory(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{source} is not a readable zip ({error})",
            fix="download it again and compare its size",
        ) from None
    _reject_unsafe(source, files)
    return files.drop(columns="flags")


def _reject_unsafe(source: Path, files: pd.DataFrame) -> None:
    """Refuse what an archive of patches never holds; naming the first file."""
    image = _matches(files["path"], _IMAGE)  # what else is there is not read
    largest = files[["num_bytes", "stored_bytes"]].max(axis=1)
    rules = {
        "leaves its folder; a patch archive has no such path": _matches(files["path"], _UNSAFE),
        f"has over {MAX_FILE_BYTES:,} bytes, a patch has under 25,000: a zip bomb, or no patch": (
            image & (largest > MAX_FILE_BYTES)
        ),
        "lies outside the archive": image & (files["offset"] >= source.stat().st_size),
        "is encrypted": image & ((files["flags"] & _ENCRYPTED) > 0),
        "is compressed by a method other than deflate": image & ~files["method"].isin(_METHODS),
    }
    for rule, broken in rules.items():
        if broken.any():
            first = files.loc[broken, "path"].iloc[0]
            raise InputError(
                f"{source.name}:{first} {rule}; {int(broken.sum())} such files",
                fix="pack it anew without them",
            )


def _files_of_folder(source: Path) -> pd.DataFrame:
    files, again = _files_below(source)
    for link, first in again.items():
        log.warning("%s is the same folder as %s: read once", link, first)
    paths = sorted(
        file.relative_to(source).as_posix() for file in files if file.suffix.lower() != ".zip"
    )
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise InputError(f"the name {path!r} is not Unicode", source, "rename it") from None
    nowhere = dict.fromkeys(["offset", "stored_bytes", "num_bytes", "crc", "method"], 0)
    return pd.DataFrame({"path": paths}).assign(**nowhere)


def _matches(paths: pd.Series, pattern: str) -> pd.Series:
    found = pc.match_substring_regex(pa.array(paths, pa.string()), pattern)
    return pd.Series(found.to_numpy(zero_copy_only=False), index=paths.index, dtype=bool)


def _parse_names(images: pd.DataFrame, sources: Sequence[Source]) -> pd.DataFrame:
    """Add what the names say, and sort: by name, then depth, then source."""
    named = pd.concat([images, parse_paths(images["path"])], axis=1)
    _reject_off_grammar(named, sources)
    _reject_other_folder(named, sources)
    case_order = pd.factorize(named["case"], sort=True)[0]
    order = [case_order, *(named[key].to_numpy() for key in (*_NAME_KEY[1:], "depth", "source"))]
    named = named.iloc[np.lexsort(order[::-1])]
    return named[[*_NAME_KEY, *PLACE_COLUMNS]].reset_index(drop=True)


def _reject_off_grammar(named: pd.DataFrame, sources: Sequence[Source]) -> None:
    off = named[named["case"].isna()]
    if not off.empty:
        raise InputError(
            f"{_name(off.iloc[0], sources)} is not named {NAME_GRAMMAR} ({len(off)} such files)",
            fix=f"rename or remove it; {CASE_RULE}",
        )


def _reject_other_folder(named: pd.DataFrame, sources: Sequence[Source]) -> None:
    says = named["folder"].isin(["0", "1"]) & (named["folder"] != named["label"].astype(str))
    if says.any():
        first = named[says].iloc[0]
        raise InputError(
            f"folder says label {first['folder']}, name says {first['label']} "
            f"({int(says.sum())} such files)",
            _name(first, sources),
            "fix whichever is wrong",
        )


def _name(member: pd.Series, sources: Sequence[Source]) -> str:
    return f"{sources[member['source']].path.name}:{member['path']}"


def _reject_two_labels(members: pd.DataFrame) -> None:
    twice = members[members.duplicated(["case", "x", "y"])]
    if not twice.empty:
        named = ", ".join(
            f"{place.case} x{place.x} y{place.y}"
            for place in twice.head(_MAX_NAMES_IN_MESSAGE).itertuples()
        )
        raise InputError(
            f"{len(twice)} places on a slide carry two labels ({named})",
            fix="remove the wrong patch",
        )


def _differing(
    members: pd.DataFrame, further: pd.DataFrame, sources: Sequence[Source]
) -> np.ndarray:
    """Return which further files have other bytes than the member of the same name."""
    if further.empty:
        return np.zeros(0, bool)
    kept = further[_NAME_KEY].merge(members, on=_NAME_KEY, how="left")
    pair = [_with_checksums(table, sources) for table in (further, kept)]
    return np.asarray((pair[0] != pair[1]).any(axis=1))


def _with_checksums(table: pd.DataFrame, sources: Sequence[Source]) -> np.ndarray:
    """Return (rows, 2): CRC and size; a zip declares them, a folder's files are read."""
    facts = table[["crc", "num_bytes"]].to_numpy(np.int64, copy=True)
    folders = [i for i, source in enumerate(sources) if source.path.is_dir()]
    for row in np.flatnonzero(table["source"].isin(folders)):
        member = table.iloc[row]
        try:
            content = read_file(sources[member["source"]].path / member["path"])
            facts[row] = zlib.crc32(content), len(content)
        except (OSError, UnreadableError):
            facts[row] = -1, -1  # equal to none, so that the pixels decide
    return facts
