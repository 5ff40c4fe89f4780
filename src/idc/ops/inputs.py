"""What a run needs: each thing is tried, in seconds, as the stages will use it."""

import os
import shutil
from pathlib import Path

from idc.core.config import Params
from idc.core.dvc import dvc
from idc.core.errors import InputError
from idc.core.files import try_writing
from idc.core.git import git, has_commit
from idc.core.layout import CASE_SUBSETS, DVC_LOCK, PARAMS, PIXELS, RAW
from idc.runs.lineage import load_lock, reject_stale_pointers

# models, checkpoints, the report and what MLflow keeps of them; three backbones take half of it
_OUTPUT_BYTES = 2e9
# a few unreadable ones are left out by `ingest`, many are an archive of something else
_FIRST_PATCHES = 20


def require_inputs(params: Params, root: Path) -> None:
    """Try git, archive, store, weights, DVC's cache and disk as the stages will use them.

    Raises:
        InputError: Naming what is missing or in the way, and what to do.
        StoreUnavailableError: If a tracking server does not answer.
    """
    from idc.data.split.case_subsets import reject_earlier_name

    require_git(root)
    reject_earlier_name(root / CASE_SUBSETS)
    num_patches = require_archive(root)
    require_store(params, root)
    require_weights(params, root)
    require_cache(root)
    require_space(root, num_patches)


def require_git(root: Path) -> None:
    """Check that git answers and that a run can be recorded under a tag; without git nothing is.

    Raises:
        InputError: If git refuses the clone, or its folder cannot be written.
    """
    if not has_commit(root):  # raises where git refuses, which is not the same as no git
        return
    folder = (root / git(root, "rev-parse", "--git-common-dir")).resolve()
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"{folder} cannot be written, so no run can be recorded or get a workspace",
            fix="fix its permissions",
        )


def require_archive(root: Path) -> int:
    """List every source as `ingest` does, and decode one of the first patches of each.

    Returns:
        The number of patches.

    Raises:
        InputError: Whatever `ingest` would say of the listing; or none of the first is readable.
    """
    from idc.data.ingest.archive import find_sources, list_members
    from idc.data.ingest.pixel_store import reject_unreadable

    reject_stale_pointers(root, by_content=False)
    listing = list_members(find_sources(root / RAW))
    reject_unreadable(listing, _FIRST_PATCHES)
    return len(listing.members)


def require_store(params: Params, root: Path) -> None:
    """Check that runs, artifacts and versions can be added to the store.

    Raises:
        InputError: If not, or the experiment was deleted.
        StoreUnavailableError: If a tracking server does not answer.
    """
    from idc.tracking.connection import check_experiment, check_store
    from idc.tracking.probe import probe_store

    check_store(root)
    check_experiment(root, params.publish.experiment)
    probe_store(root, params.publish.experiment, params.publish.model_name)


def require_cache(root: Path) -> None:
    """Check that DVC's cache can be written.

    Raises:
        InputError: If not.
    """
    cache = root / dvc(root, "cache", "dir").strip()
    try:
        try_writing(cache)
    except OSError as error:
        raise InputError(
            f"DVC's cache {cache} cannot be written ({error.strerror})",
            fix="mount it, fix its permissions, or name another one (`dvc cache dir`)",
        ) from None


def require_space(root: Path, num_patches: int) -> None:
    """Check that the disk has room for a run.

    Raises:
        InputError: If it is too small.
    """
    needed, free = bytes_needed(root, num_patches), shutil.disk_usage(root).free
    if free < needed:
        raise InputError(
            f"a run needs some {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free",
            root,
            "make room: `idc gc` lists what old runs hold",
        )


def bytes_needed(root: Path, num_patches: int) -> float:
    """Return the disk space that a run takes: pixels, unless today's are there, and the rest.

    The pixels count twice: as a file, and in DVC's cache where that cannot be a link.
    """
    from idc.data.ingest.pixel_store import size_of_store

    pixels = 0 if _already_ingested(root) else 2 * size_of_store(num_patches)
    return _OUTPUT_BYTES + pixels


def _already_ingested(root: Path) -> bool:
    """Say whether the pixels are there, and `dvc.lock` records them as made from today's archive.

    By its size and number of files: its md5 takes minutes on a slow disk.
    """
    try:
        deps = load_lock(root).get("ingest", {}).get("deps", [])
    except InputError:  # `dvc repro` says so itself
        return False
    recorded = [(dep.get("size"), dep.get("nfiles")) for dep in deps if dep["path"] == str(RAW)]
    files = [path for path in (root / RAW).rglob("*") if path.is_file()]
    today = (sum(path.stat().st_size for path in files), len(files))
    return (root / PIXELS).is_file() and recorded == [today]


def require_weights(params: Params, root: Path) -> None:
    """Check that every backbone's pretrained weights are there and fit.

    Raises:
        InputError: Naming the first that are not.
    """
    if params.model.pretrained == "none" or _already_trained(params, root):
        return  # timm is not needed, and takes seconds to import
    from idc.models.backbones import sources

    model = params.model
    sources.require_weights(model.backbones, model.pretrained, model.size_px)


def _already_trained(params: Params, root: Path) -> bool:
    """Say whether the recorded model was built from these weights, which are then not needed."""
    if not (root / DVC_LOCK).exists():
        return False
    train = load_lock(root).get("train", {})
    recorded = train.get("params", {}).get(str(PARAMS), {}).get("model")
    return bool(recorded == params.model.model_dump(mode="json"))
