"""A checkpoint per epoch, so that a killed training goes on where it was.

The folder is no DVC output: DVC empties those before a stage. It is named after the digest of
everything that shapes the training, so another setting never finds it, and one lock guards it.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from idc.errors import InputError
from idc.files import replacing_file

log = logging.getLogger(__name__)


def digest_inputs(facts: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """Return 16 hex digits over plain facts and the content of files."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


class Checkpoint:
    """The last finished epoch of one training, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "epoch.pt"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from training the same thing at the same time.

        Raises:
            InputError: If one does.
        """
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        lock = self._folder.with_suffix(".lock")
        try:
            with FileLock(lock, timeout=0):
                yield
        except Timeout:
            raise InputError(
                f"this very training runs in another process, which holds {lock}: wait for it"
            ) from None

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep the state of a finished epoch in place of the one before."""
        with replacing_file(self._path) as partial:
            torch.save(dict(state), partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())

    def load(self) -> dict[str, Any] | None:
        """Return the state of the last finished epoch, or None without one."""
        if not self._path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            log.warning("%s is damaged (%s): starting over", self._path, type(error).__name__)
            return None
        return state

    def remove(self) -> None:
        """Forget the state of a training that is done."""
        shutil.rmtree(self._folder, ignore_errors=True)
