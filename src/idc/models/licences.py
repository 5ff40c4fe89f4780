"""Licences of pretrained weights, and whether a model that began with them may be published."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from idc.core.errors import InputError
from idc.models.spec import ModelSpec

Licences = Mapping[str, str | None]
"""By backbone, in the words of the source; None where it says nothing."""

_UNKNOWN = "unknown"  # the word for None
_RESTRICTED = ("*-nc*", "*-nd*", _UNKNOWN)  # non-commercial, no derivatives


def require_publishable(licences: Licences, forbidden: Sequence[str]) -> None:
    """Check that no licence is one under which nothing is published.

    Args:
        licences: Of the weights that a training begins with.
        forbidden: As `publish.forbid_licences`.

    Raises:
        InputError: Naming the backbones and their licences.
    """
    if found := _find(licences, forbidden):
        raise InputError(
            f"forbids to publish what begins with the weights of {_name(found)}",
            "publish.forbid_licences",
            "choose other weights, or change it",
        )


def describe_restricted(licences: Licences) -> str | None:
    """Return a line on weights that are unknown, non-commercial or allow no derivatives, or None.

    Example: `weights of UNI2-h (cc-by-nc-nd-4.0): whether …`.
    """
    found = _find(licences, _RESTRICTED)
    if not found:
        return None
    return (
        f"weights of {_name(found)}: whether their licence allows publishing is for you to judge "
        "(publish.forbid_licences refuses)"
    )


def list_licences(spec: ModelSpec) -> Licences:
    """Return the licences of the weights that a model began with; none from scratch."""
    if spec.starting_weights or spec.pretrained == "none":
        return {weights.backbone: weights.licence for weights in spec.starting_weights}
    return dict.fromkeys(spec.backbones)  # of a time before they were kept


def _find(licences: Licences, patterns: Sequence[str]) -> dict[str, str]:
    words = {name: licence or _UNKNOWN for name, licence in licences.items()}
    return {name: word for name, word in words.items() if _matches(word, patterns)}


def _matches(word: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(word.lower(), pattern.lower()) for pattern in patterns)


def _name(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({word})" for name, word in found.items())
