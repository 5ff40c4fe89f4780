"""The subset of every case ever assigned, in a small file that belongs into the user's git.

A case never changes its subset, or test figures of different months could not be compared and a
test case could be learnt from later. New cases are added; no line is ever changed or removed.
"""

from collections.abc import Mapping
from pathlib import Path

from idc.core.config import SubsetFractions
from idc.core.errors import InputError
from idc.core.files import load_text, replacing_file
from idc.core.layout import EARLIER_CASE_SUBSETS
from idc.data.subsets import SUBSETS

_HEADER = "case,subset\n"
_EARLIER_HEADER = "case,side\n"  # of before December 2026


def load_case_subsets(path: Path, fractions: SubsetFractions, seed: int) -> dict[str, str]:
    """Read the subset per case; a missing file, or one without cases, holds none.

    Args:
        path: The file.
        fractions: The shares that new cases would be assigned by.
        seed: The seed they would be assigned by.

    Raises:
        InputError: If the file was assigned by another rule, names a case twice or an unknown
            subset, or has the name it had before.
    """
    reject_earlier_name(path)
    if not path.exists():
        return {}
    text = with_today_header(_read(path))
    header, *rows = [line.split(",") for line in _lines(text)] or [[]]
    if ",".join(header) + "\n" != _HEADER or any(len(row) != len(header) for row in rows):
        raise InputError(f"{path} is no table of case and subset: restore it from git")
    subsets = dict(rows)
    wrong = sorted({subset for subset in subsets.values() if subset not in SUBSETS})
    if wrong or len(subsets) < len(rows):
        fault = f"knows no subset {wrong[0]!r}" if wrong else "names a case twice"
        raise InputError(f"{path} {fault}: restore it from git, it is append-only")
    rule = _rule(fractions, seed)
    assigned_by = text.partition("\n")[0]
    if subsets and assigned_by != rule:
        raise InputError(
            f"{path} was assigned by `{assigned_by.lstrip('# ')}`, params.yaml says "
            f"`{rule.lstrip('# ')}`: set split.fractions and seeds.data back, for a case must not "
            "change its subset; or remove the file to assign anew, after which no earlier test "
            "figure can be compared"
        )
    return subsets


def save_case_subsets(
    path: Path,
    fractions: SubsetFractions,
    seed: int,
    *,
    before: Mapping[str, str],
    added: Mapping[str, str],
) -> None:
    """Append the new cases to what the file holds, in the order of their names.

    Args:
        path: The file.
        fractions: The shares the cases were assigned by.
        seed: The seed they were assigned by.
        before: What `load_case_subsets` returned.
        added: Subset per new case.
    """
    if not added:
        return
    lines = [f"{case},{subset}\n" for case, subset in sorted(added.items())]
    head = f"{_rule(fractions, seed)}\n{_HEADER}"
    if before:
        head = _end_line(with_today_header(_read(path)))
    with replacing_file(path) as partial:
        partial.write_text(head + "".join(lines), encoding="utf-8")


def ensure_case_subsets(path: Path) -> None:
    """Make an empty file where there is none: other split modes leave it as it is.

    Raises:
        InputError: If the file has the name it had before.
    """
    reject_earlier_name(path)
    if not path.exists():
        with replacing_file(path) as partial:
            partial.write_text(_HEADER, encoding="utf-8")


def reject_earlier_name(path: Path) -> None:
    """Check that no case is assigned anew only because the file was renamed.

    Args:
        path: The file; where it holds no case, one of the earlier name beside it must not either.

    Raises:
        InputError: With the command that renames it.
    """
    earlier = path.with_name(EARLIER_CASE_SUBSETS.name)
    if _holds_cases(earlier) and not _holds_cases(path):
        if path.exists():
            raise InputError(
                f"{earlier} holds the subsets of the cases under the name that the file had, and "
                f"{path} holds none: `git mv --force {earlier} {path}` keeps them"
            )
        raise InputError(
            f"{earlier} has the name that the file had: `git mv {earlier} {path}` keeps the subset "
            "of every case (outside git, `mv` does)"
        )


def _holds_cases(path: Path) -> bool:
    return path.is_file() and bool(_rows(_read(path)))


def _read(path: Path) -> str:
    return load_text(path, if_missing="restore it from git")


def with_today_header(text: str) -> str:
    """Return the content of the file with its second column called `subset`, as it is today."""
    return text.replace(_EARLIER_HEADER, _HEADER, 1)


def with_earlier_header(text: str) -> str:
    """Return the content of the file as code from before December 2026 reads it."""
    return text.replace(_HEADER, _EARLIER_HEADER, 1)


def join_case_subsets(ours: str, theirs: str) -> str:
    """Return the content of a file that holds the cases of two.

    It is one of the two where that holds all cases, else ours with the others appended.

    Raises:
        InputError: If they were assigned by different rules, or a case is on two subsets.
    """
    ours, theirs = with_today_header(ours), with_today_header(theirs)
    ours_of, theirs_of = _rows(ours), _rows(theirs)
    if not ours_of or not theirs_of:
        return theirs if theirs_of else ours
    if ours.partition("\n")[0] != theirs.partition("\n")[0]:
        raise InputError("the run assigned its cases by another rule than the one of this project")
    for case in sorted(ours_of.keys() & theirs_of.keys()):
        if ours_of[case] != theirs_of[case]:
            raise InputError(
                f"case {case} is on {ours_of[case]} here, on {theirs_of[case]} in the run, and a "
                "case must not change its subset"
            )
    if ours_of.keys() <= theirs_of.keys():
        return theirs
    added = sorted(theirs_of.keys() - ours_of.keys())
    return _end_line(ours) + "".join(f"{case},{theirs_of[case]}\n" for case in added)


def _rows(text: str) -> dict[str, str]:
    """Return the subset per case of a file's content."""
    pairs = (line.partition(",") for line in _lines(with_today_header(text)))
    return {case: subset for case, _, subset in pairs if f"{case},{subset}\n" != _HEADER}


def _end_line(text: str) -> str:
    """Return the text with its last line ended, which editors leave out: a case would join it."""
    return text.rstrip("\n") + "\n"


def _lines(text: str) -> list[str]:
    """Return the lines that are no comment; a case may hold what else ends a line in Unicode."""
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def _rule(fractions: SubsetFractions, seed: int) -> str:
    return f"# seed {seed}, val {fractions.val}, gate {fractions.gate}, test {fractions.test}"
