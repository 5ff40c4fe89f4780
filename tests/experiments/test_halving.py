"""Which variants go on from rung to rung; the stages are played by the test."""

import json

import pytest
import yaml

from idc.cli import main
from idc.core.errors import InputError, StageFailedError
from idc.core.files import load_json
from idc.experiments import cross_validation, results
from idc.experiments.folds import RESULTS, Plan, load_plan
from idc.experiments.halving import Rung, choose_kept, format_halving
from idc.experiments.screen import run_screen
from tests.experiments.finished_folds import NUM_FOLDS, write_fold

PLAN = {
    "base": {
        "name": "tiny",
        "overrides": {"train.epochs": 2, "train.patience": 2},
        "repeats": {"again": {"seeds.training": 18}},
    },
    "folds": {"num_folds": NUM_FOLDS, "only": [0, 1]},
    "variants": {
        "late": {"train.learning_rate": 0.01},
        "bad": {"train.learning_rate": 0.5},
        "early": {"train.batch_size": 32},
    },
    "rungs": [{"train.epochs": 1, "train.patience": 1}, {}],
    "keep": 0.5,
}
STRENGTHS = {  # by rung; `late` is the best of the last rung only
    "base": (1.0, 1.0), "again": (None, 1.1), "late": (1.5, 4.0), "bad": (0.1, 9.0),
    "early": (2.0, 2.0),
}  # fmt: skip


class Runner:
    """Leaves models as strong as the test says, and trains a fold only once."""

    def __init__(self, strengths=None, fails_on=()):
        self.trained, self._strengths = [], strengths or STRENGTHS
        self.fails_on = set(fails_on)

    def check_inputs(self, root):
        rung, name = root.parts[-3:-1]
        if f"{rung}/{name}" in self.fails_on:
            raise StageFailedError("out of memory")

    def run_stage(self, stage, root):
        rung, name, fold = root.parts[-3:]
        place = "/".join((rung, name, fold))
        if stage != "train" or place in self.trained:
            return False
        strength = self._strengths[name][int(rung.removeprefix("rung-"))]
        write_fold(root, int(fold.removeprefix("fold-")), strength, digest=f"{place}.dir")
        self.trained.append(place)
        return True

    def ran(self):
        return list(dict.fromkeys(place.rpartition("/")[0] for place in self.trained))


@pytest.fixture
def workspaces(monkeypatch):
    """The overrides of each workspace, which is an empty folder here; no pictures are drawn."""
    overrides_of = {}

    def create(_, folder, overrides):
        folder.mkdir(parents=True, exist_ok=True)
        overrides_of["/".join(folder.parts[-4:])] = {
            key: value for key, value in overrides.items() if not key.startswith("split.")
        }
        return folder

    monkeypatch.setattr(cross_validation, "create_workspace", create)
    monkeypatch.setattr(results, "_save_cases", lambda *_: None)
    return overrides_of


def read_plan_of(project, **changes):
    path = project / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN | changes, sort_keys=False), encoding="utf-8")
    return load_plan(path, project)


def read_rows(project):
    """The rows of each rung's table, by name: their cells."""
    page = (project / RESULTS / "screen.md").read_text(encoding="utf-8")
    rungs = page.partition("\n**")[0].split("\n## ")[1:]
    tables = [[line for line in rung.splitlines() if line.startswith("|")] for rung in rungs]
    assert all(len({line.count("|") for line in table}) == 1 for table in tables)
    rows = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in t[2:]] for t in tables]
    return page, [{name: cells for name, *cells in table} for table in rows]


