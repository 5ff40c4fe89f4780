"""The errors a user is meant to read; anything else is a fault of this project."""

from pathlib import Path

EXIT_UNAVAILABLE = 75  # of `idc`; EX_TEMPFAIL of sysexits.h: the same command may succeed later

_MAX_LINE, _MAX_BEGIN, _MAX_END = 1000, 400, 300  # characters


class InputError(ValueError):
    """Something the user gave is wrong: one line says what, where, and what to do.

    The line and its parts, which some commands print one by one, are short and printable.

    Args:
        what: What is wrong.
        where: The file, parameter or option it was found in; None where `what` names it.
        fix: What to do, a command or an instruction; None where `what` says it.
    """

    def __init__(self, what: str, where: str | Path | None = None, fix: str | None = None) -> None:
        self.what = "\n".join(map(_shorten, _printable(what).split("\n")))
        self.where = None if where is None else _printable(str(where))
        self.fix = None if fix is None else _printable(fix)
        super().__init__(": ".join(part for part in (self.where, self.what, self.fix) if part))

    def found_in(self, where: str | Path) -> "InputError":
        """Return the same error as one found inside a larger thing, such as a plan's variant."""
        place = str(where) if self.where is None else f"{where}: {self.where}"
        return InputError(self.what, place, self.fix)


def _shorten(line: str) -> str:
    """Leave out the middle of a long line: a value out of a file may be all of the file."""
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_BEGIN]} … {line[-_MAX_END:]}"


def _printable(text: str) -> str:
    """Return the text with escapes for what moves a cursor, colours a line or cannot be encoded.

    A name out of an archive stands in messages, which go to terminals and logs.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


class StoreUnavailableError(ConnectionError):
    """The tracking store cannot be reached now; the same call may succeed later."""


class StageFailedError(RuntimeError):
    """A stage that ran in a process of its own ended with an error: retrying would repeat it."""


class TransientError(RuntimeError):
    """The repository lock is held, or the tracking server does not answer: worth another try."""


def first_reason(output: str) -> str:
    """Return the line of a failed git or DVC that says why: not its hints, nor where to ask."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    reasons = [line for line in lines if line.lower().startswith(("fatal:", "error:"))]
    others = [line for line in lines if not line.startswith("hint:")]
    return next(iter(reasons + others), "it does not say why")
