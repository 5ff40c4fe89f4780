"""Sources of pretrained weights, by the value of `model.pretrained`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import nn

from idc.core.checksums import file_sha256
from idc.core.config import short_name
from idc.core.errors import InputError
from idc.models.backbones.architecture import (
    HUB,
    LOCAL,
    build_native,
    create_pretrained,
    find_architecture,
    find_licence,
    fit_size,
    native_shapes,
    require_size,
)
from idc.models.backbones.packaged import PACKAGES, find_packaged, load_packaged
from idc.models.backbones.tensors import load_weights_file, match_tensors, tensor_shapes
from idc.models.spec import Architecture, StartingWeights

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
    """Return where the weights of a backbone are, without loading them or asking the hub for them.

    A name that is a repository or a folder brings its own weights, whatever `pretrained` says.

    Args:
        name: As in `model.backbones`.
        pretrained: As `model.pretrained`, but not `none`.

    Raises:
        InputError: If there is no such backbone, or the source has no weights of it.
    """
    architecture = find_architecture(name)
    if name.startswith(LOCAL):
        return _find_saved(name)
    if name.startswith(HUB):
        return _find_on_hub(name, name.removeprefix(HUB), find_licence(name))
    if pretrained == IMAGENET:
        facts: Any = timm.get_pretrained_cfg(architecture.name)
        if facts.hf_hub_id is None:
            raise InputError(f"timm has no ImageNet weights for {name}", _WHERE, "use none")
        return _find_on_hub(name, facts.hf_hub_id, facts.license)
    if pretrained == PACKAGED:
        path = find_packaged(name)
        return Weights(name, str(path), path, PACKAGES[name].licence)
    path = _find_file(name, Path(pretrained))
    return Weights(name, str(path), path, None)


def require_weights(names: Sequence[str], pretrained: str, size_px: int) -> None:
    """Check that the pretrained weights of every backbone can be had and fit, without loading them.

    Args:
        names: As `model.backbones`.
        pretrained: As `model.pretrained`.
        size_px: Edge length of the images.

    Raises:
        InputError: Naming the backbone, or the file, and the ways out.
    """
    if pretrained == NONE:
        return
    for name in names:
        weights = find_weights(name, pretrained)
        net = native_shapes(find_architecture(name))
        require_size(net, name, size_px)
        if weights.path is None:
            _ask_hub(weights)
        elif _is_folder(name, pretrained):
            match_tensors(name, weights.path, tensor_shapes(net))


def create_net(name: str, architecture: Architecture, pretrained: str, size_px: int) -> nn.Module:
    """Build timm's network without its classifier, with the pretrained weights.

    Args:
        name: As in `model.backbones`.
        architecture: What the name stands for.
        pretrained: As `model.pretrained`, but not `none`.
        size_px: Edge length of its images.

    Raises:
        InputError: As `require_weights`.
    """
    if name.startswith((HUB, LOCAL)) or pretrained == IMAGENET:
        try:
            net = create_pretrained(name, architecture)
        except (OSError, RuntimeError, ValueError) as error:
            raise _no_weights(name, error) from None
    else:
        net = build_native(architecture)
        if pretrained == PACKAGED:
            load_packaged(net, name)
        else:
            load_weights_file(net, name, _find_file(name, Path(pretrained)))
    fit_size(net, name, size_px)
    return net


def describe_weights(names: Sequence[str], pretrained: str) -> list[StartingWeights]:
    """Return what a trained model says of the weights that it began with; none from scratch.

    Raises:
        InputError: As `find_weights`.
    """
    if pretrained == NONE:
        return []
    found = [find_weights(name, pretrained) for name in names]
    return [
        StartingWeights(
            short_name(each.backbone),
            each.place if each.path is None or str(each.path) != each.place else each.path.name,
            each.licence,
            each.sha256,
        )
        for each in found
    ]


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
    return _find_on_hub(weights.backbone, weights.place, weights.licence)


def _find_on_hub(name: str, repository: str, licence: str | None) -> Weights:
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    cached = try_to_load_from_cache(repository, _FILE, revision=revision or None)
    path = Path(cached) if isinstance(cached, str) else None
    return Weights(name, repository, path, licence)


def _find_saved(name: str) -> Weights:
    path = Path(name.removeprefix(LOCAL)) / _FILE
    if not path.is_file():
        raise InputError(
            f"{path} does not exist", "model.backbones", "name a folder that timm has saved"
        )
    return Weights(name, str(path), path, find_licence(name))


def _is_folder(name: str, pretrained: str) -> bool:
    """Say whether the weights are those of a file in a folder that `pretrained` names."""
    return not name.startswith((HUB, LOCAL)) and pretrained not in (NONE, IMAGENET, PACKAGED)


def _find_file(name: str, folder: Path) -> Path:
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(
            f"{path} does not exist",
            _WHERE,
            f"put the weights of {name} there, or set {_WHERE} to {IMAGENET}, {PACKAGED} or {NONE}",
        )
    return path


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
        f"the pretrained weights of {name} cannot be fetched ({reason})",
        _WHERE,
        "connect to the network once (`idc weights --fetch`), or set model.pretrained to a folder "
        f"with {name}.safetensors, to {PACKAGED} (its backbones come with pip), or to {NONE} "
        "(training from scratch)",
    )
