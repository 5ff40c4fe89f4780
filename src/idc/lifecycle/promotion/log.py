"""Reading the promotion log: who was champion before, what was interrupted, how often it looked."""

from collections.abc import Iterable, Sequence

from idc.tracking.registry import Entry


def former_champions(entries: Iterable[Entry]) -> list[str]:
    """Return the versions that were champion, oldest first, the last being the one the log ends at.

    A rollback takes away what it left, so rolling back twice goes two champions back.
    """
    champions: list[str] = []
    for entry in entries:
        if entry.state != "done":
            continue
        if entry.kind == "promote":
            before = entry.champion_before
            if before is not None and champions[-1:] != [before]:  # the alias was set by hand
                champions.append(before)
            champions.append(entry.version)
        elif entry.kind == "rollback" and entry.version in champions:
            last = len(champions) - 1 - champions[::-1].index(entry.version)
            del champions[last + 1 :]
    return champions


def find_unfinished(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries that were never closed: something ended the command in between."""
    return [entry for entry in entries if entry.state == "decided"]


def count_looks(
    entries: Sequence[Entry], gate_cases: frozenset[str], *, models: str, gate_digest: str
) -> int:
    """Return how many comparisons have looked at this gate, the one at hand included.

    A gate that grew is the same one as long as half of today's cases were in it. The same two
    models compared once more on the same patches count once: they answer the same.

    Args:
        entries: The promotion log.
        gate_cases: Today's gate.
        models: As `idc.tracking.registry.name_models` names those compared now.
        gate_digest: Digest of the gate's patches.
    """
    looks = {
        (entry.models, entry.gate_digest)
        for entry in entries
        if entry.gate_digest and 2 * len(entry.gate_cases & gate_cases) >= len(gate_cases)
    }
    return len(looks | {(models, gate_digest)})
