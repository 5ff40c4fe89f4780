import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from idc.core.dvc import dvc
from idc.core.errors import InputError
from idc.core.files import load_json, save_json
from idc.core.git import git, has_commit
from idc.core.layout import UNCOMMITTED, WORKSPACE_RECORD
from idc.runs.lineage import git_commit
from idc.runs.workspace import (
    WORKSPACES,
    copy_project,
    create_workspace,
    describe_workspace,
    list_workspaces,
    load_overrides,
    open_workspace,
    override_params,
    project_of,
    remove_workspace,
    stage_environment,
)

ROOT = Path(__file__).parents[2]
CONSTANT = "src/idc/data/manifest/sampling.py"


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """A project under git, with a raw archive that git ignores."""
    root = copy_project(ROOT, tmp_path_factory.mktemp("made") / "my pröject", {})
    (root / ".dvc/config.local").unlink()
    for name in (".gitignore", ".dvc/.gitignore"):
        shutil.copy2(ROOT / name, root / name)
    (root / "data/raw").mkdir()
    (root / "data/raw/archive.zip").write_bytes(b"zip")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


@pytest.fixture
def project(committed, tmp_path):
    return Path(shutil.copytree(committed, tmp_path / "my pröject"))


def where_code_runs(folder):
    done = subprocess.run(
        [sys.executable, "-c", "import idc; print(idc.__file__)"],
        cwd=folder, env=stage_environment(folder), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Path(done.stdout.strip())


def test_workspace_when_nothing_is_changed_then_it_is_a_worktree_of_the_last_commit(project):
    folder = create_workspace(project, project / WORKSPACES / "a", {"train.epochs": 3})
    assert git(folder, "rev-parse", "HEAD") == git(project, "rev-parse", "HEAD")
    assert git_commit(folder) == git(project, "rev-parse", "HEAD")
    assert yaml.safe_load((folder / "params.yaml").read_text())["train"]["epochs"] == 3
    assert where_code_runs(folder) == folder / "src/idc/__init__.py"
    raw = folder / "data/raw/archive.zip"
    assert raw.stat().st_ino == (project / "data/raw/archive.zip").stat().st_ino
    assert not (folder / UNCOMMITTED).exists()
    assert git(project, "status", "--porcelain") == ""


def test_workspace_when_code_is_not_committed_then_that_code_is_there_marked_with_its_difference(
    project,
):
    edited = project / CONSTANT
    edited.write_text(edited.read_text() + "\nEDITED = 1\n")
    (project / "src/idc/data/brand_new.py").write_text("NEW = 1\n")
    folder = create_workspace(project, project / WORKSPACES / "a", {})
    assert "EDITED = 1" in (folder / CONSTANT).read_text()
    assert (folder / "src/idc/data/brand_new.py").read_text() == "NEW = 1\n"
    commit = git_commit(folder)
    assert commit.endswith("-dirty")
    assert "EDITED = 1" in git(project, "show", f"{commit.removesuffix('-dirty')}:{CONSTANT}")
    assert "+EDITED = 1" in (folder / UNCOMMITTED).read_text()
    # the user's own index and files are as they were
    assert git(project, "diff", "--cached", "--name-only") == ""
    assert git(project, "stash", "list") == ""


def test_workspace_when_only_results_are_not_committed_then_they_come_along_and_it_is_not_dirty(
    project,
):
    (project / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (project / "data/case_subsets.csv").write_text("# rule\ncase,subset\n")
    (project / "data/raw/archive.zip.dvc").write_text("outs: []\n")
    folder = create_workspace(project, project / WORKSPACES / "a", {})
    for name in ("dvc.lock", "data/case_subsets.csv", "data/raw/archive.zip.dvc"):
        assert (folder / name).read_bytes() == (project / name).read_bytes()
    assert git_commit(folder) == git(project, "rev-parse", "HEAD")


def test_workspace_when_code_in_it_is_edited_then_it_is_dirty_and_runs_that_code(project):
    folder = create_workspace(project, project / WORKSPACES / "a", {"train.epochs": 3})
    module = folder / "src/idc/__init__.py"
    module.write_text(module.read_text() + "\nEDITED = 7\n")
    done = subprocess.run(
        [sys.executable, "-c", "import idc; print(idc.EDITED)"],
        cwd=folder, env=stage_environment(folder), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "7"
    assert git_commit(folder).endswith("-dirty")


def test_workspace_when_made_again_then_code_and_params_are_todays_and_outputs_stay(project):
    folder = create_workspace(project, project / WORKSPACES / "a", {"train.epochs": 3})
    (folder / "dvc.lock").write_text("its own\n")
    save_json(folder / "reports/metrics.json", {"a": 1})
    edited = project / CONSTANT
    edited.write_text(edited.read_text() + "\nEDITED = 1\n")
    git(project, "commit", "--quiet", "--all", "-m", "second")
    again = create_workspace(project, folder, {"train.epochs": 4})
    assert "EDITED = 1" in (again / CONSTANT).read_text()
    assert yaml.safe_load((again / "params.yaml").read_text())["train"]["epochs"] == 4
    assert (again / "dvc.lock").read_text() == "its own\n"
    assert load_json(again / "reports/metrics.json") == {"a": 1}


def test_workspace_when_opened_again_then_it_is_as_it_was(project):
    folder = open_workspace(project, project / WORKSPACES / "a", {"train.epochs": 3})
    edited = project / CONSTANT
    edited.write_text(edited.read_text() + "\nEDITED = 1\n")
    open_workspace(project, folder, {"train.epochs": 3})
    assert "EDITED = 1" not in (folder / CONSTANT).read_text()
    assert git_commit(folder) == git(project, "rev-parse", "HEAD")


def test_workspace_when_there_is_no_git_then_it_is_a_copy_without_a_commit(project):
    shutil.rmtree(project / ".git")
    folder = create_workspace(project, project / WORKSPACES / "a", {"train.epochs": 3})
    assert not (folder / ".git").exists()
    assert git_commit(folder) == "none"
    assert where_code_runs(folder) == folder / "src/idc/__init__.py"
    assert "no_scm = true" in (folder / ".dvc/config.local").read_text()


def test_workspace_when_inside_another_repository_then_that_is_not_its_git(project):
    inner = project / "unpacked"
    inner.mkdir()
    assert has_commit(project)
    assert not has_commit(inner)


def test_workspace_when_an_override_is_wrong_then_it_is_not_taken_for_a_whole_one(project):
    folder = project / WORKSPACES / "a"
    with pytest.raises(InputError, match=r"override train\.epoch: params\.yaml has no such"):
        create_workspace(project, folder, {"train.epoch": 3})
    assert list_workspaces(project) == []
    create_workspace(project, folder, {"train.epochs": 3})


def test_workspace_when_the_cache_is_elsewhere_then_it_is_shared_from_there(project, tmp_path):
    cache = tmp_path / "shared #cache"
    subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir", "--local", str(cache)],
        cwd=project, env=stage_environment(project), check=True, capture_output=True,
    )  # fmt: skip
    folder = create_workspace(project, project / WORKSPACES / "a", {})
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"],
        cwd=folder, env=stage_environment(folder), check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(cache)


def test_stages_when_in_a_workspace_then_the_projects_store_is_told(project, monkeypatch):
    folder = create_workspace(project, project / WORKSPACES / "a", {})
    store = stage_environment(folder)["MLFLOW_TRACKING_URI"]
    assert store == f"sqlite:///{project}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert stage_environment(folder)["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


def test_stages_when_dvc_runs_them_in_a_temporary_folder_then_the_projects_store_is_named(
    project, monkeypatch
):
    workspace = create_workspace(project, project / WORKSPACES / "a", {})
    for started_from in (project, workspace):
        folder = started_from / ".dvc/tmp/exps/tmp123"
        folder.mkdir(parents=True)
        monkeypatch.setenv("DVC_ROOT", str(started_from))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        environment = stage_environment(folder)
        assert environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{project}/mlruns/mlflow.db"
        assert environment["PYTHONPATH"].startswith(f"{folder}/src")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
        assert stage_environment(folder)["MLFLOW_TRACKING_URI"] == f"sqlite:///{project}/mine.db"
        assert project_of(started_from) == project


def test_workspace_when_its_opener_died_then_it_is_not_in_use(project):
    folder = create_workspace(project, project / WORKSPACES / "a", {})
    assert describe_workspace(folder).in_use
    record = load_json(folder / WORKSPACE_RECORD)
    record["opened_by"]["started"] -= 3600  # an earlier process of this number
    save_json(folder / WORKSPACE_RECORD, record)
    assert not describe_workspace(folder).in_use
    record["opened_by"]["host"] = "elsewhere"
    save_json(folder / WORKSPACE_RECORD, record)
    assert describe_workspace(folder).in_use


def test_workspaces_when_removed_then_git_forgets_them_and_empty_folders_go(project):
    for name in ("x/fold-0", "x/fold-1"):
        create_workspace(project, project / WORKSPACES / "experiments" / name, {})
    found = list_workspaces(project)
    assert {item.folder.name for item in found} == {"fold-0", "fold-1"}
    for item in found:
        remove_workspace(project, item.folder)
    assert not (project / WORKSPACES / "experiments").exists()
    assert len(git(project, "worktree", "list").splitlines()) == 1


def test_workspace_when_dvc_has_worked_in_it_then_it_leaves_nothing_elsewhere(
    project, tmp_path, monkeypatch
):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    dvc(project, "status", "ingest")
    before = set((tmp_path / "site/repo").iterdir())
    folder = create_workspace(project, project / WORKSPACES / "a", {})
    dvc(folder, "status", "ingest")
    assert set((tmp_path / "site/repo").iterdir()) == before
    assert list((folder / ".dvc/tmp/site/repo").iterdir())
    assert git(folder, "status", "--porcelain") == git(project, "status", "--porcelain") == ""


def test_copy_of_the_project_when_made_then_nothing_of_its_data_is_there(project, tmp_path):
    (project / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    copy = copy_project(project, tmp_path / "copy", {"train.epochs": 3})
    assert not (copy / "data/raw").exists()
    assert not (copy / "dvc.lock").exists()
    assert "MLFLOW_TRACKING_URI" not in stage_environment(copy) or (
        stage_environment(copy)["MLFLOW_TRACKING_URI"] == ""
    )


def test_overrides_when_written_then_comments_stay_and_only_those_lines_change(tmp_path):
    path = tmp_path / "params.yaml"
    shutil.copy2(ROOT / "params.yaml", path)
    before = path.read_text().splitlines()
    override_params(path, {"train.epochs": 3, "sample.max_per_case": 100})
    after = path.read_text().splitlines()
    changed = [line.strip() for line in after if line not in before]
    assert len(after) == len(before)
    assert changed[0].startswith("max_per_case: 100")
    assert "# at most so many patches of one case" in changed[0]
    assert changed[1] == "epochs: 3"
    assert len(changed) == 2


def test_workspace_when_the_raw_folder_is_a_link_then_holds_the_archives(project, tmp_path):
    disk = tmp_path / "disk"
    (project / "data/raw").rename(disk)
    (project / "data/raw").symlink_to(disk)
    folder = create_workspace(project, project / WORKSPACES / "a", {"train.epochs": 3})
    raw = folder / "data/raw"
    assert not raw.is_symlink(), "what happens in a workspace stays there"
    assert (raw / "archive.zip").read_bytes() == b"zip"


@pytest.mark.parametrize("with_git", [True, False])
def test_workspace_when_dvc_tracks_the_whole_raw_folder_then_archive_and_pointer_are_there(
    project, with_git
):
    # as `dvc add data/raw` leaves it
    (project / "data/.gitignore").write_text("/raw\n")
    (project / "data/raw.dvc").write_text("outs:\n- {md5: 0.dir, path: raw}\n")
    if not with_git:
        shutil.rmtree(project / ".git")
    folder = create_workspace(project, project / WORKSPACES / "a", {"train.epochs": 3})
    for name in ("data/raw.dvc", "data/raw/archive.zip"):
        assert (folder / name).read_bytes() == (project / name).read_bytes()
    assert git_commit(folder) == (git(project, "rev-parse", "HEAD") if with_git else "none")


def test_workspace_when_pointers_lie_behind_a_link_then_they_come_along(project, tmp_path):
    disk = tmp_path / "disk"
    (project / "data/raw").rename(disk)
    (project / "data/raw").symlink_to(disk)
    (disk / "archive.zip.dvc").write_text("outs: []\n")
    folder = create_workspace(project, project / WORKSPACES / "a", {})
    assert (folder / "data/raw/archive.zip.dvc").read_text() == "outs: []\n"


def test_workspace_when_the_user_ignores_every_csv_then_what_a_run_reads_is_there(
    project, tmp_path, monkeypatch
):
    (tmp_path / "ignored").write_text("*.csv\n*.lock\n")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.excludesFile")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(tmp_path / "ignored"))
    (project / "data/case_subsets.csv").write_text("case,subset\n8863,train\n")
    folder = create_workspace(project, project / WORKSPACES / "a", {"train.epochs": 3})
    assert (folder / "data/case_subsets.csv").read_text() == "case,subset\n8863,train\n"


def test_workspace_when_the_clone_is_another_users_then_git_s_refusal_is_said(project, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    says = "belongs to another user: git config --global --add safe.directory '"
    with pytest.raises(InputError, match=says):
        create_workspace(project, project / WORKSPACES / "a", {})
    with pytest.raises(InputError, match=says):
        git_commit(project)


@pytest.mark.slow
def test_flow_when_a_prefect_profile_names_a_server_then_only_the_variable_does(
    tmp_path, monkeypatch
):
    profiles = tmp_path / "home/.prefect/profiles.toml"
    profiles.parent.mkdir(parents=True)
    profiles.write_text(
        'active = "hospital"\n[profiles.hospital]\nPREFECT_API_URL = "http://10.0.0.9:4200/api"\n'
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_PROFILE", "hospital")
    for name in ("PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)

    def settings(clone):
        code = (
            "import prefect.settings as s; c = s.get_current_settings()\n"
            "print(c.api.url, c.server.ephemeral.enabled, c.home, sep='\\n')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=stage_environment(clone), cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.splitlines()

    one, other = tmp_path / "one", tmp_path / "other"
    assert settings(one) == ["None", "True", f"{one}/.idc/prefect"]
    assert settings(other)[2] == f"{other}/.idc/prefect"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4321/api")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "chosen"))
    assert settings(one) == ["http://127.0.0.1:4321/api", "True", str(tmp_path / "chosen")]


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "- train.epochs\n", "3"])
def test_load_overrides_when_the_file_names_no_parameter_then_says_so_in_a_line(tmp_path, content):
    path = tmp_path / "demo.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"demo\.yaml names no parameters: write it like"):
        load_overrides(path)
