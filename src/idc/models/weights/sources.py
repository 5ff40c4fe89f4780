"""Sources of pretrained weights, by the value of `model.pretrained`."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm
import torch
from torch import nn

from idc.core.checksums import file_sha256
from idc.core.errors import InputError
from idc.models.weights.packaged import PACKAGES, find_packaged, load_packaged
from idc.models.weights.tensors import load_weights_file, match_tensors, tensor_shapes

NONE, IMAGENET, PACKAGED = "none", "imagenet", "packaged"

_WHERE = "model.pretrained"
_FILE = "model.safetensors"  # of a repository of the hub


@dataclass(frozen=True)
class Weights:
    """The pretrained weights of one backbone."""

    backbone: str
    place: str
    """The file, or the hub's repository."""
    path: Path | None
    """The file; None where the hub has it and this machine does not."""
    licence: str | None
    """SPDX identifier, in the words of the source; None where it says nothing."""

    @property
    def sha256(self) -> str | None:
        """Digest of the file, 64 hex digits; None where it is not here."""
        return None if self.path is None else file_sha256(self.path)


def find_weights(name: str, pretrained: str) -> Weights:
    """Return where the weights of a backbone are, without loading them or asking the hub.

    Args:
        name: The backbone, in timm's words.
        pretrained: As `model.pretrained`, but not `none`.

    Raises:
        InputError: If timm has no such backbone, or the source has no weights of it.
    """
    require_name(name)
    find = _SOURCES.get(pretrained)
    return _find_in_folder(name, Path(pretrained)) if find is None else find(name)


def require_weights(names: Sequence[str], pretrained: str) -> None:
    """Check that the pretrained weights of every backbone can be had and fit, without loading them.

    Raises:
        InputError: Naming the backbone, or the file, and the ways out.
    """
    if pretrained == NONE:
        return
    for name in names:
        weights = find_weights(name, pretrained)
        if weights.path is None:
            _ask_hub(weights)
        elif pretrained not in _SOURCES:
            match_tensors(name, weights.path, _expected_shapes(name))


def create_net(name: str, pretrained: str) -> nn.Module:
    """Build timm's network without its classifier, with the pretrained weights.

    Raises:
        InputError: As `require_weights`.
    """
    require_name(name)
    if pretrained == IMAGENET:
        return _create_from_hub(name)
    net: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    if pretrained == PACKAGED:
        load_packaged(net, name)
    elif pretrained != NONE:
        load_weights_file(net, name, _find_file(name, Path(pretrained)))
    return net


def fetch_weights(weights: Weights) -> Weights:
    """Bring weights that only the hub has into its cache on this machine.

    Raises:
        InputError: If the hub does not give them.
    """
    from huggingface_hub import hf_hub_download

    if weights.path is not None:
        return weights
    try:
        hf_hub_download(weights.place, _FILE)
    except Exception as error:  # what is raised depends on the HTTP client the hub's library uses
        raise _no_weights(weights.backbone, error) from None
    return _find_on_hub(weights.backbone)


def require_name(name: str) -> None:
    """Check that timm has a backbone of that name.

    Raises:
        InputError: With the nearest names.
    """
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:8]}*")[:5]) or "timm.list_models() has them"
        raise InputError(f"timm has no {name!r}", "model.backbones", f"near it: {near}")


def _find_on_hub(name: str) -> Weights:
    from huggingface_hub import try_to_load_from_cache

    facts: Any = timm.get_pretrained_cfg(name)
    if facts.hf_hub_id is None:
        raise InputError(f"timm has no ImageNet weights for {name}", _WHERE, "use none")
    cached = try_to_load_from_cache(facts.hf_hub_id, _FILE)
    path = Path(cached) if isinstance(cached, str) else None
    return Weights(name, facts.hf_hub_id, path, facts.license)


def _find_in_package(name: str) -> Weights:
    path = find_packaged(name)
    return Weights(name, str(path), path, PACKAGES[name].licence)


def _find_in_folder(name: str, folder: Path) -> Weights:
    path = _find_file(name, folder)
    return Weights(name, str(path), path, None)


_SOURCES: Mapping[str, Callable[[str], Weights]] = MappingProxyType(
    {IMAGENET: _find_on_hub, PACKAGED: _find_in_package}
)


def _find_file(name: str, folder: Path) -> Path:
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(
            f"{path} does not exist",
            _WHERE,
            f"put the weights of {name} there, or set {_WHERE} to {IMAGENET}, {PACKAGED} or {NONE}",
        )
    return path


def _expected_shapes(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # shapes alone: nothing is drawn
        return tensor_shapes(timm.create_model(name, pretrained=False, num_classes=0))


def _create_from_hub(name: str) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)  # type: ignore[no-any-return]
    except (OSError, RuntimeError) as error:
        raise _no_weights(name, error) from None


def _ask_hub(weights: Weights) -> None:
    from huggingface_hub import file_exists

    try:
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            raise OSError("HF_HUB_OFFLINE is set")
        found = file_exists(weights.place, _FILE)
    except Exception as error:  # what is raised depends on the HTTP client the hub's library uses
        raise _no_weights(weights.backbone, error) from None
    if not found:
        raise _no_weights(weights.backbone, OSError(f"{weights.place} has no {_FILE}"))


def _no_weights(name: str, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"the ImageNet weights of {name} cannot be fetched ({reason})",
        _WHERE,
        "connect to the network once, or set model.pretrained to a folder with "
        f"{name}.safetensors, to {PACKAGED} (its backbones come with pip), or to {NONE} (training "
        "from scratch)",
    )
