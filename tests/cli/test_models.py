"""What the commands about model versions print, and how they end; what they do is tested apart."""

import pytest

from idc.cli import EXIT_FAILED, main
from idc.lifecycle import intake
from idc.lifecycle.promotion import promote
from idc.lifecycle.reproduction import chain, rebuild
from idc.runs import adoption

DECISION = {
    "model": "idc-fusion",
    "challenger": {"version": "4"},
    "reasons": [
        {"rule": "better", "holds": True, "text": "AUROC +.02"},
        {"rule": "calibrated", "holds": False, "text": "ECE .2"},
    ],
    "warnings": ["few cases"],
}


@pytest.fixture
def said(project, capsys):
    """`said("drift")`: run a command and return the lines that it printed."""

    def run(*arguments, code=0):
        assert main(arguments) == code
        return capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize(
    ("dry_run", "better", "promoted", "verdict"),
    [
        (True, True, False, "would be promoted"),
        (True, False, False, "would not be promoted"),
        (False, True, True, "is the champion now"),
        (False, False, False, "is not promoted"),
        # the decision was for it, but another process moved the alias first
        (False, True, False, "is not promoted"),
    ],
)
def test_promote_when_decided_then_gives_each_rule_and_the_verdict(
    said, monkeypatch, dry_run, better, promoted, verdict
):
    def decide(root, params, *, dry_run):
        asked.append(dry_run)
        return promote.Outcome(promoted, "3", DECISION | {"promote": better})

    asked = []
    monkeypatch.setattr(promote, "promote", decide)
    assert said("promote", *["--dry-run"] * dry_run) == [
        "holds  better: AUROC +.02",
        "FAILS  calibrated: ECE .2",
        "warning: few cases",
        f"idc-fusion version 4 {verdict} (reports/decision.json)",
    ]
    assert asked == [dry_run]


def test_rollback_when_done_then_names_the_champion_of_now_and_of_before(said, monkeypatch):
    monkeypatch.setattr(promote, "rollback", lambda *_: ("4", "3"))
    assert said("rollback") == ["idc-fusion version 3 is the champion again, not 4"]


@pytest.mark.parametrize(
    ("drifted", "named"), [([], "nothing"), (["stain", "burden"], "stain, burden")]
)
def test_drift_when_measured_then_counts_cases_and_names_what_is_beyond_its_limit(
    said, monkeypatch, drifted, named
):
    report = {
        "num_new_cases": 5, "num_changed_cases": 1, "num_patches": 640, "drifted": drifted,
    }  # fmt: skip
    monkeypatch.setattr(intake, "write_drift_report", lambda *_: report)
    assert said("drift") == [
        f"5 new and 1 changed cases, 640 patches; beyond its limit: {named} (reports/drift.json)"
    ]


def test_drift_when_there_is_no_champion_then_prints_nothing_and_does_not_fail(said, monkeypatch):
    monkeypatch.setattr(intake, "write_drift_report", lambda *_: None)
    assert said("drift") == []


def test_lineage_when_traced_then_prints_a_link_a_line(said, monkeypatch):
    def trace(root, params, version):
        assert version == "3"
        return [chain.Link("commit", "abc", "in this clone"), chain.Link("manifest", None)]

    monkeypatch.setattr(chain, "trace", trace)
    assert said("lineage", "3") == [
        "commit         abc (in this clone)", "manifest       not known",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bit_equal", "reproduced", "bits", "verdict"),
    [
        (True, True, "every bit agrees", "is reproduced"),
        (False, True, "not bit for bit", "is reproduced"),
        (False, False, "not bit for bit", "is NOT reproduced"),
    ],
)
def test_reproduce_when_made_again_then_says_what_differs_and_fails_where_it_is_another_model(
    said, monkeypatch, bit_equal, reproduced, bits, verdict
):
    def reproduce(root, params, version):
        assert version == "7"
        return rebuild.Reproduction(
            num_patches=120, same_environment=False, different={"torch": ("2.8", "2.9")},
            bit_equal=bit_equal, max_logit_difference=0.00123456, reproduced=reproduced,
        )  # fmt: skip

    monkeypatch.setattr(rebuild, "reproduce", reproduce)
    assert said("reproduce", "7", code=0 if reproduced else EXIT_FAILED) == [
        "torch: 2.8 when it was trained, 2.9 here",
        f"120 patches: {bits}, largest logit difference 0.00123",
        f"idc-fusion version 7 {verdict}",
    ]


@pytest.mark.parametrize("changed_raw", [False, True])
@pytest.mark.parametrize("changed_code", [(), ("src/a.py", "src/b.py")])
def test_adopt_when_done_then_names_the_commit_and_all_that_will_run_again(
    said, monkeypatch, changed_code, changed_raw
):
    adopted = adoption.Adopted("0123456789abcdef", changed_code, changed_raw)
    monkeypatch.setattr(adoption, "adopt_run", lambda root, tag: adopted)
    first, *others = said("adopt", "idc-run/1")
    assert first.startswith("idc-run/1 is in the branch as 0123456789ab;")
    code = [line for line in others if "in src/a.py, src/b.py:" in line]
    raw = [line for line in others if "ingest runs again" in line]
    assert (len(code), len(raw)) == (bool(changed_code), changed_raw)
    assert len(others) == len(code) + len(raw)
