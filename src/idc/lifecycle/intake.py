"""Whether there are new data to train on, and whether they resemble the champion's."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idc.core import layout
from idc.core.config import Params
from idc.core.files import load_json, save_json
from idc.data.ingest.archive import find_sources, list_members
from idc.data.patches import load_pixels
from idc.data.tables import INDEX_SCHEMA, load_table
from idc.runs.lineage import folder_md5, reject_stale_pointers
from idc.tracking.model_version import ALIAS
from idc.tracking.registry import Registry, Version

log = logging.getLogger(__name__)

_EARLIER_PROFILE = "profile.json"  # as in models from before December 2026


@dataclass(frozen=True)
class NewData:
    """Whether a retraining has anything to do."""

    is_new: bool
    why: str
    """The reason, in one sentence."""


def find_new_data(root: Path, params: Params) -> NewData:
    """Compare the archive with that of the challenger; check it if it differs.

    The archives are listed and their names checked, but not decoded: the stage ingest does that.

    Args:
        root: The project.
        params: The name of the model.

    Raises:
        InputError: If there is no archive, it is inconsistent, or it is not the one that its
            pointer names, as after a `git pull` without `dvc pull`.
        StoreUnavailableError: If a tracking server does not answer.
    """
    sources = find_sources(root / layout.RAW)
    reject_stale_pointers(root, by_content=True)
    registry = Registry(root, params)
    challenger = registry.find(ALIAS)
    digest = folder_md5(root / layout.RAW)
    made_from = None if challenger is None else registry.raw_digest(challenger)
    if challenger is not None and made_from == digest:
        return _judge_known(registry, challenger)
    listing = list_members(sources)
    found = f"{layout.RAW} (md5 {digest}) lists {len(listing.members)} patches"
    if challenger is None:
        return NewData(is_new=True, why=f"{found}, and there is no model yet")
    return NewData(is_new=True, why=f"{found}; {challenger} was made from md5 {made_from}")


def write_drift_report(root: Path, params: Params) -> dict[str, Any] | None:
    """Compare the ingested archive with the champion's training profile.

    Args:
        root: The project, in which `ingest` has run.
        params: Limits, the name of the model, the device.

    Returns:
        The result of `idc.lifecycle.drift.measure_drift`, with `champion`, its version; also in
        `reports/drift.json`. None if there is no champion, or it has no profile.

    Raises:
        InputError: If the archive is not ingested.
        StoreUnavailableError: If a tracking server does not answer.
    """
    registry = Registry(root, params)
    champion = registry.champion()
    if champion is None:
        log.info("no drift report: there is no champion yet")
        return None
    profile = _load_profile(registry, champion)
    if profile is None:
        log.warning("no drift report: %s has no %s", champion, layout.TRAINING_PROFILE.name)
        return None
    report = _measure(registry, champion, profile, root, params)
    report["champion"] = champion.version
    save_json(root / layout.DRIFT, report)
    return report


def _load_profile(registry: Registry, champion: Version) -> dict[str, Any] | None:
    for name in (layout.TRAINING_PROFILE.name, _EARLIER_PROFILE):
        with registry.run_file(champion, name) as path:
            if path is not None:
                profile: dict[str, Any] = load_json(path)
                return profile
    return None


def _judge_known(registry: Registry, challenger: Version) -> NewData:
    """Say what remains to be done if the archive is the one the challenger was made from."""
    known = f"{layout.RAW} is what {challenger} was made from"
    champion = registry.champion()
    if champion is not None and champion.version == challenger.version:
        return NewData(is_new=False, why=f"{known}, and it is the champion")
    for entry in registry.entries():
        if entry.version == challenger.version and entry.kind in ("promote", "keep"):
            return NewData(is_new=False, why=f"{known}, and it has been decided upon: {entry.kind}")
    return NewData(is_new=True, why=f"{known}, but it has not been compared with the champion yet")


def _measure(
    registry: Registry, champion: Version, profile: dict[str, Any], root: Path, params: Params
) -> dict[str, Any]:
    # imported here: looking for new data does not need torch
    from idc.lifecycle.drift import ModelView, measure_drift
    from idc.models.bundle import load_mean_embedding, load_model
    from idc.models.networks.device import choose_device
    from idc.models.scoring.patches import PatchScorer

    device = choose_device(params.runtime)
    pixels = load_pixels(root / layout.PIXELS)
    with registry.files(champion) as (bundle, _):
        model, spec = load_model(bundle)
        mean_embedding = load_mean_embedding(bundle)
    scorer = PatchScorer(model.to(device), spec.size_px, params.runtime.scoring_batch_size, device)

    def embed(rows: np.ndarray) -> np.ndarray:
        return np.hstack(scorer.embed(pixels, rows))

    return measure_drift(
        profile,
        load_table(root / layout.INDEX, INDEX_SCHEMA),
        pixels,
        ModelView(embed, mean_embedding.numpy(), spec.num_training_patches),
        params.drift,
    )
