"""The alias champion moves on evidence alone, in one step, and can be taken back."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml

from idc.core import layout
from idc.core.errors import InputError
from idc.core.files import load_json
from idc.lifecycle.promotion import promote as module
from idc.lifecycle.promotion.promote import promote, rollback
from tests.promotion.conftest import SUBSETS, make_splits, score_with_errors


@pytest.fixture
def score_as(monkeypatch):
    """`score_as(.4, .1)`: the first model scored errs in 40 % of the patches, the second in 10 %.

    The champion is scored before the challenger.
    """

    def prepare(*error_shares):
        shares = iter(error_shares)
        monkeypatch.setattr(
            module,
            "score_gate",
            lambda gate, *_: score_with_errors(gate.y_true, next(shares)),
        )

    return prepare


def run(project, **options):
    return promote(project.root, project.params, **{"dry_run": False, **options})


def test_promote_when_there_is_no_champion_then_a_model_above_the_minimum_becomes_it(
    project, score_as
):
    version = project.add_version("r1")
    score_as(0.1)
    assert run(project).promoted
    assert project.champion() == version


def test_promote_when_there_is_no_champion_then_a_model_below_the_minimum_does_not(
    project, score_as
):
    project.add_version("r1")
    score_as(0.4)
    outcome = run(project)
    assert not outcome.promoted
    assert outcome.content["reasons"][0]["rule"] == "minimum for the first champion"
    assert project.champion() is None


def test_promote_when_the_challenger_is_better_then_the_alias_moves_and_all_is_said(
    project, score_as
):
    champion = project.add_version("r1", alias="champion")
    challenger = project.add_version("r2")
    score_as(0.3, 0.1)
    assert run(project).promoted
    assert project.champion() == challenger
    content = load_json(project.root / layout.DECISION)
    assert (content["champion"]["version"], content["challenger"]["version"]) == (
        champion, challenger,
    )  # fmt: skip
    assert content["champion"]["gate_digest"] == content["challenger"]["gate_digest"]
    assert content["challenger"]["test"] == {"auroc": 0.9}
    assert {reason["rule"] for reason in content["reasons"]} == {
        "superiority", "sensitivity margin", "calibration margin",
    }  # fmt: skip
    difference = content["figures"]["differences"]["balanced_accuracy"]
    assert difference["low"] < difference["value"] < difference["high"]
    (entry,) = project.registry().entries()
    assert (entry.kind, entry.state, entry.version) == ("promote", "done", challenger)
    with project.registry().run_file(project.registry().load(challenger), "splits.csv") as path:
        assert path is not None


def test_promote_when_the_models_are_equal_then_the_champion_stays(project, score_as):
    champion = project.add_version("r1", alias="champion")
    project.add_version("r2")
    score_as(0.1, 0.1)
    assert not run(project).promoted
    assert project.champion() == champion
    assert [entry.kind for entry in project.registry().entries()] == ["keep"]


def test_promote_when_dry_then_decides_and_counts_the_look_but_moves_nothing(project, score_as):
    champion = project.add_version("r1", alias="champion")
    project.add_version("r2")
    score_as(0.3, 0.1)
    outcome = run(project, dry_run=True)
    assert outcome.content["promote"]
    assert project.champion() == champion
    assert outcome.content["looks"] == 1


def test_promote_when_looks_exceed_their_number_then_warns(project, score_as, monkeypatch):
    project.add_version("r1", alias="champion")
    monkeypatch.setattr(module, "MAX_LOOKS", 1)
    for number in (2, 3):
        project.add_version(f"r{number}")
        score_as(0.1, 0.1)
        outcome = run(project)
    assert outcome.content["looks"] == 2
    assert "2 comparisons have looked at this gate, more than 1" in outcome.content["warnings"][0]


def test_promote_when_the_same_models_are_compared_again_then_it_is_no_further_look(
    project, score_as
):
    project.add_version("r1", alias="champion")
    project.add_version("r2")
    for _ in range(2):
        score_as(0.1, 0.1)
        outcome = run(project)
    assert outcome.content["looks"] == 1


@pytest.mark.parametrize("subset", ["train", "val"])
@pytest.mark.parametrize("alias", ["champion", "challenger"])
def test_promote_when_a_model_has_seen_a_gate_case_then_refuses_naming_both(project, subset, alias):
    other = "challenger" if alias == "champion" else "champion"
    seen = make_splits({**SUBSETS, subset: ["g05", "x1"], "gate": ["x2"]})
    project.add_version("r1", alias=other)
    version = project.add_version("r2", alias=alias, splits=seen)
    with pytest.raises(InputError, match=f"version {version} has seen 1 gate case.*g05"):
        run(project)


def test_promote_when_a_model_does_not_say_what_it_has_seen_then_refuses(project):
    project.add_version("r1", splits=False)
    with pytest.raises(InputError, match="does not say which cases"):
        run(project)


def test_promote_when_the_gate_is_empty_then_says_how_to_fill_it(project):
    project.add_version("r1")
    save(project, project.splits[project.splits["split"] != "gate"])
    with pytest.raises(InputError, match="gate is empty"):
        run(project)


def test_promote_when_the_gate_has_one_class_then_refuses(project):
    project.add_version("r1")
    gate = project.splits["split"] == "gate"
    save(project, project.splits[~gate | (project.splits["label"] == 0)])
    with pytest.raises(InputError, match="all IDC-"):
        run(project)


def save(project, splits):
    splits.to_csv(project.root / layout.SPLITS, index=False)


def test_promote_when_pixels_change_between_the_two_scorings_then_refuses(project, monkeypatch):
    project.add_version("r1", alias="champion")
    project.add_version("r2")

    def score_and_change(gate, *_):
        pixels = np.load(project.root / layout.PIXELS)
        pixels[gate.patches["row"].iloc[0]] += 1
        np.save(project.root / layout.PIXELS, pixels)
        gate.__dict__["pixels"] = pixels
        return score_with_errors(gate.y_true, 0.1)

    monkeypatch.setattr(module, "score_gate", score_and_change)
    with pytest.raises(InputError, match="changed while they were scored"):
        run(project)


def test_promote_when_the_challenger_is_the_champion_then_there_is_nothing_to_decide(project):
    version = project.add_version("r1")
    project.client.set_registered_model_alias(
        project.params.publish.model_name, "champion", version
    )
    outcome = run(project)
    assert (outcome.promoted, outcome.champion) == (False, version)
    assert "is the champion already" in outcome.content["reasons"][0]["text"]
    assert project.registry().entries() == []


def test_promote_when_nothing_is_registered_then_says_so(project):
    with pytest.raises(InputError, match="no version with the alias challenger"):
        run(project)


def test_promote_when_scoring_for_real_then_two_equal_models_differ_by_nothing(project):
    project.add_version("r1", alias="champion")
    project.add_version("r2")
    outcome = run(project)
    assert not outcome.promoted
    assert outcome.content["figures"]["differences"]["auroc"]["value"] == 0.0


def test_rollback_when_called_twice_then_goes_two_champions_back(project, score_as):
    first = project.add_version("r1")
    score_as(0.2)
    run(project)
    second = project.add_version("r2")
    score_as(0.2, 0.1)
    run(project)
    third = project.add_version("r3")
    score_as(0.1, 0.0)
    run(project)
    assert project.champion() == third
    assert rollback(project.root, project.params) == (third, second)
    assert rollback(project.root, project.params) == (second, first)
    assert project.champion() == first
    with pytest.raises(InputError, match="no earlier champion"):
        rollback(project.root, project.params)
    kinds = [entry.kind for entry in project.registry().entries()]
    assert kinds == ["promote"] * 3 + ["rollback"] * 2


HALF_WAY = """
import sys
from pathlib import Path
from mlflow.tracking import MlflowClient
from idc.core.config import load_params
from idc.lifecycle.promotion import promote as module
from idc.tracking.registry import Registry
from tests.promotion.conftest import score_with_errors

