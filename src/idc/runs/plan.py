"""What `dvc repro` would run, and why: `dvc status` in words."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from idc.core.dvc import dvc
from idc.core.layout import DVC_FILE, DVC_LOCK
from idc.runs.lineage import load_lock


@dataclass(frozen=True)
class PlannedStage:
    """What awaits one stage."""

    name: str
    reasons: tuple[str, ...]
    """What changed since it last ran, such as `train.epochs modified`."""
    after: tuple[str, ...]
    """Stages before it that will run, and whose outputs it reads."""

    @property
    def restorable(self) -> bool:
        """Whether files are missing and nothing else changed: the cache may still hold them."""
        return bool(self.reasons) and all(reason.endswith(" deleted") for reason in self.reasons)


def plan_run(root: Path) -> list[PlannedStage]:
    """Return the stages in order. One without reasons and `after` is up to date.

    One with `after` alone runs if those change what it reads. Any result that the cache knows
    comes back from there instead.

    Raises:
        InputError: If DVC fails.
    """
    status = json.loads(dvc(root, "status", "--json") or "{}")
    ran = load_lock(root) if (root / DVC_LOCK).exists() else {}
    graph = yaml.safe_load((root / DVC_FILE).read_text(encoding="utf-8"))["stages"]
    planned: list[PlannedStage] = []
    for name, stage in graph.items():
        reasons = tuple(_reasons(status.get(name, []))) if name in ran else ("it never ran",)
        running = [known.name for known in planned if known.reasons or known.after]
        after = tuple(before for before in running if _reads(stage, graph[before]))
        planned.append(PlannedStage(name, reasons, after))
    return planned


def _reasons(changes: list[Any]) -> list[str]:
    """Flatten what DVC says of one stage: what it is, then how it changed."""
    found = []
    for change in changes:
        if isinstance(change, str):  # such as `always changed`
            found.append(change)
            continue
        for kind, items in change.items():
            flat = items if kind != "changed deps" else _flatten_params(items)
            found += [f"{what} {how}" for what, how in flat.items()]
    return found


def _flatten_params(items: dict[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for what, how in items.items():
        flat |= how if isinstance(how, dict) else {what: how}
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
