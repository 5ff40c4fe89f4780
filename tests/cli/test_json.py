"""What scripts read: one JSON object on standard output, whatever else is logged."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from idc.cli import EXIT_FAILED, main
from idc.lifecycle import intake
from idc.lifecycle.promotion import promote
from idc.lifecycle.reproduction import chain
from idc.ops import doctor, inputs
from idc.runs import plan, retention
from idc.tracking import orphans, registry


@pytest.fixture
def answer(project, capsys):
    """Run a command with `--json` and return what it printed."""

    def run(*arguments, code=0):
        assert main([*arguments, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


def test_doctor_when_something_is_missing_then_each_finding_has_its_fix(answer, monkeypatch):
    findings = [
        doctor.Finding("weights", "ok", "none"),
        doctor.Finding("raw archive", "missing", "no archive", "dvc pull"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda *_: findings)
    found = answer("doctor", code=EXIT_FAILED)["findings"]
    assert found[1] == {
        "what": "raw archive", "state": "missing", "said": "no archive", "fix": "dvc pull",
    }  # fmt: skip


def test_check_when_all_is_there_then_says_ok(answer, monkeypatch):
    monkeypatch.setattr(inputs, "require_inputs", lambda *_, **__: None)
    assert answer("check") == {"ok": True}


def test_plan_when_a_stage_would_run_then_its_reasons_are_listed(answer, monkeypatch):
    planned = [plan.PlannedStage("train", ("train.epochs modified",), ("split",))]
    monkeypatch.setattr(plan, "plan_run", lambda _: planned)
    assert answer("plan") == {
        "stages": [
            {"name": "train", "reasons": ["train.epochs modified"], "after": ["split"],
             "restorable": False}
        ]
    }  # fmt: skip


def test_promote_when_dry_then_the_decision_is_printed_and_nothing_was_promoted(
    answer, monkeypatch
):
    def decide(root, params, *, dry_run):
        assert dry_run
        return promote.Outcome(False, "1", {"promote": True, "model": "idc"})

    monkeypatch.setattr(promote, "promote", decide)
    assert answer("promote", "--dry-run") == {"promote": True, "model": "idc", "promoted": False}


def test_drift_when_there_is_no_champion_then_null(answer, monkeypatch):
    monkeypatch.setattr(intake, "write_drift_report", lambda *_: None)
    assert answer("drift") is None


def test_lineage_when_a_link_is_not_known_then_its_value_is_null(answer, monkeypatch):
    monkeypatch.setattr(chain, "trace", lambda *_: [chain.Link("manifest", None, "no lock")])
    assert answer("lineage", "3") == {
        "links": [{"name": "manifest", "value": None, "remark": "no lock"}]
    }


def test_gc_when_something_would_go_then_it_is_listed_and_stays(answer, project, monkeypatch):
    workspace = SimpleNamespace(folder=project / ".workspaces/old", opened=datetime.now(UTC))
    garbage = retention.Garbage((workspace,), ("idc-run/1",))
    monkeypatch.setattr(retention, "find_garbage", lambda *_: garbage)
    monkeypatch.setattr(retention, "list_workspaces", lambda _: [workspace])
    monkeypatch.setattr(registry, "list_aliased_digests", lambda _: set())
    monkeypatch.setattr(orphans, "list_orphans", lambda _: ["r1"])
    monkeypatch.setattr(retention, "remove_garbage", pytest.fail)
    assert answer("gc") == {
        "workspaces": [".workspaces/old"], "tags": ["idc-run/1"], "mlflow_runs": ["r1"],
        "leftovers": [], "mlflow_deleted": [], "cache_files": 0, "freed_mb": 0.0,
        "removed": False, "cache_command": "dvc gc --workspace",
    }  # fmt: skip
