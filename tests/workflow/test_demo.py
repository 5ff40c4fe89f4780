"""The demo reaches nothing that is not its own, and shows what it promises."""

import shutil
import subprocess
from pathlib import Path

import pytest

from idc.ops.demo import own_environment
from tasks.notify import BLOCK_VARIABLE, URL_VARIABLE
from tests.own_environment import clean_environment, link_environment


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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path(".git").exists(), reason="an unpacked zip names no tracked files")
def test_demo_when_made_in_a_tree_without_git_then_the_network_beats_the_colour_baseline(
    tmp_path, project_root
):
    tree = tmp_path / "exported"
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=project_root, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project_root / name, tree / name)
    link_environment(tree / ".venv")
    done = subprocess.run(
        ["make", "demo"], cwd=tree, env=clean_environment(tree), capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    last = done.stdout.splitlines()[-1]
    assert "above the colour baseline" in last, last
    assert (tree / ".workspaces/demo/reports/index.html").is_file()