def test_screen_when_the_plan_has_rungs_then_the_best_of_each_go_on_with_more_training(
    project, workspaces
):
    runner = Runner()
    assert run_screen(project, read_plan_of(project), runner) == {}
    first = [f"rung-0/{name}" for name in ("base", "late", "bad", "early")]
    # the base is out, and still runs as the reference; its repeat does so in the last rung alone
    assert runner.ran() == [*first, *(f"rung-1/{n}" for n in ("base", "again", "late", "early"))]
    trained = {"train.epochs": 2, "train.patience": 2}
    assert workspaces["tiny/rung-0/late/fold-1"] == {
        "train.epochs": 1, "train.patience": 1, "train.learning_rate": 0.01,
    }  # fmt: skip
    assert workspaces["tiny/rung-1/late/fold-1"] == trained | {"train.learning_rate": 0.01}
    assert workspaces["tiny/rung-1/again/fold-0"] == trained | {"seeds.training": 18}

    content = load_json(project / RESULTS / "screen.json")
    assert content["keep"] == 0.5
    assert [rung["candidates"] for rung in content["rungs"]] == [
        ["base", "late", "bad", "early"], ["late", "early"],
    ]  # fmt: skip
    assert [rung["kept"] for rung in content["rungs"]] == [["late", "early"], ["late"]]
    winner = content["winner"]
    assert winner["name"] == "late"
    assert winner["changes"] == {"train.learning_rate": 0.01}
    assert winner["overrides"] == trained | winner["changes"]
    assert sorted(winner["against"]) == ["again", "base"]
    last = load_json(project / RESULTS / "tiny/rung-1/late/metrics.json")
    assert winner["auroc"]["value"] == last["logit/auroc"]
    assert (project / RESULTS / "tiny/rung-0/bad/predictions.parquet").is_file()


def test_page_when_a_halving_is_over_then_it_shows_every_rung_and_the_winner(project, workspaces):
    run_screen(project, read_plan_of(project), Runner())
    page, (first, last) = read_rows(project)
    assert "3 folds, only 0, 1;" in page
    assert "## Rung 0: `{train.epochs: 1, train.patience: 1}`" in page
    assert "## Rung 1: `{}`" in page
    kept = {name: cells[-1] for name, cells in first.items()}
    assert kept == {"base": "no", "late": "**yes**", "bad": "no", "early": "**yes**"}
    kept = {name: cells[-1] for name, cells in last.items()}
    assert kept == {
        "base": "reference", "again": "reference", "late": "**yes**", "early": "no",
    }  # fmt: skip
    found = load_json(project / RESULTS / "tiny/rung-0/early/metrics.json")
    auroc, balanced_accuracy, against, minutes, _ = first["early"]
    assert auroc.startswith(f"{found['logit/auroc']:.3f} [{found['logit/auroc_low']:.3f}, ")
    assert balanced_accuracy.startswith(f"{found['logit/balanced_accuracy']:.3f} [")
    base = load_json(project / RESULTS / "tiny/rung-0/base/metrics.json")
    assert against.startswith(f"{found['logit/auroc'] - base['logit/auroc']:+.3f} [")
    assert float(minutes) >= 0.0
    assert first["base"][2] == ""
    (line,) = [line for line in page.splitlines() if line.startswith("**Winner")]
    assert line.startswith("**Winner: late** `{train.learning_rate: 0.01}`, AUROC ")
    assert "; against base +" in line
    assert "; against again +" in line
    assert "the best of 4 on the folds that chose it, and that flatters it: measure it" in page
    assert "on other folds and with other seeds" in page
    overrides = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    assert overrides == {"train.epochs": 2, "train.patience": 2, "train.learning_rate": 0.01}


def test_screen_when_a_variant_of_a_rung_fails_then_it_drops_out_with_its_reason(
    project, workspaces
):
    runner = Runner(fails_on=["rung-0/early", "rung-1/again"])
    failed = run_screen(project, read_plan_of(project), runner)
    assert failed == {"early": "rung 0: out of memory", "again": "rung 1: out of memory"}
    content = load_json(project / RESULTS / "screen.json")
    # half of the three that are left, rounded up
    assert [rung["kept"] for rung in content["rungs"]] == [["base", "late"], ["late"]]
    assert list(content["winner"]["against"]) == ["base"]
    _, (first, last) = read_rows(project)
    assert first["early"] == ["failed: out of memory", "", "", "", "no"]
    assert last["again"] == ["failed: out of memory", "", "", "", "reference"]


def test_screen_when_every_candidate_of_a_rung_fails_then_there_is_no_winner(project, workspaces):
    variants = {name: PLAN["variants"][name] for name in ("late", "bad")}
    rungs = [{"train.epochs": 1}, {}, {"train.epochs": 3}]
    plan = read_plan_of(project, variants=variants, rungs=rungs, keep=0.2)
    runner = Runner({name: (*each, 1.0) for name, each in STRENGTHS.items()}, ["rung-1/late"])
    assert run_screen(project, plan, runner) == {"late": "rung 1: out of memory"}
    assert not any(place.startswith("rung-2") for place in runner.trained)
    content = load_json(project / RESULTS / "screen.json")
    assert [rung["kept"] for rung in content["rungs"]] == [["late"], []]
    assert content["winner"] is None
    page, _ = read_rows(project)
    assert page.endswith("**No winner**: every candidate of this rung failed.\n")


