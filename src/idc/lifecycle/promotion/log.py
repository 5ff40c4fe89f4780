"""Reading the promotion log: earlier champions, interrupted entries, looks at the gate."""

from collections.abc import Iterable, Sequence

from idc.tracking.registry import Entry


def former_champions(entries: Iterable[Entry]) -> list[str]:
    """Return the versions that were champion, oldest first; the last is the one at the log's end.

    A rollback removes the version that it left, so rolling back twice goes two champions back.
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
    """Return the entries that were never closed because the command was interrupted."""
    return [entry for entry in entries if entry.state == "decided"]


def count_looks(
    entries: Sequence[Entry], gate_cases: frozenset[str], *, models: str, gate_digest: str
) -> int:
    """Return how many comparisons have looked at this gate, including the current one.

    A gate that grew counts as the same as long as half of today's cases were in it. The same two
    models compared again on the same patches count once: the result is the same.

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
