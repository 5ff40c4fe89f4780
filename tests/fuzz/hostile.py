"""Files and values as nobody should write them, and what must hold whatever they are.

The number of cases comes from `IDC_FUZZ_CASES` (`make fuzz`); without it each test tries a few, the
same ones every time.
"""

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from idc.core.errors import InputError

MAX_SECONDS = 10
MAX_GROWTH_BYTES = 1 << 30

_CASES = int(os.environ.get("IDC_FUZZ_CASES", "0"))
_FEW = 12
_DATA = 5  # place of the data segment among the numbers of /proc/self/statm, in pages

# fmt: off
_TOKENS = (
    b"", b"\0", b"\n", b"\r\n", b"\t", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\xe2\x80\xa8",
    b"\x1b[2J", b'"', b"'", b",", b":", b": ", b"- ", b"#", b"{", b"}", b"[", b"[]", b"{}",
    b"[" * 3000, b"{a: " * 300, b"null", b"true", b"-1", b"0", b"1e999", b".nan", b".inf", b"NaN",
    b"9" * 5000, b"0x" + b"f" * 5000, b"0b_", b"1:1:1.5", b"2001-99-99",
    b"2001-01-01", b"!!int x", b"!!bool x", b"!!timestamp x",
    b'!!float ""', b"!!python/object/apply:os.getcwd []", b"&a [*a, *a]", b"*a", b"<<: *a",
    b"=cmd()", b"<script>alert(1)</script>", b"../../etc/passwd", b"a/b", b"<<<<<<< HEAD\n",
    b"=======\n",
)
# fmt: on


def share(of_all: float) -> settings:
    """Return how often a test runs: this share of all cases that were asked for."""
    return settings(
        max_examples=max(_FEW, round(_CASES * of_all)),
        deadline=None,  # `bounded` stops what hangs; a test says nothing about speed
        derandomize=not _CASES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def edited(content: bytes) -> st.SearchStrategy[bytes]:
    """Draw what a few slips, or some malice, make of a sound file."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = content
        for place, length, new in edits:
            start = place % (len(changed) + 1)
            changed = changed[:start] + new + changed[start + length :]
        return changed

    new = st.sampled_from(_TOKENS) | st.binary(max_size=6) | st.text(max_size=4).map(_encode)
    edit = st.tuples(st.integers(0, 1 << 16), st.integers(0, 40), new)
    return st.lists(edit, min_size=1, max_size=4).map(apply) | st.binary(max_size=60)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def values() -> st.SearchStrategy[Any]:
    """Draw what JSON and YAML can say."""
    simple = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.sampled_from([2**63, 10**400, -1, 10**9])
        | st.floats()
        | st.text(max_size=8)
        | st.sampled_from(["=cmd()", "../x", "\n", "resnet18"])
    )
    return st.recursive(
        simple,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=6,
    )


def replaced(content: Any) -> st.SearchStrategy[Any]:
    """Draw the same nested mappings and lists with one value replaced, added or gone."""
    places = list(_places(content, ()))

    def apply(change: tuple[tuple[Any, ...], str, Any]) -> Any:
        place, kind, value = change
        return _changed(content, place, kind, value)

    kinds = st.sampled_from(["replace", "remove", "add"])
    return st.tuples(st.sampled_from(places), kinds, values()).map(apply)


def _places(content: Any, above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield above
    keys = (
        content
        if isinstance(content, dict)
        else range(len(content))
        if isinstance(content, list)
        else ()
    )
    for key in keys:
        yield from _places(content[key], (*above, key))


def _changed(content: Any, place: tuple[Any, ...], kind: str, value: Any) -> Any:
    if not place:
        if kind == "add" and isinstance(content, dict):
            return content | {"added": value}
        return value
    key, *below = place
    copy = content.copy()
    if below:
        copy[key] = _changed(content[key], tuple(below), kind, value)
    elif kind == "remove":
        del copy[key]
    elif kind == "add" and isinstance(copy, dict):
        copy[f"{key} "] = value
    else:
        copy[key] = value
    return copy


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Let a block take 10 s of the processor, and 1 GiB more than the process has.

    Waiting counts a tenth: on a machine at work a process may be kept waiting by others.
    """
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  (read each time)
        in_use = int(file.read().split()[_DATA]) * resource.getpagesize()
    # not all of the address space: allocators reserve more of it than they ever use
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (in_use + MAX_GROWTH_BYTES, before[1]))
    timers = ((signal.ITIMER_PROF, signal.SIGPROF, 1), (signal.ITIMER_REAL, signal.SIGALRM, 10))
    handlers = [signal.signal(each, _hangs) for _, each, _ in timers]
    for timer, _, share in timers:
        signal.setitimer(timer, share * MAX_SECONDS)
    try:
        yield
    finally:
        for (timer, each, _), handler in zip(timers, handlers, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(each, handler)
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _hangs(*_: object) -> None:
    raise AssertionError(f"takes more than {MAX_SECONDS} s")


def refusal(call: Callable[[], Any]) -> InputError | None:
    """Call, within bounds; return what was refused, and None where nothing was.

    Raises:
        Exception: Whatever else leaves the call, which is a fault.
    """
    with bounded():
        try:
            call()
        except InputError as error:
            return error
    return None


def one_line(error: InputError | None) -> bool:
    """Say whether the error, if there is one, is a single line that a person can read."""
    text = "" if error is None else str(error)
    return len(text.splitlines()) <= 1 and len(text) < 2000
