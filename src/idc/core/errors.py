"""The two errors a user is meant to read; anything else is a fault of this project."""


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what to do."""


class StoreUnavailableError(ConnectionError):
    """The tracking store cannot be reached now; the same call may succeed later."""
