"""What a training could not tell MLflow, kept in `.idc/outbox/` until the store is back."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from idc.core.files import load_json, save_json
from idc.core.layout import STATE

OUTBOX = STATE / "outbox"
_EARLIER = STATE / "untold"  # as it was called before December 2026


@dataclass
class Outbox:
    """What one run's store has missed so far."""

    run_id: str
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    """Key, value and step."""
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    """As which the run ended; None while it goes on."""

    def keep(self, root: Path) -> None:
        """Write it down, so that neither this process's end nor another stage loses it."""
        save_json(root / OUTBOX / f"{self.run_id}.json", asdict(self))

    def forget(self, root: Path) -> None:
        """Begin anew: all of it was told."""
        self.metrics, self.tags, self.status = [], {}, None
        for folder in (OUTBOX, _EARLIER):
            (root / folder / f"{self.run_id}.json").unlink(missing_ok=True)


def load_outbox(root: Path, run_id: str) -> Outbox:
    """Return what waits for this run, empty where nothing does."""
    paths = [root / folder / f"{run_id}.json" for folder in (OUTBOX, _EARLIER)]
    path = next(filter(Path.exists, paths), None)  # the newer one holds what the earlier held
    if path is None:
        return Outbox(run_id)
    content = load_json(path)
    return Outbox(**{**content, "metrics": [(key, *rest) for key, *rest in content["metrics"]]})


def list_outboxes(root: Path) -> list[Outbox]:
    """Return what waits for any run."""
    paths = [path for folder in (OUTBOX, _EARLIER) for path in (root / folder).glob("*.json")]
    return [load_outbox(root, run_id) for run_id in sorted({path.stem for path in paths})]
