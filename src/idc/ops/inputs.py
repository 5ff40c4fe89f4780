"""What a run needs: each thing is tried, in seconds, as the stages will use it."""

import logging
import os
import shutil
from pathlib import Path

from idc.core.config import Params, short_name
from idc.core.dvc import dvc
from idc.core.errors import InputError
from idc.core.files import try_writing
from idc.core.git import git, has_commit
from idc.core.layout import BUNDLE, CASE_SUBSETS, DVC_LOCK, PARAMS, PIXELS, RAW
from idc.models.licences import (
    Licences,
    describe_restricted,
    list_licences,
    require_publishable,
)
from idc.models.spec import SPEC, ModelSpec, load_spec
from idc.runs.lineage import load_lock, reject_stale_pointers

log = logging.getLogger(__name__)

# models, checkpoints, the report and what MLflow keeps of them; three backbones take half of it
_OUTPUT_BYTES = 2e9
# a few unreadable ones are left out by `ingest`, many are an archive of something else
_FIRST_PATCHES = 20


def require_inputs(params: Params, root: Path, *, publishes: bool = True) -> None:
    """Try git, archive, store, weights, DVC's cache and disk as the stages will use them.

    Args:
        params: Of the run.
        root: The project or workspace.
        publishes: Whether the model will be published, which the licences of weights may forbid.

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
    if publishes:
        require_licences(params, root)
    for said in notes_on_weights(params, root):
        log.warning("%s", said)
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
    """Check that every backbone takes such images, and its pretrained weights are there and fit.

    Raises:
        InputError: Naming the first that does not.
    """
    if _already_trained(params, root):
        return  # timm is not needed, and takes seconds to import
    from idc.models.backbones import sources

    model = params.model
    sources.require_weights(model.backbones, model.pretrained, model.size_px)


def require_licences(params: Params, root: Path) -> None:
    """Check that the licences of the weights allow to publish, as `publish` does after hours.

    Raises:
        InputError: Naming those that do not.
    """
    if params.publish.forbid_licences:
        require_publishable(_licences(params, root), params.publish.forbid_licences)


def notes_on_weights(params: Params, root: Path) -> list[str]:
    """Return what stops no run but is to be known of the weights, a line each.

    Raises:
        InputError: If they cannot be found.
    """
    restricted = describe_restricted(_licences(params, root))
    changed = _describe_changed(params, root)
    return [said for said in (restricted, changed) if said is not None]


def _licences(params: Params, root: Path) -> Licences:
    """Return the licences of the weights by backbone: as the trained model or the source says."""
    model = params.model
    if model.pretrained == "none":
        return {}
    if _already_trained(params, root):
        spec = _trained_spec(root)
        return {} if spec is None else list_licences(spec)
    from idc.models.backbones.sources import find_weights

    found = [find_weights(name, model.pretrained) for name in model.backbones]
    return {short_name(weights.backbone): weights.licence for weights in found}


def _describe_changed(params: Params, root: Path) -> str | None:
    """Say which files of weights are others than those the model was trained from.

    They lie anywhere, so `dvc.yaml` does not name them, and DVC calls the model up to date.
    """
    spec = _trained_spec(root) if _already_trained(params, root) else None
    if spec is None or not _may_be_local(params):
        return None
    from idc.models.backbones.sources import name_changed

    changed = name_changed(params.model.backbones, params.model.pretrained, spec)
    if not changed:
        return None
    return (
        f"{', '.join(changed)}: no longer what the model was trained from, which DVC does not see: "
        "`dvc repro --force --single-item train` trains anew"
    )


def _may_be_local(params: Params) -> bool:
    model = params.model
    return model.pretrained not in ("none", "imagenet", "packaged") or any(
        ":" in backbone for backbone in model.backbones
    )


def _trained_spec(root: Path) -> ModelSpec | None:
    """Return what the model here says of itself; None where there is none, or not a whole one."""
    if not (root / BUNDLE / SPEC).is_file():
        return None
    try:
        return load_spec(root / BUNDLE)
    except InputError:  # DVC restores it, or its stage trains anew
        return None


def _already_trained(params: Params, root: Path) -> bool:
    """Say whether the recorded model was built so; then its weights are not needed."""
    if not (root / DVC_LOCK).exists():
        return False
    train = load_lock(root).get("train", {})
    recorded = train.get("params", {}).get(str(PARAMS), {}).get("model")
    return bool(recorded == params.model.model_dump(mode="json"))
