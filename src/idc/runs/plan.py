"""What `dvc repro` would run, and why: a readable `dvc status`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idc.core.dvc import dvc
from idc.core.files import load_yaml
from idc.core.layout import DVC_FILE, DVC_LOCK
from idc.runs.lineage import load_lock

_UNRECORDED = {"modified": "new", "deleted": "missing"}


@dataclass(frozen=True)
class PlannedStage:
    """What `dvc repro` would do with one stage."""

    name: str
    reasons: tuple[str, ...]
    """What changed since it last ran, such as `train.epochs modified`."""
    after: tuple[str, ...]
    """Earlier stages that will run and whose outputs it reads."""

    @property
    def restorable(self) -> bool:
        """Whether files are missing and nothing else changed: the cache may still hold them."""
        return bool(self.reasons) and all(reason.endswith(" deleted") for reason in self.reasons)


def plan_run(root: Path) -> list[PlannedStage]:
    """Return the stages in order. A stage without `reasons` and `after` is up to date.

    A stage with `after` alone runs if those stages change what it reads. A result that is in the
    cache is restored from there instead.

    Raises:
        InputError: If DVC fails.
    """
    status = json.loads(dvc(root, "status", "--json") or "{}")
    ran = load_lock(root) if (root / DVC_LOCK).exists() else {}
    graph = load_yaml(root / DVC_FILE, if_missing="restore it from git")["stages"]
    planned: list[PlannedStage] = []
    for name, stage in graph.items():
        if name in ran:
            reasons = _reasons(status.get(name, []), _recorded_paths(ran[name]))
        else:
            reasons = ["it never ran"]
        running = [known.name for known in planned if known.reasons or known.after]
        after = tuple(before for before in running if _reads(stage, graph[before]))
        planned.append(PlannedStage(name, tuple(reasons), after))
    return planned


def _recorded_paths(stage: dict[str, Any]) -> set[str]:
    return {item["path"] for kind in ("deps", "outs") for item in stage.get(kind, [])}


def _reasons(changes: list[Any], recorded: set[str]) -> list[str]:
    """Flatten what DVC says about one stage: each item, then how it changed.

    DVC calls a path that the lock does not record modified or deleted. Here it is "new", DVC's own
    word for parameters, or "missing": the cache cannot hold it.
    """
    found = []
    for change in changes:
        if isinstance(change, str):  # such as `always changed`
            found.append(change)
            continue
        for items in change.values():
            found += _flatten(items, recorded)
    return found


def _flatten(items: dict[str, Any], recorded: set[str]) -> list[str]:
    flat = []
    for what, how in items.items():
        if isinstance(how, dict):  # parameters, below the name of their file
            flat += [f"{key} {changed}" for key, changed in how.items()]
        elif what in recorded:
            flat.append(f"{what} {how}")
        else:
            flat.append(f"{what} {_UNRECORDED.get(how, how)}")
    return flat


def _reads(stage: dict[str, Any], before: dict[str, Any]) -> bool:
    outputs = [
        path if isinstance(path, str) else next(iter(path))
        for kind in ("outs", "metrics", "plots")
        for path in before.get(kind, [])
    ]
    return any(
        dep == output or dep.startswith(f"{output}/") or output.startswith(f"{dep}/")
        for dep in stage["deps"]
        for output in outputs
    )
