"""Pretrained weights of one backbone from a safetensors file: what fits is loaded, or refused."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from idc.core.errors import InputError

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor by its key."""

_WHERE = "model.pretrained"
_OPTIONAL = "num_batches_tracked"  # batch norms count by it alone, and older files lack it
_SHOWN = 3


@dataclass(frozen=True)
class Match:
    """How the tensors of a file become those of a network."""

    prefix: str
    """What every key of the file has before the network's own, such as `module.`; often empty."""
    unused: list[str]
    """Keys of the file that the network has no place for, such as those of a classifier."""


def match_tensors(name: str, path: Path, expected: Shapes) -> Match:
    """Compare a file with a network; only the file's header is read.

    A prefix that all keys have in common, as wrappers and whole models add it, is recognised.

    Args:
        name: The backbone, for messages.
        path: A safetensors file.
        expected: Shapes of the network's tensors.

    Raises:
        InputError: If the file cannot be read, lacks a tensor of the network, or has one of another
            shape.
    """
    found = _read_shapes(path)
    prefix = _find_prefix(found, expected)
    if prefix is None:
        begin = ", ".join(sorted(found)[:_SHOWN])
        raise InputError(
            f"{path} holds no tensor of {name} (its first keys: {begin or 'none'})",
            _WHERE,
            f"save {name} of timm there: its state_dict()",
        )
    own = {
        key.removeprefix(prefix): shape for key, shape in found.items() if key.startswith(prefix)
    }
    missing = [key for key in expected if key not in own and not key.endswith(_OPTIONAL)]
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of the {len(expected)} tensors of {name}, "
            f"such as {missing[0]}",
            _WHERE,
            "give it whole, or train from scratch with none",
        )
    for key, shape in expected.items():
        if key in own and own[key] != shape:
            raise InputError(
                f"{path}: {prefix}{key} has shape {own[key]}, in {name} it has {shape}",
                _WHERE,
                "give the weights of this network",
            )
    unused = [key for key in found if key.removeprefix(prefix) not in expected]
    return Match(prefix, unused)


def load_weights_file(net: nn.Module, name: str, path: Path) -> None:
    """Load the weights into a network, and log what was renamed and what was not used.

    Args:
        net: A timm network without its classifier; changed in place.
        name: The backbone, for messages.
        path: A safetensors file.

    Raises:
        InputError: As `match_tensors`.
    """
    match = match_tensors(name, path, tensor_shapes(net))
    own = net.state_dict()
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        weights = {
            key: file.get_tensor(match.prefix + key) for key in own if match.prefix + key in keys
        }
    net.load_state_dict(weights, strict=False)  # all but counters of batch norms are there
    if match.prefix:
        log.info("%s: keys of %s without their prefix %s", path, name, match.prefix)
    if match.unused:
        shown = ", ".join(match.unused[:_SHOWN])
        log.info("%s: %d tensors are not used, such as %s", path, len(match.unused), shown)


def tensor_shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's parameters and buffers."""
    return {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  not a mapping
    except (OSError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} cannot be read ({reason})",
            _WHERE,
            "copy it again, or convert it to safetensors",
        ) from None


def _find_prefix(found: Shapes, expected: Shapes) -> str | None:
    """Return the prefix under which the most tensors of the network are; None without any."""
    counts: dict[str, int] = {}
    ends: dict[str, list[str]] = {}
    for key in expected:
        ends.setdefault(key.rpartition(".")[2], []).append(key)
    for key in found:
        for own in ends.get(key.rpartition(".")[2], ()):
            head = key.removesuffix(own)
            if key.endswith(own) and (not head or head.endswith(".")):
                counts[head] = counts.get(head, 0) + 1
    return max(counts, key=lambda head: (counts[head], -len(head))) if counts else None
