"""The demo reaches nothing that is not its own."""

from idc.ops.demo import own_environment
from tasks.notify import BLOCK_VARIABLE, URL_VARIABLE


def test_demo_when_the_environment_names_servers_and_receivers_then_it_reaches_none(
    tmp_path, monkeypatch
):
    for name in (
        "PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "MLFLOW_REGISTRY_URI",
        "MLFLOW_TRACKING_URI", "PREFECT_HOME", BLOCK_VARIABLE, URL_VARIABLE,
    ):  # fmt: skip
        monkeypatch.setenv(name, "the team's")
    own = own_environment(tmp_path)
    assert "the team's" not in own.values()
    assert own["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert own["PREFECT_HOME"] == str(tmp_path / ".prefect")
