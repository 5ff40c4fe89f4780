"""What timm builds a backbone by: a name of its registry, or the configuration beside weights."""

import inspect
import json
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from idc.core.errors import InputError
from idc.core.files import load_text
from idc.models.spec import Architecture

HUB, LOCAL = "hf-hub:", "local-dir:"
"""What a name begins with that is no name of timm's registry: a repository, a folder."""

_CONFIG = "config.json"
_NOT_SAVED = "name a folder that timm has saved"
_WHERE = "model.backbones"
# of networks with positions: how each family says that images may have any size
_ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False}
# what timm's create_model itself takes: a file of weights, which may be a pickle, among them
_OF_TIMM = frozenset(inspect.signature(timm.create_model).parameters) - {"kwargs"}


def find_architecture(backbone: str) -> Architecture:
    """Return what builds a backbone, by its name in `model.backbones`.

    Args:
        backbone: A name of timm's registry, `hf-hub:OWNER/REPOSITORY` or `local-dir:FOLDER`.

    Raises:
        InputError: If there is none, or its configuration cannot be read.
    """
    if not backbone.startswith((HUB, LOCAL)):
        _require_name(backbone, backbone)
        return Architecture(backbone)
    path = _find_config(backbone)
    text = load_text(path, if_missing=_NOT_SAVED)
    try:
        content = json.loads(text)
        name, args = str(content["architecture"]), dict(content.get("model_args") or {})
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise InputError(
            f"{path} names no architecture of timm", _WHERE, "choose a repository of timm's library"
        ) from None
    _require_name(name, backbone)
    return Architecture(name, args)


def find_licence(backbone: str) -> str | None:
    """Return the licence that a repository or folder says it has, in its configuration or card.

    Raises:
        InputError: As `find_architecture`.
    """
    from huggingface_hub import ModelCard

    content: Any = json.loads(load_text(_find_config(backbone), if_missing=_NOT_SAVED))
    if licence := (content.get("pretrained_cfg") or {}).get("license"):
        return str(licence)
    try:
        card = _find_file(backbone, "README.md")
        text = load_text(card, if_missing=_NOT_SAVED)
        facts: Any = ModelCard(text).data.to_dict()  # type: ignore[no-untyped-call]
    except (InputError, ValueError, TypeError):  # it has no card, or a card without facts
        return None
    return str(facts["license"]) if facts.get("license") else None


def build_net(architecture: Architecture, size_px: int) -> nn.Module:
    """Build the network without its classifier, for images of one size, with random weights.

    Raises:
        InputError: If it cannot take images of that size.
    """
    net = build_native(architecture)
    fit_size(net, architecture.name, size_px)
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
        Exception: Whatever timm and the hub's library raise where there are none.
    """
    net: nn.Module = timm.create_model(
        backbone, pretrained=True, num_classes=0, **_any_size(architecture)
    )
    return net


def require_size(net: nn.Module, name: str, size_px: int) -> None:
    """Check that a network takes images of a size.

    Args:
        net: timm's, of its own size.
        name: Its name, for messages.
        size_px: Edge length of the images.

    Raises:
        InputError: If it does not.
    """
    facts: Any = net.pretrained_cfg
    if not facts["fixed_input_size"]:
        return
    patch_px, native_px = _patch_px(net), int(facts["input_size"][-1])
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


def fit_size(net: nn.Module, name: str, size_px: int) -> None:
    """Let a network of fixed input size take another one: its positions are interpolated.

    Args:
        net: timm's, of its own size; changed in place.
        name: Its name, for messages.
        size_px: Edge length of its images.

    Raises:
        InputError: As `require_size`; or if it takes no larger images either, such as mosaics.
    """
    require_size(net, name, size_px)
    facts: Any = net.pretrained_cfg
    if not facts["fixed_input_size"]:
        return
    if size_px != facts["input_size"][-1]:
        resize: Any = net.set_input_size
        resize(img_size=(size_px, size_px))
    _require_mosaics(net, name, 2 * size_px)


@torch.no_grad()
def _require_mosaics(net: nn.Module, name: str, edge_px: int) -> None:
    was_training = net.training
    try:
        net.eval()(torch.zeros(1, 3, edge_px, edge_px))
    except (AssertionError, RuntimeError):
        raise InputError(
            f"{name} takes images of one size alone, and attribution methods are tried on mosaics "
            "of patches",
            _WHERE,
            "choose another backbone",
        ) from None
    finally:
        net.train(was_training)


def _create(architecture: Architecture, **more: Any) -> nn.Module:  # noqa: ANN401  as timm's
    given = {key: value for key, value in architecture.args.items() if key != "num_classes"}
    if refused := _OF_TIMM.intersection(given):
        raise InputError(
            f"the configuration of {architecture.name} sets {', '.join(sorted(refused))}, not of a "
            "network",
            _WHERE,
            "choose another backbone",
        )
    try:
        net: nn.Module = timm.create_model(
            architecture.name, pretrained=False, num_classes=0, **given, **more
        )
    except Exception as error:  # networks raise whatever their layers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"timm cannot build {architecture.name} as its configuration says ({reason})",
            _WHERE,
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


def _patch_px(net: Any) -> int:  # noqa: ANN401  timm's own attributes are untyped
    embedding = getattr(net, "patch_embed", None)
    size = getattr(embedding, "patch_size", (1, 1))
    return int(size[0])


def _require_name(name: str, backbone: str) -> None:
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:8]}*")[:5]) or "timm.list_models() has them"
        of = "" if name == backbone else f", which {backbone} asks for"
        raise InputError(f"timm has no {name!r}{of}", _WHERE, f"near it: {near}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # what follows a dot names weights that there are not
        raise InputError(f"timm has no {name!r} ({error})", _WHERE, "leave out the tag") from None


def _find_config(backbone: str) -> Path:
    return _find_file(backbone, _CONFIG)


def _find_file(backbone: str, file: str) -> Path:
    """Return a file of a folder, or of a repository: from the hub's cache, else it is fetched.

    Raises:
        InputError: In one line, whatever the hub's library raises.
    """
    if backbone.startswith(LOCAL):
        return Path(backbone.removeprefix(LOCAL)) / file
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    repository, _, revision = backbone.removeprefix(HUB).partition("@")
    cached = try_to_load_from_cache(repository, file, revision=revision or None)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None))
    except Exception as error:  # what is raised depends on the HTTP client the hub's library uses
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{backbone}: {file} cannot be fetched ({reason})",
            _WHERE,
            "correct its name; log in (HF_TOKEN) where it is gated; or connect to the network once",
        ) from None
