"""What timm builds a backbone by: a name of its registry, or the configuration beside weights."""

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from idc.core.errors import InputError
from idc.core.files import load_text
from idc.models.backbones.arguments import network_arguments, require_arguments
from idc.models.backbones.places import WHERE, Place, find_place
from idc.models.spec import Architecture

CONFIG = "config.json"
"""Beside saved weights: what timm builds their network by."""
NOT_SAVED = "name a folder that timm has saved"
"""What to do where a folder lacks a file."""

# of networks with positions: how each family says that images may have any size
_ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False}


def find_architecture(backbone: str) -> Architecture:
    """Return what builds a backbone, by its name in `model.backbones`.

    Args:
        backbone: A name of timm's registry, `hf-hub:OWNER/REPOSITORY` or `local-dir:FOLDER`; these
            two may go on as `find_place` says, and such arguments count more than the saved ones.

    Raises:
        InputError: If there is none, its configuration cannot be read, or sets what is not of a
            network.
    """
    place = find_place(backbone)
    if place is None:
        _require_name(backbone, backbone)
        return Architecture(backbone)
    path, content = _load_config(place)
    name, args = content.get("architecture"), content.get("model_args") or {}
    if not isinstance(name, str) or not isinstance(args, dict):
        raise _no_architecture(path)
    _require_name(name, backbone)
    architecture = Architecture(name, {**args, **place.args})
    require_arguments(architecture)
    return architecture


def find_licence(place: Place) -> str | None:
    """Return the licence that a repository or folder says it has, in its configuration or card.

    Raises:
        InputError: As `find_architecture`.
    """
    from huggingface_hub import ModelCard

    _, content = _load_config(place)
    if licence := _read_licence(content.get("pretrained_cfg", {})):
        return licence
    try:
        text = load_text(place.find_file("README.md"), if_missing=NOT_SAVED)
        facts: Any = ModelCard(text).data.to_dict()  # type: ignore[no-untyped-call]
    except (InputError, ValueError, TypeError):  # it has no card, or a card without facts
        return None
    return _read_licence(facts)


def build_net(architecture: Architecture, size_px: int) -> nn.Module:
    """Build the network without its classifier, for images of one size, with random weights.

    Raises:
        InputError: If it cannot take images of that size.
    """
    net = build_native(architecture)
    fit_size(net, architecture, architecture.name, size_px)
    return net


def build_native(architecture: Architecture) -> nn.Module:
    """Build the network without its classifier, for images of its own size, with random weights.

    Raises:
        InputError: If timm knows no such network, or cannot build it so.
    """
    _require_name(architecture.name, architecture.name)
    return _create(architecture, **_any_size(architecture))


def native_shapes(architecture: Architecture) -> nn.Module:
    """Return the same network without values: shapes alone."""
    with torch.device("meta"):
        return build_native(architecture)


def create_pretrained(backbone: str, architecture: Architecture) -> nn.Module:
    """Build timm's network without its classifier, with the weights that timm finds by its name.

    Raises:
        InputError: If timm cannot build the network.
        Exception: Whatever timm and the hub's library raise where there are no weights.
    """
    native_shapes(architecture)  # refuses before anything is fetched or read
    place = find_place(backbone)
    given = network_arguments(architecture) | _any_size(architecture)
    net: nn.Module = timm.create_model(
        backbone if place is None else place.name, pretrained=True, num_classes=0, **given
    )
    return net


def fit_size(net: nn.Module, architecture: Architecture, name: str, size_px: int) -> None:
    """Let a network of fixed input size take another one: its positions are interpolated.

    Args:
        net: timm's, of its own size; changed in place.
        architecture: What built it.
        name: Its name, for messages.
        size_px: Edge length of its images.

    Raises:
        InputError: If it does not take them, or no larger images either, such as mosaics; or gives
            no embedding.
    """
    # what weights say of it depends on their arguments, and a model is rebuilt without them
    if not timm.get_pretrained_cfg(architecture.name).fixed_input_size:
        return
    _require_size(net, name, size_px)
    if size_px != _native_px(net):
        resize: Any = net.set_input_size
        resize(img_size=(size_px, size_px))
    _require_mosaics(net, name, 2 * size_px)


