"""Write synthetic cases, drawn in parallel, into one zip in the published layout."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import get_args

import cv2
import numpy as np

from idc.core.errors import InputError
from idc.core.files import replacing_file, replacing_folder
from idc.core.processes import map_in_processes
from idc.core.progress import track
from idc.data.patches import PATCH_SIZE_PX, PatchName
from idc.synthetic.layout import Layout, burden_quantile, draw_null_labels
from idc.synthetic.shortcuts import Cue, Shortcut, plant_cue
from idc.synthetic.slide import Difficulty, cut_patches, draw_slide

NESTED_FOLDER = "IDC_regular_ps50_idx5"
NESTS, CUE = "nests", "cue"
"""The kinds of mask, tumour nests and a planted cue; also the folders they are written to."""

_FIRST_CASE = 90001
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed date keeps the zip's bytes the same
_MIN_PATCHES = 4  # a case of half this many still fits on a slide
# A drawn total is shared out as the published one is: 60 to 2,400 patches where the mean is 995.
_SIZE_RANGE = (0.06, 2.41)
_SIZE_SHAPE = (1.4, 2.1)  # of a beta distribution over that range, with mean 1
# Cases take their burdens from a sequence with an irrational step: each depends on its number only,
# yet any few dozen cover the whole distribution. Sequences of two such steps are uncorrelated.
_BURDEN_STEP = (5**0.5 - 1) / 2
_NULL_BURDEN_STEP = 2**0.5 - 1


class _Stream(IntEnum):
    """The purpose of a random generator: streams of one seed are independent."""

    SIZE = 1
    SHARING = 2
    BURDEN = 3
    NULL_BURDEN = 4
    DRAWING = 5
    NULL_LABELS = 6
    CUE = 7


@dataclass(frozen=True)
class _EncodedPatch:
    """A patch and its masks as PNG, by kind of mask; no masks unless they were asked for."""

    name: PatchName
    png: bytes
    masks: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class ArchivePlan:
    """What an archive holds; its size is given by one of `patches_per_case` and `num_patches`.

    Example: 277,524 patches of 279 cases make an archive as large as the published one.
    """

    num_cases: int
    """Case i is independent of the others, except that its number of patches depends on them if
    `num_patches` is given."""
    patches_per_case: int | None = None
    """Mean number; individual cases hold 0.5 to 1.6 times as many."""
    num_patches: int | None = None
    """Total, met exactly; individual cases vary as much as the published ones, from about 0.06 to
    2.4 times the mean."""
    seed: int
    """Seed of everything, from 0 on."""
    difficulty: Difficulty = "texture"
    """With `texture`, colour hardly differs between the classes and only texture separates them;
    `real` follows the statistics measured on the published patches."""
    null: bool = False
    """Whether labels are drawn independently of the pixels: as contiguous and as frequent as
    otherwise, but not predictable from anything visible."""
    shortcut: Shortcut | None = None
    """A cue to plant in whole patches (not in slivers), depending on the label. Patches without it
    are the same, byte for byte, as without this option."""
    nested: bool = True
    """Whether the whole tree is repeated below `IDC_regular_ps50_idx5/`."""


@dataclass(frozen=True)
class _Job:
    """What a process needs to draw one case."""

    plan: ArchivePlan
    number: int
    num_patches: int
    with_masks: bool

    @property
    def burden(self) -> float:
        """Share of IDC+ patches that are drawn as such."""
        return _burden(self.plan.seed, self.number, _Stream.BURDEN, _BURDEN_STEP)

    @property
    def null_burden(self) -> float:
        """Share of IDC+ labels if they are drawn independently of the pixels."""
        return _burden(self.plan.seed, self.number, _Stream.NULL_BURDEN, _NULL_BURDEN_STEP)


def create_archive(
    path: Path, plan: ArchivePlan, *, masks: Path | None = None, num_processes: int = 0
) -> None:
    """Write a zip of 8-bit RGB PNG patches named and foldered like the published archive.

    Args:
        path: The zip to write; its bytes depend neither on `masks` nor on `num_processes`.
        plan: What it holds.
        masks: Folder for `nests/<case>/<patch name>`, 255 inside drawn tumour nests and 0 outside,
            one for each patch; and for `cue/<case>/<patch name>` of the patches that carry the cue.
            In `texture` nests fill most of an IDC cell, up to its edges; in `real` they are cords
            and sheets that cross cells. With `null` they still mark where tumour was drawn.
        num_processes: Processes that draw; with 0 or 1 this process does.

    Raises:
        InputError: If there would be no case, or too few patches per case; if the size is given
            twice or not at all, the seed is negative, the difficulty or the cue unknown, a share
            outside [0, 1], or the folder for masks not empty.
    """
    _check_choices(plan.seed, plan.difficulty)
    if plan.shortcut is not None:
        _check_shortcut(plan.shortcut)
    if masks is not None:
        _require_empty(masks)
    jobs = [
        _Job(plan, number, num_patches, with_masks=masks is not None)
        for number, num_patches in enumerate(_case_sizes(plan))
    ]
    with (
        replacing_file(path) as partial,
        zipfile.ZipFile(partial, "w") as archive,
        nullcontext() if masks is None else replacing_folder(masks) as partial_masks,
    ):
        drawn = _draw_cases(jobs, num_processes)
        for patches in track(drawn, total=plan.num_cases, what="cases drawn"):
            for patch in patches:
                _write_patch(archive, patch, nested=plan.nested)
                if partial_masks is not None:
                    _write_masks(partial_masks, patch)


def _check_choices(seed: int, difficulty: str) -> None:
    if seed < 0:
        raise InputError(f"--seed {seed}: at least 0 is needed")
    if difficulty not in get_args(Difficulty):
        raise InputError(f"--difficulty {difficulty}: choose {' or '.join(get_args(Difficulty))}")


def _check_shortcut(shortcut: Shortcut) -> None:
    if shortcut.cue not in get_args(Cue):
        raise InputError(f"--shortcut {shortcut.cue}: choose one of {', '.join(get_args(Cue))}")
    for label in ("negative", "positive"):
        share = getattr(shortcut, f"share_{label}")
        if not 0 <= share <= 1:
            raise InputError(f"--cue-share-{label} {share}: it must be between 0 and 1")


def _require_empty(masks: Path) -> None:
    if masks.exists() and (not masks.is_dir() or any(masks.iterdir())):
        raise InputError(f"--masks {masks} is not an empty folder: name a new one, or remove it")


def _case_sizes(plan: ArchivePlan) -> list[int]:
    if plan.num_cases < 1:
        raise InputError(f"--cases {plan.num_cases}: at least 1 is needed")
    if plan.num_patches is None and plan.patches_per_case is not None:
        return _sizes_around(plan.num_cases, plan.patches_per_case, plan.seed)
    if plan.num_patches is not None and plan.patches_per_case is None:
        return _share_out(plan.num_cases, plan.num_patches, plan.seed)
    raise InputError("the size of the archive: give either --patches-per-case or --patches")


def _sizes_around(num_cases: int, patches_per_case: int, seed: int) -> list[int]:
    if patches_per_case < _MIN_PATCHES:
        raise InputError(
            f"--patches-per-case {patches_per_case}: at least {_MIN_PATCHES} are needed"
        )
    return [
        round(patches_per_case * _generator(seed, _Stream.SIZE, number).uniform(0.5, 1.6))
        for number in range(num_cases)
    ]


def _share_out(num_cases: int, num_patches: int, seed: int) -> list[int]:
    """Distribute the patches over the cases by random weights; the total is exact."""
    to_share = num_patches - _MIN_PATCHES * num_cases
    if to_share < 0:
        raise InputError(
            f"--patches {num_patches}: {num_cases} cases need at least {_MIN_PATCHES * num_cases}"
        )
    low, high = _SIZE_RANGE
    weights = low + (high - low) * _generator(seed, _Stream.SHARING).beta(*_SIZE_SHAPE, num_cases)
    ends = np.round(np.cumsum(weights) / weights.sum() * to_share)
    return [_MIN_PATCHES + int(size) for size in np.diff(ends, prepend=0)]


def _burden(seed: int, number: int, stream: _Stream, step: float) -> float:
    return burden_quantile((_generator(seed, stream).random() + number * step) % 1.0)


def _generator(seed: int, stream: _Stream, number: int = 0) -> np.random.Generator:
    # the stream comes last because numpy ignores trailing zeros
    return np.random.default_rng([seed, number, stream])


def _draw_cases(jobs: list[_Job], num_processes: int) -> Iterator[list[_EncodedPatch]]:
    if num_processes <= 1:
        return map(_draw_case, jobs)
    return map_in_processes(_create_drawer, jobs, num_processes=num_processes)


def _create_drawer() -> Callable[[_Job], list[_EncodedPatch]]:
    cv2.setNumThreads(1)  # the processes share the cores
    return _draw_case


def _draw_case(job: _Job) -> list[_EncodedPatch]:
    slide = draw_slide(
        _generator(job.plan.seed, _Stream.DRAWING, job.number),
        job.num_patches,
        burden=job.burden,
        difficulty=job.plan.difficulty,
    )
    case = str(_FIRST_CASE + job.number)
    rng = _generator(job.plan.seed, _Stream.CUE, job.number)
    patches = []
    for name, pixels, nests in cut_patches(case, slide, _labels(job, slide.layout)):
        shown, masks = _plant(job.plan.shortcut, rng, name, pixels)
        wanted = {NESTS: nests} | masks if job.with_masks else {}
        encoded = {of: _encode(mask) for of, mask in wanted.items()}
        patches.append(_EncodedPatch(name, _encode_rgb(shown), encoded))
    return patches


def _plant(
    shortcut: Shortcut | None, rng: np.random.Generator, name: PatchName, pixels: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the patch, with the cue if it carries one, and the mask of that cue."""
    is_whole = pixels.shape[:2] == (PATCH_SIZE_PX, PATCH_SIZE_PX)
    if shortcut is None or not is_whole or not shortcut.falls_on(rng, name.label):
        return pixels, {}
    shown, mask = plant_cue(shortcut.cue, rng, pixels)
    return shown, {CUE: mask}


def _labels(job: _Job, layout: Layout) -> np.ndarray:
    if not job.plan.null:
        return layout.idc
    rng = _generator(job.plan.seed, _Stream.NULL_LABELS, job.number)
    return draw_null_labels(rng, layout.tissue, job.null_burden)


def _write_patch(archive: zipfile.ZipFile, patch: _EncodedPatch, *, nested: bool) -> None:
    member = f"{patch.name.case}/{patch.name.label}/{patch.name}"
    archive.writestr(zipfile.ZipInfo(member, _EPOCH), patch.png)
    if nested:
        archive.writestr(zipfile.ZipInfo(f"{NESTED_FOLDER}/{member}", _EPOCH), patch.png)


def _write_masks(masks: Path, patch: _EncodedPatch) -> None:
    for of, png in patch.masks.items():
        file = masks / of / patch.name.case / str(patch.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png)


def _encode_rgb(pixels: np.ndarray) -> bytes:
    return _encode(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


def _encode(pixels: np.ndarray) -> bytes:
    done, content = cv2.imencode(".png", pixels)  # OpenCV's default is its fastest compression
    assert done, "an 8-bit array always encodes"
    return bytes(content)