def test_screen_when_the_base_wins_then_it_is_compared_with_its_repeats_alone(project, workspaces):
    plan = read_plan_of(project, variants={"bad": PLAN["variants"]["bad"]})
    run_screen(project, plan, Runner(STRENGTHS | {"base": (1.0, 2.0)}))
    winner = load_json(project / RESULTS / "screen.json")["winner"]
    assert (winner["name"], winner["changes"]) == ("base", {})
    assert winner["overrides"] == PLAN["base"]["overrides"]
    assert list(winner["against"]) == ["again"]
    page, _ = read_rows(project)
    assert "**Winner: base** `{}`, AUROC " in page


def test_screen_when_the_base_of_a_rung_fails_then_so_does_the_screen(project, workspaces):
    with pytest.raises(StageFailedError, match="out of memory"):
        run_screen(project, read_plan_of(project), Runner(fails_on=["rung-1/base"]))
    page, (first,) = read_rows(project)  # what was there before stays
    assert first["late"][-1] == "**yes**"
    assert "Winner" not in page


def test_screen_when_run_again_then_a_halving_goes_on_where_it_was_killed(project, workspaces):
    plan, runner = read_plan_of(project), Runner()
    runner.fails_on = {"rung-1/base"}
    with pytest.raises(StageFailedError):
        run_screen(project, plan, runner)
    before = list(runner.trained)
    assert before
    assert all(place.startswith("rung-0") for place in before)
    runner.fails_on = set()
    assert run_screen(project, plan, runner) == {}
    # no fold of the first rung was trained again
    assert len(set(runner.trained)) == len(runner.trained)
    assert all(place.startswith("rung-1") for place in runner.trained[len(before) :])
    assert load_json(project / RESULTS / "screen.json")["winner"]["name"] == "late"
    page = (project / RESULTS / "screen.md").read_bytes()
    trained = list(runner.trained)
    run_screen(project, plan, runner)
    assert runner.trained == trained
    assert (project / RESULTS / "screen.md").read_bytes() == page


def finished(plan, **aurocs):
    done = {name: {"auroc": {"value": value}} for name, value in aurocs.items()}
    return Rung(("base", *plan.variants), done)


@pytest.mark.parametrize(
    ("keep", "aurocs", "kept"),
    [
        (0.5, {"base": 0.8, "late": 0.9, "bad": 0.7, "early": 0.85}, ("late", "early")),
        (0.5, {"base": 0.8, "late": 0.8, "bad": 0.8, "early": 0.8}, ("base", "late")),
        (0.25, {"base": 0.7, "late": 0.8, "bad": 0.8, "early": 0.8}, ("late",)),
        (0.26, {"base": 0.7, "late": 0.8, "bad": 0.6, "early": 0.9}, ("late", "early")),
        (0.5, {"base": 0.9, "bad": 0.7, "early": 0.8}, ("base", "early")),
        (0.01, {"base": 0.6, "late": 0.7, "bad": 0.8, "early": 0.5}, ("bad",)),
        (0.5, {}, ()),
    ],
)
def test_choose_kept_when_a_rung_is_over_then_the_share_rounded_up_and_of_equals_the_earlier(
    keep, aurocs, kept
):
    plan = Plan.model_validate(PLAN | {"keep": keep})
    assert choose_kept(plan, 0, finished(plan, **aurocs)) == kept


def test_choose_kept_when_a_repeat_is_the_best_then_it_is_not_ranked():
    plan = Plan.model_validate(PLAN)
    assert choose_kept(plan, 1, finished(plan, base=0.7, again=0.9, late=0.8)) == ("late",)


def test_choose_kept_when_the_share_is_whole_then_rounding_adds_nothing():
    names = [f"v{number}" for number in range(99)]
    plan = Plan.model_validate(PLAN | {"keep": 0.07, "variants": {name: {} for name in names}})
    rung = finished(plan, base=0.0, **dict.fromkeys(names, 0.5))
    assert 0.07 * 100 > 7  # in floats
    assert choose_kept(plan, 0, rung) == tuple(names[:7])


