"""What is tried of a store before anything is trained; a server is tried in tests/operations."""

import pytest

from idc.core.errors import InputError
from idc.tracking.probe import probe_store


def test_probe_when_the_store_is_local_then_nothing_is_left_in_it(tmp_path):
    (tmp_path / "mlruns/artifacts").mkdir(parents=True)
    probe_store(tmp_path, "idc", "idc-fusion")
    assert not list((tmp_path / "mlruns/artifacts").iterdir())
    assert not (tmp_path / "mlruns/mlflow.db").exists()


def test_probe_when_artifacts_cannot_be_written_then_says_where(tmp_path):
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns/artifacts").symlink_to("/proc/self")
    with pytest.raises(InputError, match=r"artifacts of MLflow cannot be written to .*artifacts"):
        probe_store(tmp_path, "idc", "idc-fusion")
