"""Names of backbones that are no names of timm's registry: a repository of the hub, or a folder."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from idc.core.errors import InputError
from idc.core.files import parse_yaml
from idc.models.backbones.hub import fetch_file, find_cached

WHERE = "model.backbones"

_HUB, _LOCAL = "hf-hub:", "local-dir:"
# YAML 1.1 takes it for text, as it has no point
_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")


@dataclass(frozen=True)
class Place:
    """What such a name says, taken apart."""

    backbone: str
    """The whole name, for messages."""
    name: str
    """timm's: without the arguments."""
    folder: Path | None
    """None of a repository."""
    repository: str
    """`OWNER/REPOSITORY`, with `@REVISION` where one is pinned; empty of a folder."""
    args: dict[str, Any]
    """Arguments of the network that the name gives, as JSON can say them."""

    def find_file(self, file: str) -> Path:
        """Return one of its files: of a repository from the hub's cache, else it is fetched.

        Raises:
            InputError: In one line, whatever the hub's library raises.
        """
        if self.folder is not None:
            return self.folder / file
        if (cached := find_cached(self.repository, file)) is not None:
            return cached
        try:
            return fetch_file(self.repository, file)
        except Exception as error:  # depends on the HTTP client the hub's library uses
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{self.backbone}: {file} cannot be fetched ({reason})",
                WHERE,
                "correct its name; log in (HF_TOKEN) where it is gated; or connect to the network "
                "once",
            ) from None


def find_place(backbone: str) -> Place | None:
    """Return what the name of a backbone says; None of a name of timm's registry.

    Args:
        backbone: Such as `hf-hub:OWNER/REPOSITORY@REVISION?mlp_layer=SwiGLUPacked&depth=24`: what
            follows the question mark are arguments of the network, each value in YAML.

    Raises:
        InputError: If an argument cannot be read.
    """
    if not backbone.startswith((_HUB, _LOCAL)):
        return None
    name, _, query = backbone.partition("?")
    args = _read_args(query, backbone) if query else {}
    if name.startswith(_LOCAL):
        return Place(backbone, name, Path(name.removeprefix(_LOCAL)), "", args)
    return Place(backbone, name, None, name.removeprefix(_HUB), args)


def _read_args(query: str, backbone: str) -> dict[str, Any]:
    args: dict[str, Any] = {}
    for part in query.split("&"):
        key, _, text = part.partition("=")
        if not key.isidentifier() or not text or key in args:
            raise InputError(
                f"{backbone}: {part!r} is no argument", WHERE, "write each once, as `depth=24`"
            )
        args[key] = _read_value(key, unquote(text), backbone)
    return args


def _read_value(key: str, text: str, backbone: str) -> Any:  # noqa: ANN401  as a network takes it
    if _EXPONENT.fullmatch(text):
        return float(text)
    value = parse_yaml(text, f"{key} of {backbone}")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):  # a date, a set, infinity
        value = None
    if value is None:  # which timm takes for an argument that is not given
        raise InputError(
            f"{backbone}: {key} cannot be {text}", WHERE, "give it a number, text or a list"
        )
    return value
