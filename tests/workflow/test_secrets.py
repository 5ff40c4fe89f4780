"""Planted secrets, and names that a browser would run: neither reaches what a run leaves behind."""

import base64
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from idc.runs.workspace import copy_project, stage_environment
from tests.operations.servers import free_port, mlflow_server
from tests.small_run import SMALL

ROOT = Path(__file__).parents[2]
PASSWORD = "planted-password-7c1f"
SECRETS = {
    "IDC_NOTIFY_URL": "http://127.0.0.1:9/planted-hook-55aa",
    "PREFECT_API_KEY": "planted-key-90e2",
    "HF_TOKEN": "planted-token-31bd",
}
PLANTED = [
    PASSWORD, "planted-hook-55aa", "planted-key-90e2", "planted-token-31bd",
    base64.b64encode(f"somebody:{PASSWORD}".encode()).decode(),
]  # fmt: skip
MARKUP = "<script>alert(1)<"  # a case; what would close the element has a separator of paths

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory):
    """What a small run with secrets around it left: folders of files, and what commands said."""
    folder = tmp_path_factory.mktemp("secrets")
    project = copy_project(ROOT, folder / "project", SMALL)
    port = free_port()
    environment = stage_environment(project) | SECRETS
    environment["MLFLOW_TRACKING_URI"] = f"http://somebody:{PASSWORD}@127.0.0.1:{port}"
    said = []

    def run(module, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=project, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        said.append(done.stdout + done.stderr)
        return done.returncode

    size = ("--cases", "16", "--patches-per-case", "16")
    assert run("idc", "synth", "data/raw/plain.zip", *size) == 0
    mark_up(project / "data/raw/plain.zip", project / "data/raw/synthetic.zip")
    with mlflow_server(folder / "server", f"sqlite:///{folder}/server/mlflow.db", port):
        assert run("dvc", "repro") == 0, said[-1][-3000:]
        assert run("idc", "publish") == 0, said[-1][-3000:]
        run("idc", "check")
        run("idc", "doctor")
    run("idc", "publish")  # the server is away: what is said of its address?
    run("idc", "check")
    return folder, "\n".join(said)


def mark_up(plain, marked):
    """Give the first case of an archive a name that HTML takes for an element."""
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(marked, "w") as target:
        names = source.namelist()
        case = next(name for name in names if name.endswith(".png")).split("/")[-3]
        for name in names:
            target.writestr(name.replace(case, MARKUP), source.read(name))
    plain.unlink()


def files_with(folder, text):
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize("secret", PLANTED)
def test_secret_when_a_run_had_it_in_its_environment_then_no_file_and_no_line_holds_it(
    left_behind, secret
):
    folder, said = left_behind
    assert files_with(folder, secret) == []
    assert secret not in said


def test_left_behind_when_searched_then_a_value_of_the_run_is_found_in_store_and_report(
    left_behind,
):
    folder, said = left_behind
    found = files_with(folder, "test_resnet")
    assert "project/reports/index.html" in found
    assert any(path.startswith("server/") for path in found)
    assert "***" in said


def test_pages_when_a_case_is_named_like_an_element_then_they_show_it_as_text(left_behind):
    folder, _ = left_behind
    assert files_with(folder / "project/data", MARKUP), "the case must be there to begin with"
    pages = [path for path in folder.rglob("*.html") if path.is_file()]
    assert pages
    for page in pages:
        assert MARKUP not in page.read_text(encoding="utf-8")
