import pytest
import yaml

from idc.core.errors import InputError
from idc.core.git import git
from idc.runs.adoption import adopt_run
from idc.runs.record import keep_case_subsets
from idc.runs.workspace import WORKSPACES
from tests.runs.finished_run import SUBSETS, finish_run


def test_adopt_when_the_tree_is_clean_then_lock_params_and_subsets_are_committed(project):
    tag = finish_run(project, "one", subsets=SUBSETS + "7,test\n")
    before = (project / "params.yaml").read_text().splitlines()
    adopted = adopt_run(project, tag)
    assert git(project, "rev-parse", "HEAD") == adopted.commit
    assert git(project, "status", "--porcelain") == ""
    for name in ("dvc.lock", "data/case_subsets.csv", "data/raw/a.zip.dvc"):
        ours = (project / name).read_bytes()
        assert ours == (project / WORKSPACES / "one" / name).read_bytes()
    changed = [
        line.strip()
        for line in (project / "params.yaml").read_text().splitlines()
        if line not in before
    ]
    # comments stay, and where results are published is the branch's own affair
    assert changed == ["epochs: 3"]
    assert adopted.changed_code == ()
    assert not adopted.changed_raw
    assert adopt_run(project, tag).commit == adopted.commit


@pytest.mark.parametrize(("ours", "changed"), [("outs: []\n", False), ("outs: [b]\n", True)])
def test_adopt_when_a_pointer_lies_here_uncommitted_then_it_stays_and_is_compared(
    project, ours, changed
):
    tag = finish_run(project, "one")
    pointer = project / "data/raw/a.zip.dvc"
    pointer.parent.mkdir(parents=True)
    pointer.write_text(ours)
    assert adopt_run(project, tag).changed_raw is changed
    assert pointer.read_text() == ours


def test_adopt_when_the_code_went_on_then_it_says_where(project):
    tag = finish_run(project, "one")
    (project / "src/code.py").write_text("A = 2\n")
    git(project, "commit", "--quiet", "--all", "-m", "second")
    assert adopt_run(project, tag).changed_code == ("src/code.py",)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.lock"])
def test_adopt_when_a_file_is_not_committed_then_it_refuses_and_changes_nothing(project, name):
    tag = finish_run(project, "one")
    with (project / name).open("a") as file:
        file.write("# mine\n")
    head = git(project, "rev-parse", "HEAD")
    with pytest.raises(InputError, match=f"{name} is not committed"):
        adopt_run(project, tag)
    assert git(project, "rev-parse", "HEAD") == head
    assert (project / name).read_text().endswith("# mine\n")


def test_adopt_when_a_case_has_another_subset_then_it_refuses(project):
    (project / "data").mkdir()
    (project / "data/case_subsets.csv").write_text(SUBSETS + "7,train\n")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "subsets")
    tag = finish_run(project, "one", subsets=SUBSETS + "7,test\n")
    with pytest.raises(InputError, match="case 7 is on train here, on test in the run"):
        adopt_run(project, tag)
    assert git(project, "status", "--porcelain") == ""


def test_adopt_when_the_subsets_alone_are_not_committed_then_they_are_with_the_run(project):
    tag = finish_run(project, "one", subsets=SUBSETS + "7,test\n")
    keep_case_subsets(project / WORKSPACES / "one")
    assert git(project, "status", "--porcelain") != ""
    adopt_run(project, tag)
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "show", "HEAD:data/case_subsets.csv").endswith("7,test")


def test_adopt_when_the_branch_knows_more_cases_then_none_is_lost(project):
    (project / "data").mkdir()
    (project / "data/case_subsets.csv").write_text(SUBSETS + "7,test\n8,val\n")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "subsets")
    adopt_run(project, finish_run(project, "one", subsets=SUBSETS + "7,test\n"))
    assert (project / "data/case_subsets.csv").read_text() == SUBSETS + "7,test\n8,val\n"


def test_adopt_when_there_is_no_such_tag_then_it_says_how_to_list_them(project):
    with pytest.raises(InputError, match="no tag idc-run/0: `git tag --list"):
        adopt_run(project, "idc-run/0")


EARLIER = "# assigned by a rule\ncase,side\n7,test\n"


def tag_earlier_run(project, params):
    """A recorded run from before December 2026, as its tag holds it."""
    folder = project / WORKSPACES / "old"
    git(project, "worktree", "add", "--quiet", "--detach", str(folder))
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/case_sides.csv").write_text(EARLIER)
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages: {train: {cmd: old}}\n")
    content = yaml.safe_load((folder / "params.yaml").read_text())
    for section, values in params.items():
        content.setdefault(section, {}).update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    git(folder, "add", "--force", ".")
    git(folder, "commit", "--quiet", "-m", "Results of old")
    git(folder, "tag", "idc-run/0123456789ab")
    return "idc-run/0123456789ab"


def test_adopt_when_the_run_holds_the_earlier_file_and_parameters_then_both_are_todays(
    project, caplog
):
    gone = {"train": {"epochs": 3, "ema_decay": None}, "pretrain": {"stem_dictionary": False}}
    adopt_run(project, tag_earlier_run(project, gone))
    subsets = (project / "data/case_subsets.csv").read_text()
    assert subsets == EARLIER.replace("side", "subset")
    assert not (project / "data/case_sides.csv").exists()
    assert yaml.safe_load((project / "params.yaml").read_text())["train"]["epochs"] == 3
    assert "left out because they are no longer parameters: " in caplog.text
    assert "pretrain.stem_dictionary, train.ema_decay" in caplog.text


def test_adopt_when_the_branch_has_the_earlier_file_then_says_how_to_rename_it(project):
    tag = tag_earlier_run(project, {})
    (project / "data").mkdir()
    (project / "data/case_sides.csv").write_text(EARLIER)
    git(project, "add", "--force", "data/case_sides.csv")
    git(project, "commit", "--quiet", "-m", "subsets")
    with pytest.raises(InputError, match=r"`git mv \S*case_sides\.csv \S*case_subsets\.csv`"):
        adopt_run(project, tag)
    git(project, "mv", "data/case_sides.csv", "data/case_subsets.csv")
    git(project, "commit", "--quiet", "-m", "renamed")
    adopt_run(project, tag)
    assert "case,subset\n7,test\n" in (project / "data/case_subsets.csv").read_text()
