"""What a store that refuses to list something becomes: one line, as other mistakes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.exceptions import MlflowException

from idc.core.errors import InputError
from idc.tracking.connection import shown_uri, translate_store_errors


@contextmanager
def reading_store(root: Path) -> Iterator[None]:
    """Turn errors of MLflow, whose messages may hold an address with its password, into ours.

    Raises:
        InputError: If the store refuses what it is asked.
        StoreUnavailableError: If the same call may succeed later.
    """
    try:
        with translate_store_errors(root):
            yield
    except MlflowException as error:
        raise InputError(
            f"{shown_uri(root)} refuses to list runs, models or their files ({error.error_code})",
            "MLFLOW_TRACKING_URI",
            "ask its administrator for the right to read them",
        ) from None