shares = iter((0.3, 0.1))
module.score_gate = lambda gate, *_: score_with_errors(gate.y_true, next(shares))
write = {write}

def stop(self, *arguments, **options):
    if {after}:
        write(self, *arguments, **options)
    print("half-way", flush=True)
    sys.stdin.read()

{write} = stop
module.{command}
"""
PROMOTE = 'promote(Path.cwd(), load_params(Path("params.yaml")), dry_run=False)'
ROLL_BACK = 'rollback(Path.cwd(), load_params(Path("params.yaml")))'


@pytest.fixture
def kill_half_way(project, project_root):
    """`kill_half_way(command, write, after=…)`: a process that is killed beside that write."""

    def kill(command, write, *, after):
        (project.root / "params.yaml").write_text(
            yaml.safe_dump(project.params.model_dump(mode="json"))
        )
        code = HALF_WAY.format(command=command, write=write, after=after)
        with subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=project.root,
            env=os.environ | {"PYTHONPATH": f"{project_root}/src:{project_root}"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout.readline() == "half-way\n"
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL

    return kill


def states(project):
    return [entry.state for entry in project.registry().entries()]


def ends(project):
    """How the log's runs stand in MLflow, oldest first."""
    client = project.client
    return [client.get_run(entry.run_id).info.status for entry in project.registry().entries()]


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_promote_when_killed_beside_the_move_then_the_alias_is_whole_and_the_log_is_mended(
    project, score_as, kill_half_way, after
):
    champion = project.add_version("r1", alias="champion")
    challenger = project.add_version("r2")
    kill_half_way(PROMOTE, "Registry.move_champion", after=after)
    assert project.champion() == (challenger if after else champion)
    assert states(project) == ["decided"]
    if after:
        assert rollback(project.root, project.params) == (challenger, champion)
    else:
        score_as(0.3, 0.1)
        assert run(project).promoted
    assert states(project) == (["done", "done"] if after else ["interrupted", "done"])
    assert ends(project) == (["FINISHED"] * 2 if after else ["KILLED", "FINISHED"])


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_rollback_when_killed_beside_the_move_then_the_alias_is_whole_and_the_log_is_mended(
    project, score_as, kill_half_way, after
):
    first = project.add_version("r1")
    score_as(0.2)
    run(project)
    second = project.add_version("r2")
    score_as(0.2, 0.1)
    run(project)
    kill_half_way(ROLL_BACK, "Registry.move_champion", after=after)
    assert project.champion() == (first if after else second)
    assert states(project) == ["done", "done", "decided"]
    if after:  # it is back already, and there is nothing before it
        with pytest.raises(InputError, match="no earlier champion"):
            rollback(project.root, project.params)
    else:
        assert rollback(project.root, project.params) == (second, first)
    assert project.champion() == first
    assert states(project)[2:] == (["done"] if after else ["interrupted", "done"])
    assert ends(project)[2:] == (["FINISHED"] if after else ["KILLED", "FINISHED"])


@pytest.mark.slow
def test_rollback_when_killed_then_a_dry_run_too_closes_the_log(project, score_as, kill_half_way):
    champion = project.add_version("r1", alias="champion")
    project.add_version("r2")
    score_as(0.3, 0.1)
    run(project)
    kill_half_way(ROLL_BACK, "Registry.move_champion", after=True)
    score_as(0.3, 0.1)
    assert run(project, dry_run=True).content["promote"]
    assert project.champion() == champion
    assert states(project) == ["done"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_log_when_killed_while_an_entry_is_closed_then_the_next_command_closes_it_whole(
    project, score_as, kill_half_way, after
):
    project.add_version("r1", alias="champion")
    challenger = project.add_version("r2")
    kill_half_way(PROMOTE, "MlflowClient.set_terminated", after=after)
    assert project.champion() == challenger
    assert not run(project, dry_run=True).promoted
    assert project.champion() == challenger
    assert (states(project), ends(project)) == (["done"], ["FINISHED"])
