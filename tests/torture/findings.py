"""What must be so after a disturbed run and one `dvc repro`."""

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from idc.core.checksums import require_unchanged
from idc.core.errors import InputError
from tests.torture.place import STORE, Place

_ID = re.compile(r"[0-9a-f]{32}")
# DVC's own notes, Python's, the code itself and its copy in the model
_OF_NO_RUN = re.compile(r"^\.dvc/tmp/|^src/|/artifacts/code/|(^|/)__pycache__/")
# artifacts that name the run, its time or its machine, and the digests of these
_OF_THE_RUN = re.compile(r"/(MLmodel|artifacts/SHA256SUMS|dvc\.lock|tables/metrics\.json)$")
_COUNTS = {
    "runs": "SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'",
    "finished runs": "SELECT count(*) FROM runs WHERE status = 'FINISHED'",
    "versions": "SELECT count(*) FROM model_versions WHERE current_stage != 'Deleted_Internal'",
    "logged models": "SELECT count(*) FROM logged_models WHERE lifecycle_stage = 'active'",
}
_TOLD_TWICE = (
    "SELECT key, step, count(*) FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1"
)


def examine(place: Place) -> list[str]:
    """Return every difference from the undisturbed run that must not be."""
    caches = place.caches.read_text().splitlines()
    temporary = [path.name for path in place.temporary.iterdir()]
    return [
        *_compare_locks(place),
        *_compare_files(place),
        *_count_in_store(place.project / STORE),
        *_check_digests(place.project / "mlruns"),
        *(f"left in TMPDIR: {name}" for name in sorted(temporary) if name not in caches),
    ]


def _check_digests(store: Path) -> Iterator[str]:
    for model in store.rglob("MLmodel"):
        try:
            require_unchanged(model.parent)
        except InputError as error:
            yield str(error)


def _compare_locks(place: Place) -> list[str]:
    ours, theirs = (_load_lock(folder) for folder in (place.project, place.reference))
    return [
        f"dvc.lock differs in {stage}"
        for stage in sorted(theirs.keys() | ours.keys())
        if ours.get(stage) != theirs.get(stage)
    ]


def _load_lock(project: Path) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    for output in stages.get("publish", {}).get("outs", []):
        output.clear()  # names the run and the version
    return stages


def _compare_files(place: Place) -> list[str]:
    ours, theirs = (_digest_files(folder) for folder in (place.project, place.reference))
    found = [f"stray file: {name}" for name in sorted(ours.keys() - theirs.keys())]
    for name, digest in sorted(theirs.items()):
        if name.startswith(".dvc/cache/"):
            continue  # whatever else is missing there, DVC makes anew when it needs it
        if name not in ours:
            found.append(f"missing: {name}")
        elif digest != ours[name]:
            found.append(f"other content: {name}")
    return found


def _digest_files(project: Path) -> Mapping[str, str]:
    """Return the content of each file, by its name with the ids of runs and models left out."""
    digests = {}
    for path in project.rglob("*"):
        name = path.relative_to(project).as_posix()
        if _OF_NO_RUN.search(name) or not path.is_file():
            continue
        if name.startswith("mlruns/"):
            name = _ID.sub("ID", name)
        fixed = name.startswith((".dvc/", ".idc/", "dvc.lock", "reports/published", STORE))
        if fixed or (name.startswith("mlruns/") and _OF_THE_RUN.search(name)):
            digests[name] = ""
        else:
            digests[name] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return digests


def _count_in_store(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as store:
        counts = {what: store.execute(query).fetchone()[0] for what, query in _COUNTS.items()}
        twice = store.execute(_TOLD_TWICE).fetchall()
    found = [f"{number} {what} in MLflow" for what, number in counts.items() if number != 1]
    return found + [f"told more than once: {key} at step {step}" for key, step, _ in twice]