def _require_size(net: nn.Module, name: str, size_px: int) -> None:
    patch_px, native_px = _patch_px(net), _native_px(net)
    if size_px == native_px:
        return
    if not hasattr(net, "set_input_size"):
        raise InputError(
            f"{name} takes images of {native_px} px alone",
            "model.size_px",
            f"set it to {native_px}",
        )
    if size_px % patch_px:
        near = max(1, round(size_px / patch_px)) * patch_px
        raise InputError(
            f"{name} takes images of a multiple of {patch_px} px, not of {size_px}",
            "model.size_px",
            f"set it to {near}",
        )


@torch.no_grad()
def _require_mosaics(net: nn.Module, name: str, edge_px: int) -> None:
    was_training = net.training
    device = next(net.parameters()).device
    try:
        embedding = net.eval()(torch.zeros(1, 3, edge_px, edge_px, device=device))
    except (AssertionError, RuntimeError):
        raise InputError(
            f"{name} takes images of one size alone, and attribution methods are tried on mosaics "
            "of patches",
            WHERE,
            "choose another backbone",
        ) from None
    finally:
        net.train(was_training)
    if embedding.ndim != 2:
        raise InputError(
            f"{name} gives its tokens, not one embedding of an image",
            WHERE,
            "add how it pools to its name: ?global_pool=token, or avg",
        )


def _create(architecture: Architecture, **more: Any) -> nn.Module:  # noqa: ANN401  as timm's
    given = network_arguments(architecture) | more
    try:
        net: nn.Module = timm.create_model(
            architecture.name, pretrained=False, num_classes=0, **given
        )
    except Exception as error:  # networks raise whatever their layers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"timm cannot build {architecture.name} as its configuration says ({reason})",
            WHERE,
            "update timm, or choose another backbone",
        ) from None
    return net


def _any_size(architecture: Architecture) -> dict[str, bool]:
    """Return what makes the network take images of any size, as mosaics are larger than patches."""
    if not timm.get_pretrained_cfg(architecture.name).fixed_input_size:
        return {}
    with torch.device("meta"):
        kind = type(_create(architecture))
    known = inspect.signature(kind.__init__).parameters
    name = next((name for name in _ANY_SIZE if name in known), None)
    return {} if name is None else {name: _ANY_SIZE[name]}


def _native_px(net: Any) -> int:  # noqa: ANN401  timm's own attributes are untyped
    size = getattr(getattr(net, "patch_embed", None), "img_size", None)
    return _edge(size or net.pretrained_cfg["input_size"])


def _patch_px(net: Any) -> int:  # noqa: ANN401  timm's own attributes are untyped
    return _edge(getattr(getattr(net, "patch_embed", None), "patch_size", 1))


def _edge(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else int(size[-1])


def _require_name(name: str, backbone: str) -> None:
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:8]}*")[:5]) or "timm.list_models() has them"
        of = "" if name == backbone else f", which {backbone} asks for"
        raise InputError(f"timm has no {name!r}{of}", WHERE, f"near it: {near}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # what follows a dot names weights that there are not
        raise InputError(f"timm has no {name!r} ({error})", WHERE, "leave out the tag") from None


def _load_config(place: Place) -> tuple[Path, dict[str, Any]]:
    """Return where the configuration is, and what it says."""
    path = place.find_file(CONFIG)
    text = load_text(path, if_missing=NOT_SAVED)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise _no_architecture(path) from None
    if not isinstance(content, dict) or not isinstance(content.get("pretrained_cfg", {}), dict):
        raise _no_architecture(path)
    return path, content


def _no_architecture(path: Path) -> InputError:
    return InputError(
        f"{path} names no architecture of timm", WHERE, "choose a repository of timm's library"
    )


def _read_licence(facts: Mapping[str, Any]) -> str | None:
    """Return the licence in the words of the source: text, or a list of them."""
    said = facts.get("license")
    if isinstance(said, list) and all(isinstance(each, str) for each in said):
        said = ", ".join(said)
    return said if isinstance(said, str) and said else None
