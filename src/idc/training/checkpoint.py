"""Checkpoints by time, so that a training killed at any moment goes on where it was.

The folder is no DVC output: DVC empties those before a stage. It is named after the digest of
everything that shapes the training, so another setting never finds it, and one lock guards it.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from idc.core.errors import InputError
from idc.core.files import replacing_file

log = logging.getLogger(__name__)

_KEPT = 2  # the last one, and the one before in case the last is damaged


def digest_inputs(facts: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """Return 16 hex digits over plain facts and the content of files."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


class Checkpoint:
    """The last two states of one training, in a folder of its own.

    Args:
        folder: Where they are kept, as `<step>.pt` beside `<step>.sha256`.
        interval_s: Seconds between two states that `is_due` asks for; 0 asks for one every step.
    """

    def __init__(self, folder: Path, *, interval_s: float = 0.0) -> None:
        self.folder = folder
        self._interval_s = interval_s
        self._last_save = time.monotonic()

    @property
    def name(self) -> str:
        """Name of the training: the digest of what shapes it."""
        return self.folder.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from training the same thing at the same time.

        Raises:
            InputError: If one does.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = self.folder.with_suffix(".lock")
        try:
            with FileLock(lock, timeout=0):
                yield
        except Timeout:
            raise InputError(
                f"this very training runs in another process, which holds {lock}: wait for it"
            ) from None

    def is_due(self) -> bool:
        """Say whether the last state is older than the interval."""
        return time.monotonic() - self._last_save >= self._interval_s

    def save(self, state: Mapping[str, Any], step: int) -> None:
        """Keep the state after `step` steps, and of the earlier ones the newest."""
        path = self.folder / f"{step:09d}.pt"
        with replacing_file(path) as partial:
            torch.save(dict(state), partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        with replacing_file(path.with_suffix(".sha256")) as partial:
            partial.write_text(digest)
        for outdated in self._newest_first()[_KEPT:]:
            outdated.unlink()
            outdated.with_suffix(".sha256").unlink(missing_ok=True)
        self._last_save = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the newest state that is whole, saying which are not; None without one."""
        for path in self._newest_first():
            fault, state = _read(path)
            if state is not None:
                return state
            log.warning("%s is damaged (%s): taking the one before", path, fault)
        return None

    def exists(self) -> bool:
        """Say whether any state is there, whole or not."""
        return bool(self._newest_first())

    def remove(self) -> None:
        """Forget the states of a training that is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("*.pt"), reverse=True)


def _read(path: Path) -> tuple[str, dict[str, Any] | None]:
    """Return a state, or what is wrong with its file."""
    try:
        recorded = path.with_suffix(".sha256").read_text()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != recorded:
            return "its bytes are not those that were written", None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        return type(error).__name__, None
    return "", state
