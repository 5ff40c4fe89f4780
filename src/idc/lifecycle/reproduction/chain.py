"""The chain behind a model version: archive, manifest, lock, code, run, version, decisions."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from idc.core import layout
from idc.core.config import Params
from idc.core.errors import InputError
from idc.runs.lineage import folder_md5, knows_commit, load_lock, recorded_md5, result_digest
from idc.tracking.connection import is_empty
from idc.tracking.registry import Registry, Version


@dataclass(frozen=True)
class Link:
    """One link of the chain."""

    name: str
    value: str | None
    """None if it was not recorded."""
    remark: str = ""
    """Further information, or why the value is not known."""

    def __str__(self) -> str:
        value = self.value or "not known"
        return f"{self.name:<14} {value}{f' ({self.remark})' if self.remark else ''}"


def trace(root: Path, params: Params, version: str) -> list[Link]:
    """Return the chain of a model version, from the raw archive to the decisions about it.

    Args:
        root: The project, with whose archive and git the chain is compared.
        params: The name of the model.
        version: Its number in the registry.

    Raises:
        InputError: If the registry has no such version.
        StoreUnavailableError: If a tracking server does not answer.
    """
    if is_empty(root):  # opening the registry would create a store
        raise InputError(
            f"there is no {params.publish.model_name} version {version}: the MLflow store is empty",
            fix="run `make repro`, or set MLFLOW_TRACKING_URI to the store that has it",
        )
    registry = Registry(root, params)
    found = registry.load(version)
    return [
        *_trace_data(registry, found, root),
        _trace_commit(found, root),
        *_trace_run(registry, found),
        *_trace_decisions(registry, found),
    ]


def _trace_data(registry: Registry, version: Version, root: Path) -> Iterator[Link]:
    with registry.run_file(version, layout.DVC_LOCK.name) as path:
        if path is None:
            why = f"the run {version.run_id} holds no {layout.DVC_LOCK}"
            for name in ("raw archive", "manifest", "dvc.lock"):
                yield Link(name, None, why)
            return
        stages = load_lock(path.parent)
    for name, stage, place in (
        ("raw archive", "ingest", layout.RAW),
        ("manifest", "sample", layout.MANIFEST),
    ):
        try:
            md5 = recorded_md5(stages, stage, str(place))
        except InputError as error:
            yield Link(name, None, str(error))
            continue
        remark = _compare_raw(root, md5) if place == layout.RAW else ""
        yield Link(name, f"md5 {md5}", remark)
    digest = result_digest(stages)
    agrees = digest == version.result_digest
    yield Link("dvc.lock", digest, "" if agrees else f"the version says {version.result_digest}")


def _compare_raw(root: Path, md5: str) -> str:
    if not (root / layout.RAW).is_dir():
        return f"there is no {layout.RAW} here"
    same = folder_md5(root / layout.RAW) == md5
    return f"{layout.RAW} holds it" if same else f"{layout.RAW} holds another archive now"


def _trace_commit(version: Version, root: Path) -> Link:
    commit = version.commit
    if commit == "none":
        return Link("git commit", None, "it was made without git")
    clean = commit.removesuffix("-dirty")
    remarks = ["tracked files were modified"] if clean != commit else []
    if not knows_commit(root, clean):
        remarks.append("not in the git of this clone")
    return Link("git commit", clean, ", ".join(remarks))


def _trace_run(registry: Registry, version: Version) -> Iterator[Link]:
    run = registry.run(version)
    if run is None:
        yield Link("MLflow run", None, f"the store has no run {version.run_id}")
    else:
        trained_by = run.data.tags.get("trained_by")
        yield Link("MLflow run", version.run_id, f"trained by {trained_by}" if trained_by else "")
    aliases = registry.aliases_of(version)
    yield Link("model version", str(version), ", ".join(aliases))
    yield Link("weights", version.model_digest or None)


def _trace_decisions(registry: Registry, version: Version) -> Iterator[Link]:
    entries = [
        entry
        for entry in registry.entries()
        if version.version in (entry.version, entry.champion_before)
    ]
    if not entries:
        yield Link("decision", "none yet")
    for entry in entries:
        time = datetime.fromtimestamp(entry.time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        before = entry.champion_before or "none"
        yield Link(
            "decision", f"{entry.kind} {entry.version}", f"{time}, champion before: {before}, "
            f"{entry.state}, run {entry.run_id}",
        )  # fmt: skip
