"""The raw archive as the README promises it: added, imported, grown later, pulled by others.

Real `dvc` and `git` commands on small copies of the project, each with a cache of its own, in
temporary folders. The only network is a server on this machine's loopback.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from mlflow.tracking import MlflowClient

from idc.core.files import save_json
from idc.core.layout import PUBLISHED
from idc.runs.adoption import adopt_run
from idc.runs.lineage import stale_pointers
from idc.runs.record import record_run
from idc.runs.workspace import WORKSPACES, create_workspace, override_params, stage_environment
from idc.stages import STAGES
from tests.small_run import SMALL

ROOT = Path(__file__).parents[2]
PARTS = (
    "src/idc", "data/case_lists", "data/label_overrides.csv", ".dvc/config", ".dvc/.gitignore",
    ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml",
)  # fmt: skip
UNTIL_SPLIT = ["ingest", "sample", "split"]
NUM_CASES, NUM_FIRST_CASES = 16, 12

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@dataclass(frozen=True)
class Project:
    """A copy of the project under git, whose DVC keeps everything below `folder`."""

    folder: Path

    def __call__(self, *command: str) -> str:
        return run(*command, folder=self.folder, environment=self._environment())

    def dvc(self, *arguments: str) -> str:
        return self(sys.executable, "-m", "dvc", *arguments)

    def reproduce(self, *targets: str) -> list[str]:
        """Return the stages that `dvc repro` ran, in order."""
        return re.findall(r"^Running stage '(\w+)'", self.dvc("repro", *targets), re.MULTILINE)

    def git(self, *arguments: str) -> str:
        return self("git", "-c", "user.name=Test", "-c", "user.email=test@localhost", *arguments)

    def untracked(self) -> set[str]:
        listed = self.git("ls-files", "--others", "--exclude-standard")
        return set(listed.splitlines())

    def commit_all(self) -> None:
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "results")

    def place(self, archive: Path) -> None:
        raw = self.folder / "data/raw"
        raw.mkdir(exist_ok=True)
        shutil.copy2(archive, raw)

    def content(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def num_cases(self) -> int:
        return json.loads(self.content("reports/ingest.json"))["num_cases"]

    def _environment(self) -> dict[str, str]:
        tmp = self.folder / ".dvc/tmp"
        # git's variables would name the repository of a hook that runs the tests
        kept = {k: v for k, v in stage_environment(self.folder).items() if not k.startswith("GIT_")}
        return kept | {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "DVC_GLOBAL_CONFIG_DIR": str(tmp / "global"),
            "DVC_SITE_CACHE_DIR": str(tmp / "site"),
            "CI": "1",  # else DVC asks its makers' server for the newest version
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder.parent / 'mlflow.db'}",
            "no_proxy": "127.0.0.1",
        }


@dataclass(frozen=True)
class Archives:
    """Zips in the published layout: `whole` holds the cases of `first` and of `second`."""

    whole: Path
    first: Path
    second: Path


@dataclass(frozen=True)
class Prepared:
    """A project after `dvc repro split`, for tests to copy; `ran` names the stages that ran."""

    project: Project
    ran: list[str]


@dataclass(frozen=True)
class Server:
    folder: Path
    url: str


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> Archives:
    folder = tmp_path_factory.mktemp("archives")
    made = Archives(folder / "whole.zip", folder / "first.zip", folder / "second.zip")
    size = ("--cases", str(NUM_CASES), "--patches-per-case", "16")
    run(
        *(sys.executable, "-m", "idc", "synth", str(made.whole), *size),
        folder=folder,
        environment=stage_environment(ROOT),
    )
    with zipfile.ZipFile(made.whole) as whole:
        cases = sorted({case_of(name) for name in whole.namelist()})
    copy_cases(made.whole, made.first, cases[:NUM_FIRST_CASES])
    copy_cases(made.whole, made.second, cases[NUM_FIRST_CASES:])
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """A plain file server, as a lab would start one.

    It sends no ETag, and DVC needs none: it takes a checksum of what the server says of the file
    (ETag, Last-Modified, Content-Length), so any one of them that changes is enough for an update.
    """
    folder = tmp_path_factory.mktemp("served")
    with QuietServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield Server(folder, f"http://127.0.0.1:{serving.server_port}")
        serving.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing: the requests are DVC's affair."""


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing: DVC reads the headers of an answer and hangs up."""


@pytest.fixture(scope="module")
def added(tmp_path_factory, archives) -> Prepared:
    """A project whose first zip was placed in `data/raw` and added."""
    project = new_project(tmp_path_factory.mktemp("added"))
    project.place(archives.first)
    project.dvc("add", "data/raw/first.zip")
    return Prepared(project, ran=project.reproduce("split"))


@pytest.fixture(scope="module")
def imported(tmp_path_factory, archives, server) -> Prepared:
    """A project whose archive was imported from the server."""
    project = new_project(tmp_path_factory.mktemp("imported"))
    shutil.copy2(archives.first, server.folder / "steady.zip")
    import_archive(project, f"{server.url}/steady.zip")
    return Prepared(project, ran=project.reproduce("split"))


@pytest.fixture
def copy_of(tmp_path) -> Callable[[Prepared], Project]:
    def copy(prepared: Prepared) -> Project:
        return Project(shutil.copytree(prepared.project.folder, tmp_path / "project"))

    return copy


def run(*command: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{command} exited {done.returncode}: {output[-2000:]}"
    return output


def new_project(parent: Path) -> Project:
    folder = parent / "project"
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    override_params(folder / "params.yaml", SMALL)
    project = Project(folder)
    project.git("init", "--quiet")
    project.commit_all()
    return project


def import_archive(project: Project, url: str) -> None:
    (project.folder / "data/raw").mkdir()
    project.dvc("import-url", url, "data/raw/archive.zip")


def share(project: Project) -> None:
    """Commit, and push the results to a folder beside the project."""
    project.dvc("remote", "add", "--default", "shared", str(project.folder.parent / "shared"))
    project.commit_all()
    project.dvc("push")


def clone(project: Project) -> Project:
    project.git("clone", "--quiet", ".", "../clone")
    return Project(project.folder.parent / "clone")


def case_of(member: str) -> str:
    """Return the case of `<case>/<0|1>/<case>_idx5_x<X>_y<Y>_class<0|1>.png`."""
    return member.rpartition("/")[2].partition("_")[0]


def copy_cases(source: Path, target: Path, cases: list[str]) -> None:
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w") as part:
        for entry in whole.infolist():
            if case_of(entry.filename) in cases:
                part.writestr(entry, whole.read(entry))


@pytest.mark.slow
def test_archive_when_added_then_repro_runs_its_stages_once(added, copy_of):
    assert added.ran == UNTIL_SPLIT
    project = copy_of(added)
    pointer = yaml.safe_load(project.content("data/raw/first.zip.dvc"))["outs"][0]
    assert pointer["path"] == "first.zip"
    assert {"data/raw/first.zip.dvc", "dvc.lock", "data/case_subsets.csv"} <= project.untracked()
    assert "data/raw/first.zip" not in project.untracked()
    assert project.reproduce("split") == []


@pytest.mark.slow
def test_archive_when_imported_from_a_server_then_it_is_part_of_the_graph(imported, copy_of):
    assert imported.ran == UNTIL_SPLIT
    project = copy_of(imported)
    assert {"data/raw/archive.zip.dvc", "dvc.lock"} <= project.untracked()
    assert "data/raw/archive.zip" not in project.untracked()
    output = project.dvc("repro", "split")
    assert "Running stage" not in output
    assert "'data/raw/archive.zip.dvc' didn't change" in output


@pytest.mark.slow
def test_imported_archive_when_it_changes_on_the_server_then_update_reruns_its_stages(
    tmp_path, archives, server
):
    project = new_project(tmp_path)
    served = server.folder / "growing.zip"
    shutil.copy2(archives.first, served)
    import_archive(project, f"{server.url}/growing.zip")
    assert project.reproduce("split") == UNTIL_SPLIT
    before = project.content("data/raw/archive.zip.dvc")

    project.dvc("update", "data/raw/archive.zip.dvc")
    assert project.content("data/raw/archive.zip.dvc") == before

    shutil.copy2(archives.whole, served)
    project.dvc("update", "data/raw/archive.zip.dvc")
    assert project.content("data/raw/archive.zip") == archives.whole.read_bytes()
    assert re.search(r"modified:\s+data/raw$", project.dvc("status", "ingest"), re.MULTILINE)
    assert project.reproduce("split") == UNTIL_SPLIT
    assert project.num_cases() == NUM_CASES


@pytest.mark.slow
def test_second_zip_when_it_holds_new_cases_then_all_three_stages_run(added, copy_of, archives):
    project = copy_of(added)
    assert project.num_cases() == NUM_FIRST_CASES
    project.place(archives.second)
    subsets = project.content("data/case_subsets.csv")
    project.dvc("add", "data/raw/second.zip")
    assert project.reproduce("split") == UNTIL_SPLIT
    assert project.num_cases() == NUM_CASES
    assert project.content("data/case_subsets.csv").startswith(subsets)


@pytest.mark.slow
def test_second_zip_when_it_is_a_copy_then_ingest_alone_runs(added, copy_of, archives):
    project = copy_of(added)
    shutil.copy2(archives.first, project.folder / "data/raw/again.zip")
    before = project.content("data/manifest.csv"), project.content("data/splits.csv")
    project.dvc("add", "data/raw/again.zip")
    assert project.reproduce("split") == ["ingest"]
    assert (project.content("data/manifest.csv"), project.content("data/splits.csv")) == before


@pytest.mark.parametrize(
    ("how", "archive"), [("added", "first.zip"), ("imported", "archive.zip")], ids=lambda v: v
)
@pytest.mark.slow
def test_results_when_pulled_into_a_clone_then_archive_is_there_and_no_stage_runs(
    how, archive, copy_of, request
):
    project = copy_of(request.getfixturevalue(how))
    share(project)
    other = clone(project)
    # what was never trained cannot be pulled: a bare `dvc pull` would say so and exit with 1
    other.dvc("pull", "--with-deps", "split")
    assert other.content(f"data/raw/{archive}") == project.content(f"data/raw/{archive}")
    assert "up to date" in other.dvc("status", *UNTIL_SPLIT)
    assert other.reproduce("split") == []
    assert other.git("status", "--porcelain") == ""


@pytest.mark.slow
def test_raw_folder_when_added_whole_then_a_workspace_runs_and_its_run_is_adopted(
    tmp_path, archives, monkeypatch
):
    project = new_project(tmp_path)
    project.place(archives.first)
    project.dvc("add", "data/raw")
    assert project.reproduce("split") == UNTIL_SPLIT
    project.git("add", "dvc.lock", "data/case_subsets.csv")
    project.git("commit", "--quiet", "--message", "results")
    project.place(archives.second)
    for name, value in project._environment().items():
        monkeypatch.setenv(name, value)
    assert list(stale_pointers(project.folder, by_content=True))
    project.dvc("add", "data/raw")
    assert not stale_pointers(project.folder, by_content=True)
    workspace = Project(create_workspace(project.folder, project.folder / WORKSPACES / "one", {}))
    assert workspace.reproduce("split") == UNTIL_SPLIT
    assert workspace.num_cases() == NUM_CASES
    assert workspace.git("status", "--porcelain", "data/raw", "data/raw.dvc") == ""
    published = {"run_id": "r", "model_name": "m", "model_version": "1"}
    save_json(workspace.folder / PUBLISHED, published)
    tag = record_run(workspace.folder)
    assert tag is not None
    assert "data/raw.dvc" in project.git("ls-tree", "-r", "--name-only", tag).splitlines()
    assert not adopt_run(project.folder, tag).changed_raw
    # what the workspace computed comes back from the shared cache, but for a stage that persists
    assert set(project.reproduce("split")) <= {"split"}


@pytest.fixture
def another_disk(tmp_path) -> Iterator[Path]:
    disk = Path("/dev/shm")
    if not disk.is_dir() or disk.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with TemporaryDirectory(dir=disk) as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cache_when_it_is_on_another_disk_then_every_stage_runs_and_files_are_published(
    added, copy_of, another_disk
):
    project = copy_of(added)
    cache = shutil.move(project.folder / ".dvc/cache", another_disk)
    project.dvc("cache", "dir", "--local", str(cache))
    project.dvc("checkout", "--relink", "--with-deps", "split")
    assert (project.folder / "data/patches/pixels.npy").is_symlink()
    assert project.reproduce() == [name for name in STAGES if name not in UNTIL_SPLIT]
    assert (project.folder / "models/operating_point.json").is_symlink()
    stored = [path for path in (project.folder.parent / "artifacts").rglob("*") if path.is_file()]
    assert {"MLmodel", "model.safetensors", "operating_point.json"} <= {p.name for p in stored}
    assert not any(path.is_symlink() for path in stored)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("code", ["{project}/src", "src"])
def test_experiment_when_dvc_runs_it_in_a_temporary_folder_then_the_projects_store_has_its_run(
    added, copy_of, code, monkeypatch
):
    project = copy_of(added)
    project.commit_all()
    of_user = in_own_store(project._environment(), code, project.folder)
    monkeypatch.setattr(Project, "_environment", lambda _: of_user)
    if code == "src":
        project.dvc("exp", "run", "--temp", "train", "-S", "train.epochs=2")
    else:
        project.dvc("exp", "run", "--queue", "train", "-S", "train.epochs=2")
        project.dvc("exp", "run", "--run-all", "--jobs", "1")
    assert not (project.folder / "models/fusion").exists()
    uri = f"sqlite:///{project.folder}/mlruns/mlflow.db"
    client = MlflowClient(uri, uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "idc"]
    (trained,) = client.search_runs([experiment.experiment_id])
    assert trained.data.params["train.epochs"] == "2"
    assert trained.info.status == "FINISHED"


def in_own_store(environment: dict[str, str], code: str, folder: Path) -> dict[str, str]:
    """Return the environment of a user whose store is the project's and whose code is this."""
    kept = {key: value for key, value in environment.items() if key != "MLFLOW_TRACKING_URI"}
    return kept | {"PYTHONPATH": code.format(project=folder)}


@pytest.mark.slow
def test_trained_results_when_pulled_into_a_clone_then_at_most_publish_runs(added, copy_of):
    project = copy_of(added)
    assert project.reproduce() == [name for name in STAGES if name not in UNTIL_SPLIT]
    share(project)
    other = clone(project)
    other.dvc("pull")
    stale = re.findall(r"^(\w+):$", other.dvc("status"), re.MULTILINE)
    assert set(stale) <= {"publish"}  # what MLflow said is not kept in the cache
    assert other.reproduce("split") == []
    assert set(other.reproduce()) <= {"publish"}
    # both use one MLflow store: there the clone finds the run of the same results
    assert other.content("reports/published.json") == project.content("reports/published.json")
    assert other.git("status", "--porcelain") == ""
