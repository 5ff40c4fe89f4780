"""What is missing for a run, and the command that fixes it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from idc.core.config import Params
from idc.core.disk import disk_usage
from idc.core.dvc import dvc
from idc.core.errors import InputError, StoreUnavailableError
from idc.core.files import load_json
from idc.core.layout import CHECKPOINTS, MLRUNS, RAW, RAW_POINTER, SERVICES
from idc.core.process_ids import ProcessId, is_dead
from idc.ops import inputs, prefect_api
from idc.runs.lineage import find_pointers, stale_pointers
from idc.runs.workspace import WORKSPACES

State = Literal["ok", "off", "missing"]
"""`off`: absent, and a run in place does not need it; `missing`: a run would fail."""


@dataclass(frozen=True)
class Finding:
    """The state of one thing that was checked."""

    what: str
    state: State
    said: str
    fix: str = ""
    """The command that fixes it, or another instruction; empty if nothing is wrong."""


def examine(params: Params, root: Path) -> list[Finding]:
    """Try everything that a run, in place or of a deployment, depends on.

    What it writes to try the store, it removes again, but for what `probe_store` says.
    """
    archive, num_patches = _archive(root)
    return [
        *_fault("git", inputs.require_git, root),
        archive,
        *_store(params, root),
        *_weights(params, root),
        _gpu(),
        *_fault("DVC cache", inputs.require_cache, root),
        _remote(root),
        *_prefect(root),
        *_ui(root),
        _disk(root, num_patches),
    ]


def _fault(what: str, require: Callable[[Path], None], root: Path) -> list[Finding]:
    """Return what is wrong with something that is named only then."""
    try:
        require(root)
    except InputError as error:
        return [_missing(what, error)]
    return []


def _archive(root: Path) -> tuple[Finding, int]:
    """Return what there is, and the number of patches."""
    what = "raw archive"
    pointers = find_pointers(root)
    try:
        num_patches = inputs.require_archive(root)
    except InputError as error:
        return _missing(what, error), 0
    stale = [pointer.name for pointer in stale_pointers(root, by_content=True)]
    if stale:
        said = f"not what is named by {', '.join(stale)}"
        named = RAW_POINTER if root / RAW_POINTER in pointers else f"{RAW}/*.dvc"
        fix = f"dvc pull {named}, or dvc add what is here"
        return Finding(what, "missing", said, fix), num_patches
    tracked = f"{len(pointers)} tracked by DVC" if pointers else "none tracked by DVC"
    return Finding(what, "ok", f"{num_patches:,} patches in {RAW}, {tracked}"), num_patches


def _store(params: Params, root: Path) -> list[Finding]:
    from idc.tracking.connection import describe_faults, shown_uri
    from idc.tracking.orphans import list_orphans
    from idc.tracking.registry import list_aliased_without_files

    try:
        faults = describe_faults(root)
        if faults:
            return [_missing("MLflow store", faults[0])]
        inputs.require_store(params, root)
        orphans, without_files = list_orphans(root), list_aliased_without_files(root)
    except InputError as error:
        return [_missing("MLflow store", error)]
    except StoreUnavailableError as error:
        fix = "start its server, or end what holds it"
        return [Finding("MLflow store", "missing", str(error), fix)]
    found = [Finding("MLflow store", "ok", shown_uri(root))]
    if orphans:
        said = f"{len(orphans)} still RUNNING though their process is dead: {', '.join(orphans)}"
        found.append(Finding("MLflow runs", "off", said, "idc gc --yes"))
    if without_files:
        said = f"the store holds no files of {', '.join(without_files)}"
        fix = "`idc publish` where its results lie, or restore the store from a backup"
        found.append(Finding("registered models", "off", said, fix))
    return found


def _weights(params: Params, root: Path) -> list[Finding]:
    try:
        inputs.require_weights(params, root)
        inputs.require_licences(params, root)
        notes = inputs.notes_on_weights(params, root)
    except InputError as error:
        return [_missing("weights", error)]
    found = Finding("weights", "ok", f"model.pretrained: {params.model.pretrained}")
    return [found, *(Finding("weights", "off", said) for said in notes)]


def _missing(what: str, error: InputError) -> Finding:
    said = error.what if error.where is None else f"{error.where}: {error.what}"
    return Finding(what, "missing", said, error.fix or "")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "off", "none: runs train on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("GPU", "ok", ", ".join(names))


def _remote(root: Path) -> Finding:
    listed = _dvc(root, "remote", "list").splitlines()
    if not listed:
        return Finding("DVC remote", "off", "none", "dvc remote add --default NAME URL")
    return Finding("DVC remote", "ok", ", ".join(" ".join(line.split()) for line in listed))


def _prefect(root: Path) -> list[Finding]:
    """Services count as missing only if `make up` started them and `make down` did not end them."""
    absent: State = "missing" if any((root / SERVICES).glob("*.json")) else "off"
    try:
        url = prefect_api.api_url()
    except InputError as error:
        said = f"{error.where}: {error.what}"
        return [Finding("Prefect server", "missing", said, error.fix or "")]
    try:
        prefect_api.ask("/health")
    except (OSError, LookupError) as error:
        return [Finding("Prefect server", absent, f"none at {url} ({error})", "make up")]
    found = [Finding("Prefect server", "ok", url)]
    deployments = prefect_api.load_deployments(root)
    for pool in sorted({deployment.pool for deployment in deployments}):
        found += _asked(f"work pool {pool}", absent, partial(_pool, root, pool, absent))
    for deployment in deployments:
        look = partial(_deployment, root, deployment.name, absent)
        found += _asked(f"deployment {deployment.name}", absent, look)
    return found


def _asked(what: str, absent: State, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except LookupError:
        return [Finding(what, absent, "unknown to the server", "make up")]
    except OSError as error:
        return [
            Finding(what, absent, f"the server rejects requests ({error})", "set PREFECT_API_KEY")
        ]


def _pool(root: Path, name: str, absent: State) -> list[Finding]:
    pool = prefect_api.ask(f"/work_pools/{name}")
    what = f"work pool {name}"
    if pool["is_paused"]:
        found = [Finding(what, absent, "paused", f"prefect work-pool resume {name}")]
    else:
        found = [Finding(what, "ok", pool["type"])]
    workers = prefect_api.ask(f"/work_pools/{name}/workers/filter", {})
    # for a while the server considers a killed worker alive
    gone = prefect_api.worker_name(root) if _has_died(root, "worker") else None
    live = [
        worker["name"]
        for worker in workers
        if worker["status"] == "ONLINE" and worker["name"] != gone
    ]
    if live:
        return [*found, Finding("worker", "ok", ", ".join(live))]
    return [*found, Finding("worker", absent, "none is alive", "make up")]


def _deployment(root: Path, name: str, absent: State) -> list[Finding]:
    deployment = prefect_api.ask(f"/deployments/name/{name}")
    what = f"deployment {name}"
    folder = prefect_api.deployment_folder(deployment)
    if folder is None or folder.resolve() != root.resolve():
        return [Finding(what, absent, f"runs in {folder or 'no known folder'}", "make up")]
    schedules = [
        f"{item['schedule'].get('cron', 'scheduled')} ({'on' if item['active'] else 'paused'})"
        for item in deployment["schedules"]
    ]
    said = ", ".join(schedules) or "no schedule"
    if not any(item["active"] for item in deployment["schedules"]):
        return [Finding(what, "ok", said)]
    if (start := _next_start(deployment["id"])) is None:
        said += "; the server, which looks once a minute, has scheduled no run"
        return [Finding(what, "missing", said, f"see {SERVICES / 'prefect-server.log'}")]
    return [Finding(what, "ok", f"{said}, next {start:%Y-%m-%d %H:%M} UTC")]


def _next_start(deployment: str) -> datetime | None:
    """Return when the next run of a deployment is due, None if none is."""
    chosen = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "sort": "EXPECTED_START_TIME_ASC",
        "limit": 1,
    }
    runs = prefect_api.ask("/flow_runs/filter", chosen)
    return datetime.fromisoformat(runs[0]["expected_start_time"]).astimezone(UTC) if runs else None


def _ui(root: Path) -> list[Finding]:
    if _has_died(root, "mlflow"):
        return [Finding("MLflow UI", "off", "it died", "make up")]
    return []


def _has_died(root: Path, service: str) -> bool:
    """Say whether `make up` started it and its process has ended since."""
    record = root / SERVICES / f"{service}.json"
    return record.is_file() and is_dead(ProcessId(**load_json(record)["process"]))


def _disk(root: Path, num_patches: int) -> Finding:
    from idc.tracking.connection import local_database

    cache = Path(_dvc(root, "cache", "dir").strip() or ".dvc/cache")
    database = local_database(root)
    store = root / MLRUNS if database is None else database.parent
    places = {"DVC cache": root / cache, "MLflow files": store}
    places |= {"workspaces": root / WORKSPACES, "checkpoints": root / CHECKPOINTS}
    sizes = ", ".join(f"{name} {disk_usage(place) / 1e9:.2f} GB" for name, place in places.items())
    free, needed = shutil.disk_usage(root).free, inputs.bytes_needed(root, num_patches)
    said = f"{free / 1e9:.1f} GB free, a run needs some {needed / 1e9:.1f}; {sizes}"
    if free < needed:
        fix = "idc gc --cache lists what may go, data of old commits too; --yes removes it"
        return Finding("disk", "missing", said, fix)
    return Finding("disk", "ok", said)


def _dvc(root: Path, *arguments: str) -> str:
    """Return what DVC printed, or nothing if it failed: DVC's own commands say why."""
    try:
        return dvc(root, *arguments)
    except InputError:
        return ""