def test_in_rung_when_a_rung_and_a_variant_set_a_key_then_the_rung_wins():
    fractions = {"val": 0.1, "gate": 0.1, "test": 0.2}
    plan = Plan.model_validate(
        PLAN
        | {
            "variants": {"v": {"train.epochs": 9, "split.fractions": fractions}},
            "rungs": [{"train.epochs": 1, "split.fractions.val": 0.2}, {"train.epochs": 5}],
        }
    )
    overrides = plan.in_rung(0, ["v"]).all_overrides()["v"]
    assert overrides["train.epochs"] == 1
    keys = list(overrides)  # the last one holds
    assert keys.index("split.fractions") < keys.index("split.fractions.val")
    assert plan.in_rung(1, ["v"]).all_overrides()["v"]["train.epochs"] == 5


def test_format_halving_when_a_rung_still_runs_then_nothing_is_kept_yet():
    estimate = {"value": 0.8, "low": 0.7, "high": 0.9}
    base = {"name": "base", "auroc": estimate, "balanced_accuracy": estimate,
            "training_minutes": None}  # fmt: skip
    rung = {"overrides": {}, "candidates": ["base", "v"], "variants": [base], "failed": {},
            "kept": None}  # fmt: skip
    content = {"base": {"name": "t"}, "folds": PLAN["folds"], "keep": 0.5, "rungs": [rung],
               "winner": None}  # fmt: skip
    last = format_halving(json.loads(json.dumps(content))).splitlines()[-1]
    assert last == "| base | 0.800 [0.700, 0.900] | 0.800 [0.700, 0.900] |  | unknown |  |"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": None}, "plan.yaml: rungs: keep is missing: say which share"),
        ({"rungs": ...}, "plan.yaml: keep: there are no rungs: list rungs, or leave it out"),
        ({"rungs": []}, "plan.yaml: rungs: tuple should have at least 2 items"),
        ({"rungs": [{}]}, "plan.yaml: rungs: tuple should have at least 2 items"),
        ({"rungs": {"train.epochs": 1}}, "plan.yaml: rungs: input should be a valid tuple"),
        ({"rungs": [{}, None]}, r"plan.yaml: rungs\.1: input should be a valid dictionary"),
        ({"keep": 0}, "plan.yaml: keep: input should be greater than 0"),
        ({"keep": 1}, "plan.yaml: keep: input should be less than 1"),
        ({"keep": 1.5}, "plan.yaml: keep: input should be less than 1"),
        ({"keep": "half"}, "plan.yaml: keep: input should be a valid number"),
        ({"keep": float("nan")}, "plan.yaml: keep: input should be"),
        (
            {"rungs": [{}, {"train.epoch": 3}]},
            r"plan.yaml: rungs\.1: override train\.epoch: .* no such parameter",
        ),
        (
            {"rungs": [{"train.epochs": 0}, {}]},
            r"plan.yaml: rungs\.0: params.yaml: train.epochs = 0: input",
        ),
        (
            {"rungs": [{"split.mode": "patch"}, {}]},
            r"plan.yaml: rungs\.0: override split\.mode: the experiment sets it itself",
        ),
        (
            {"rungs": [{}, {"split.folds.test_fold": 1}]},
            r"plan.yaml: rungs\.1: override split\.folds\.test_fold: the experiment sets it",
        ),
        (  # either is possible, both are not
            {
                "variants": {"large_test": {"split.fractions.test": 0.5}},
                "rungs": [{}, {"split.fractions.val": 0.5}],
            },
            r"plan.yaml: rungs\.1: large_test: params.yaml: split\.fractions",
        ),
        (
            {"variants": {"long": {"train.epochs": 9}}, "rungs": [{"train.epochs": 1}, {}]},
            r"plan.yaml: rungs\.0: long: here it is the same as the base: let the variant change",
        ),
        (
            {"rungs": [{}, {"seeds.training": 18}]},
            r"plan.yaml: rungs\.1: again: here it is the same as the base",
        ),
        (
            {"variants": {"v": {"train.epochs": 0}}},
            "plan.yaml: v: params.yaml: train.epochs = 0: input",
        ),
    ],
)
def test_screen_when_the_rungs_are_wrong_then_one_line_says_so_and_nothing_runs(
    project, capsys, changes, message
):
    content = {key: value for key, value in (PLAN | changes).items() if value is not ...}
    (project / "plan.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main(["screen", "plan.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("idc screen: error: ")
    with pytest.raises(InputError, match=message):
        raise InputError(line)
    assert not (project / ".workspaces").exists()
