"""Arguments of a network as JSON says them: those of timm are refused, classes are named."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import timm
from timm import layers
from torch import nn

from idc.core.errors import InputError
from idc.models.backbones.places import WHERE
from idc.models.spec import Architecture

_PARTS = frozenset({"act_layer", "embed_layer", "embed_norm_layer", "mlp_layer", "norm_layer"})
# what timm takes itself, not the network: files of weights, which may be pickles, among them
_OF_TIMM = frozenset(
    name
    for function in (timm.create_model, timm.models.build_model_with_cfg)
    for name in inspect.signature(function).parameters
    if name != "kwargs"
) | {"features_only", "out_indices", "pruned"}


def require_arguments(architecture: Architecture) -> None:
    """Check what a configuration sets, before anything is built or loaded.

    Raises:
        InputError: If it sets what is not of a network, or names a class that there is not.
    """
    name, args = architecture.name, architecture.args
    if refused := _OF_TIMM.intersection(args):
        raise InputError(
            f"the configuration of {name} sets {', '.join(sorted(refused))}, not of a network",
            WHERE,
            "choose another backbone",
        )
    for key, value in _named_parts(args).items():
        _find_class(name, key, value)


def network_arguments(architecture: Architecture) -> dict[str, Any]:
    """Return what timm's function of that name takes, with classes in place of their names.

    The classifier is left out: no backbone has one.

    Raises:
        InputError: As `require_arguments`.
    """
    require_arguments(architecture)
    name, args = architecture.name, architecture.args
    classes = {key: _find_class(name, key, value) for key, value in _named_parts(args).items()}
    return {key: value for key, value in {**args, **classes}.items() if key != "num_classes"}


def _named_parts(args: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments that are classes, by their names."""
    return {key: value for key, value in args.items() if key in _PARTS and isinstance(value, str)}


def _find_class(name: str, key: str, value: str) -> Any:  # noqa: ANN401  a class, or timm's word
    for module in (layers, nn):
        found = getattr(module, value, None)
        # SwiGLUPacked is a class with some arguments given
        kind = found.func if isinstance(found, functools.partial) else found
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            return found
    if _is_word_of_timm(key, value):
        return value
    raise InputError(
        f"{key} of {name}: neither timm.layers nor torch.nn has a layer {value!r}",
        WHERE,
        "name one, such as SwiGLUPacked, SiLU or LayerNorm",
    )


def _is_word_of_timm(key: str, value: str) -> bool:
    """Say whether timm itself knows the layer by that word, such as `gelu` or `layernorm2d`."""
    look: Callable[[str], Any] = layers.get_act_layer
    if key.endswith("norm_layer"):
        look = layers.get_norm_layer
    elif key != "act_layer":
        return False
    try:
        look(value)
    except (KeyError, AssertionError):
        return False
    return True
