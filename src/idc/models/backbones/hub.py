"""Files of the Hugging Face hub, by `OWNER/REPOSITORY` or `OWNER/REPOSITORY@REVISION`."""

import os
from pathlib import Path


def find_cached(repository: str, file: str) -> Path | None:
    """Return a file of a repository from the hub's cache on this machine; None without it."""
    from huggingface_hub import try_to_load_from_cache

    name, revision = _split(repository)
    cached = try_to_load_from_cache(name, file, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def fetch_file(repository: str, file: str) -> Path:
    """Bring a file of a repository into the hub's cache on this machine.

    Raises:
        Exception: Whatever the hub's library raises, which depends on its HTTP client.
    """
    from huggingface_hub import hf_hub_download

    name, revision = _split(repository)
    return Path(hf_hub_download(name, file, revision=revision))


def has_file(repository: str, file: str) -> bool:
    """Ask the hub whether a repository has a file.

    Raises:
        Exception: Whatever the hub's library raises, which depends on its HTTP client.
    """
    from huggingface_hub import file_exists

    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise OSError("HF_HUB_OFFLINE is set")
    name, revision = _split(repository)
    return file_exists(name, file, revision=revision)


def _split(repository: str) -> tuple[str, str | None]:
    name, _, revision = repository.partition("@")
    return name, revision or None
