"""Rebuild a registered model from its records, and compare its predictions.

It runs in a workspace with a store of its own, so that nothing reaches the registry. Every input is
checked against its recorded digest before anything runs; an error names the one that is missing.
"""

import contextlib
import io
import logging
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from idc.core import layout
from idc.core.config import Params, RuntimeConfig
from idc.core.dvc import dvc
from idc.core.errors import InputError
from idc.data.split.case_subsets import with_earlier_header
from idc.data.tables import RECORDED_LOGITS_SCHEMA, load_table
from idc.models.networks.device import choose_device, describe_environment
from idc.runs.lineage import (
    file_md5,
    find_pointers,
    folder_md5,
    knows_commit,
    load_lock,
    recorded_md5,
)
from idc.runs.workspace import WORKSPACES, create_workspace, stage_environment
from idc.tracking.registry import Registry, Version

log = logging.getLogger(__name__)

MAX_LOGIT_DIFFERENCE = 0.01
"""For any patch, on another machine or with other versions: it changes a probability by at most
.0025, less than is reported. On the same machine and versions every bit must agree."""

_STAGES = ("ingest", "sample", "split", "train", "predict")
_INPUTS = ("src/", str(layout.CASE_LISTS), str(layout.LABEL_OVERRIDES))
_CODE = ("src", "flows", "tasks", "dvc.yaml", ".dvcignore", "data/case_lists",
         "data/label_overrides.csv", "data/raw", "data/raw.dvc")  # fmt: skip
_PLACE = ["case", "x", "y"]


@dataclass(frozen=True)
class Reproduction:
    """How the rebuilt model's predictions compare with the recorded ones."""

    num_patches: int
    same_environment: bool
    """Whether machine and versions are the same as in training."""
    different: Mapping[str, tuple[str, str]]
    """Differences between the two: recorded and present value, by name."""
    bit_equal: bool
    """Whether every logit agrees bit for bit."""
    max_logit_difference: float
    reproduced: bool
    """Bit-equal; or, in another environment, within `MAX_LOGIT_DIFFERENCE`."""


def reproduce(root: Path, params: Params, version: str) -> Reproduction:
    """Rebuild a version from the raw archive to its predictions, and compare those.

    Args:
        root: The project.
        params: The name of the model, and where to compute.
        version: Its number in the registry.

    Raises:
        InputError: Naming the input that is missing, or the stage that failed.
        StoreUnavailableError: If a tracking server does not answer.
    """
    registry = Registry(root, params)
    found = registry.load(version)
    workspace = create_workspace(root, root / WORKSPACES / f"reproduce-{version}", {})
    _take_code(root, workspace, found.commit)
    for path in (layout.PARAMS, layout.DVC_LOCK):
        _take_file(registry, found, path.name, workspace / path)
    _take_file(registry, found, layout.PREDICTIONS.name, workspace / "recorded.parquet")
    recorded = load_table(workspace / "recorded.parquet", RECORDED_LOGITS_SCHEMA)
    stages = load_lock(workspace)
    _take_case_subsets(root, workspace, stages)
    _require_raw(workspace, stages)
    _require_code(workspace, stages, found)
    _run_stages(workspace)
    rebuilt = load_table(workspace / layout.PREDICTIONS, RECORDED_LOGITS_SCHEMA)
    different = _compare_environment(registry, found, _load_device(workspace, params))
    return compare_predictions(
        recorded,
        rebuilt,
        different=different,
        tolerance=MAX_LOGIT_DIFFERENCE,
    )


def compare_predictions(
    recorded: pd.DataFrame,
    rebuilt: pd.DataFrame,
    *,
    different: Mapping[str, tuple[str, str]],
    tolerance: float,
) -> Reproduction:
    """Compare the fusion's logits patch by patch.

    Args:
        recorded: Follows `idc.data.tables.RECORDED_LOGITS_SCHEMA`.
        rebuilt: Likewise.
        different: Differences between the environments; empty if there are none.
        tolerance: Largest difference of a logit in another environment.

    Raises:
        InputError: If the two are of different patches.
    """
    first, second = (table.sort_values(_PLACE, ignore_index=True) for table in (recorded, rebuilt))
    if not first[[*_PLACE, "split"]].equals(second[[*_PLACE, "split"]]):
        raise InputError(
            f"the rebuilt predictions are of other patches ({len(first)} recorded, {len(second)} "
            f"rebuilt): the subsets of the cases in {layout.CASE_SUBSETS} are not those of then"
        )
    before, after = (table["logit"].to_numpy() for table in (first, second))
    bit_equal = before.tobytes() == after.tobytes()
    difference = float(np.abs(before.astype(np.float64) - after).max(initial=0.0))
    return Reproduction(
        num_patches=len(first),
        same_environment=not different,
        different=different,
        bit_equal=bit_equal,
        max_logit_difference=difference,
        reproduced=bit_equal or (bool(different) and difference <= tolerance),
    )


