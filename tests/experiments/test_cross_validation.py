"""Which stages run where and in what order; the stages themselves are played by the test."""

import pytest
import yaml

from idc.core.errors import InputError, StageFailedError
from idc.core.files import load_json
from idc.experiments import cross_validation
from idc.experiments.cross_validation import Setting, cross_validate
from idc.experiments.folds import RESULTS, load_plan
from idc.experiments.screen import run_screen
from tests.experiments.finished_folds import NUM_FOLDS, PLAN, write_fold

STAGES = ["ingest", "sample", "split", "train", "baselines", "predict"]


class Runner:
    """Leaves behind what the stages of a fold would, and remembers what it was asked for."""

    def __init__(self, fails_on=""):
        self.checked, self.ran, self._fails_on = [], [], fails_on

    def check_inputs(self, root):
        self.checked.append(root.name)
        if self._fails_on and self._fails_on in root.parts:
            raise StageFailedError("check: no weights")

    def run_stage(self, stage, root):
        self.ran.append((root.name, stage))
        if stage == "train":  # whose digest names the training's minutes
            fold = int(root.name.removeprefix("fold-"))
            write_fold(root, fold, strength=1.0, digest=f"{root.parent.name} {fold}.dir")
        return stage == "train" and root.name != "fold-1"  # that one comes from the cache


@pytest.fixture(autouse=True)
def _plain_folders(monkeypatch):
    """A workspace is an empty folder here; its overrides are looked at by other tests."""

    def create(_, folder, overrides):
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    monkeypatch.setattr(cross_validation, "create_workspace", create)


def test_cross_validate_when_run_then_each_fold_runs_its_stages_in_order_and_results_are_pooled(
    project,
):
    runner = Runner()
    cross_validate(project, Setting("one", {"train.epochs": 1}, NUM_FOLDS), runner)
    folds = [f"fold-{fold}" for fold in range(NUM_FOLDS)]
    assert runner.checked == folds[:1]
    assert runner.ran == [(fold, stage) for fold in folds for stage in STAGES]
    found = load_json(project / RESULTS / "one/metrics.json")["folds"]
    assert sorted(found) == ["0", "1", "2"]
    # a model from the cache took no time that anybody knows
    assert [found[fold]["training_minutes"] is None for fold in sorted(found)] == [
        False, True, False,
    ]  # fmt: skip


def test_cross_validate_when_some_folds_are_asked_for_then_no_other_runs(project):
    runner = Runner()
    cross_validate(project, Setting("one", num_folds=NUM_FOLDS, only=(2, 1)), runner)
    assert list(dict(runner.ran)) == ["fold-1", "fold-2"]


@pytest.mark.parametrize(
    "setting",
    [
        Setting("a b"),
        Setting("a", num_folds=2),
        Setting("a", only=(5,)),
        Setting("a", {"split.mode": "case"}),
        Setting("a", {"train.epoch": 3}),
    ],
)
def test_cross_validate_when_the_setting_cannot_be_then_nothing_runs(project, setting):
    runner = Runner()
    with pytest.raises(InputError):
        cross_validate(project, setting, runner)
    assert runner.checked == runner.ran == []
    assert not (project / ".workspaces").exists()


@pytest.fixture
def plan(project):
    path = project / "screen.yaml"
    variants = {"impossible": {}, "better": {"train.learning_rate": 0.01}}
    path.write_text(yaml.safe_dump(PLAN | {"variants": variants}), encoding="utf-8")
    return load_plan(path, project)


def test_screen_when_a_variant_fails_then_it_is_listed_and_the_others_go_on(project, plan):
    failed = run_screen(project, plan, Runner(fails_on="impossible"))
    assert failed == {"impossible": "check: no weights"}
    content = load_json(project / RESULTS / "screen.json")
    assert [variant["name"] for variant in content["variants"]] == ["base", "better"]
    assert content["failed"] == failed


def test_screen_when_the_base_fails_then_so_does_the_screen(project, plan):
    runner = Runner(fails_on="base")
    with pytest.raises(StageFailedError, match="no weights"):
        run_screen(project, plan, runner)
    assert runner.ran == []
