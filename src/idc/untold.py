"""What a training could not tell MLflow, kept in `.idc/untold/` until the store is back."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from idc.files import load_json, save_json
from idc.layout import STATE

UNTOLD = STATE / "untold"


@dataclass
class Untold:
    """What one run's store has missed so far."""

    run_id: str
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    """Key, value and step."""
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    """As which the run ended; None while it goes on."""

    def keep(self, root: Path) -> None:
        """Write it down, so that neither this process's end nor another stage loses it."""
        save_json(root / UNTOLD / f"{self.run_id}.json", asdict(self))

    def forget(self, root: Path) -> None:
        """Begin anew: all of it was told."""
        self.metrics, self.tags, self.status = [], {}, None
        (root / UNTOLD / f"{self.run_id}.json").unlink(missing_ok=True)


def load_untold(root: Path, run_id: str) -> Untold:
    """Return what waits for this run, empty where nothing does."""
    path = root / UNTOLD / f"{run_id}.json"
    if not path.exists():
        return Untold(run_id)
    content = load_json(path)
    return Untold(**{**content, "metrics": [(key, *rest) for key, *rest in content["metrics"]]})


def list_untold(root: Path) -> list[Untold]:
    """Return what waits for any run."""
    return [load_untold(root, path.stem) for path in sorted((root / UNTOLD).glob("*.json"))]