def _take_code(root: Path, workspace: Path, commit: str) -> None:
    """Put the code of a commit into the workspace if git has it; else leave today's."""
    clean = commit.removesuffix("-dirty")
    if commit == "none" or not knows_commit(root, clean):
        log.info("the commit %s of the code is not here: today's code is used", commit)
        return
    packed = subprocess.run(
        ["git", "-C", str(root), "archive", "--format=tar", clean], capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = [member for member in archive if _is_code(member.name)]
        shutil.rmtree(workspace / "src/idc", ignore_errors=True)
        if any(member.name.endswith(".dvc") for member in members):
            shutil.rmtree(workspace / layout.RAW, ignore_errors=True)
        archive.extractall(workspace, members, filter="data")
    pointers = find_pointers(workspace)
    if pointers:  # the check that follows names what is missing
        names = [str(path.relative_to(workspace)) for path in pointers]
        with contextlib.suppress(InputError):
            dvc(workspace, "checkout", "--quiet", "--force", "--allow-missing", *names)


def _is_code(name: str) -> bool:
    return any(name == part or name.startswith(f"{part}/") for part in _CODE)


def _take_file(registry: Registry, version: Version, name: str, target: Path) -> None:
    with registry.run_file(version, name) as path:
        if path is None:
            raise InputError(
                f"{version} cannot be rebuilt: its run {version.run_id} holds no {name}; run "
                "`idc publish` where its results lie"
            )
        shutil.copy2(path, target)


def _require_raw(workspace: Path, stages: dict[str, Any]) -> None:
    wanted = recorded_md5(stages, "ingest", str(layout.RAW))
    raw = workspace / layout.RAW
    found = folder_md5(raw) if raw.is_dir() else "nothing"
    if found != wanted:
        raise InputError(
            f"the raw archive with md5 {wanted} is missing: {layout.RAW} holds {found}; bring it "
            "back (`dvc pull`, or the zip of then) and run again"
        )


def _require_code(workspace: Path, stages: dict[str, Any], version: Version) -> None:
    """Check code and lists of the stages to run against what the lock records."""
    for stage in _STAGES:
        for dep in stages.get(stage, {}).get("deps", []):
            path = workspace / dep["path"]
            if not dep["path"].startswith(_INPUTS):
                continue
            if _md5_of(path) != dep["md5"]:
                raise InputError(
                    f"the code of {version} is missing: {dep['path']} is not what it was made "
                    f"with, and its commit {version.commit} does not bring it back; fetch that "
                    "commit and run again"
                )


def _md5_of(path: Path) -> str:
    if path.is_dir():
        return folder_md5(path)
    return file_md5(path) if path.is_file() else "nothing"


def _run_stages(workspace: Path) -> None:
    store = f"sqlite:///{workspace}/{layout.MLRUNS}/mlflow.db"
    environment = stage_environment(workspace, store)
    for stage in _STAGES:
        log.info("%s runs in %s", stage, workspace)
        done = subprocess.run(
            [sys.executable, "-m", "idc", stage],
            cwd=workspace, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise InputError(f"{stage} failed in {workspace}: {last}")


def _take_case_subsets(root: Path, workspace: Path, stages: dict[str, Any]) -> None:
    """Give the run today's subsets: the file is append-only, so it contains the earlier ones.

    Code from before December 2026 expects another name and another header.
    """
    subsets = root / layout.CASE_SUBSETS
    if not subsets.exists():
        return
    shutil.copy2(subsets, workspace / layout.CASE_SUBSETS)
    written = {out["path"] for out in stages.get("split", {}).get("outs", [])}
    if str(layout.EARLIER_CASE_SUBSETS) in written:
        text = with_earlier_header(subsets.read_text(encoding="utf-8"))
        (workspace / layout.EARLIER_CASE_SUBSETS).write_text(text, encoding="utf-8")


def _load_device(workspace: Path, params: Params) -> RuntimeConfig:
    """Return where the rebuilt model ran; its other parameters may no longer exist."""
    recorded = yaml.safe_load((workspace / layout.PARAMS).read_text(encoding="utf-8"))
    return params.runtime.model_copy(update={"device": recorded["runtime"]["device"]})


def _compare_environment(
    registry: Registry, version: Version, runtime: RuntimeConfig
) -> dict[str, tuple[str, str]]:
    """Return the differences between the environment of the training and this one."""
    present = describe_environment(choose_device(runtime))
    recorded = registry.environment(version)
    names = sorted(present.keys() | recorded.keys())
    pairs = {name: (recorded.get(name, "unknown"), present.get(name, "none")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
