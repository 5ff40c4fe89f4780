import pytest

from idc.core.errors import StageFailedError, TransientError
from idc.ops import stage_runner
from idc.ops.process_group import Finished
from idc.ops.stage_runner import (
    StageRunner,
    Watch,
    last_error_line,
    require_success,
    run_command,
    was_run,
)

FAILED = (
    "Running stage 'sample':",
    "> python -m idc sample",
    "idc sample: error: the pool holds no IDC+ patch (label 1): complete the archive",
    "ERROR: failed to reproduce 'sample': failed to run: python -m idc sample, exited with 2",
)


def test_failure_when_a_stage_fails_then_its_own_last_line_is_the_message():
    with pytest.raises(StageFailedError, match=r"^sample: the pool holds no IDC\+ patch"):
        require_success("sample", Finished(1, FAILED))


def test_failure_when_the_repo_lock_is_held_then_it_is_worth_another_try():
    lines = ("ERROR: Unable to acquire lock. Most likely another DVC process is running",)
    with pytest.raises(TransientError):
        require_success("train", Finished(1, lines))


def test_failure_when_a_stage_runs_elsewhere_then_it_is_final():
    lines = (
        "ERROR: '/x/data' is busy, it is being blocked by:",
        "  (PID 12): dvc repro",
        "If there are no processes with such PIDs, you can manually remove '/x' and try again.",
    )
    with pytest.raises(StageFailedError, match=r"^train: runs elsewhere .*\(PID 12\): dvc repro"):
        require_success("train", Finished(1, lines))


def test_failure_when_the_tracking_server_is_down_then_it_is_worth_another_try():
    lines = (
        "idc publish: try again: tracking server http://x does not answer",
        "ERROR: failed to reproduce 'publish': failed to run: python -m idc publish, "
        "exited with 75",
    )
    with pytest.raises(TransientError, match="does not answer"):
        require_success("publish", Finished(1, lines))


def test_last_error_line_when_nothing_was_said_then_it_says_so():
    assert last_error_line(()) == "no output"


def test_was_run_when_a_stage_came_back_from_the_cache_then_it_did_not_run():
    cached = ("Stage 'train' is cached - skipping run, checking out outputs",)
    assert was_run("train", ("Running stage 'train':", "> python -m idc train"))
    assert not was_run("train", cached)
    assert not was_run("train", ("Running stage 'predict':",))


def test_run_command_when_it_ends_then_its_lines_were_seen_or_its_own_error_is_raised(tmp_path):
    (tmp_path / "spoken.py").write_text(
        "import sys; print('idc check: error: no archive'); sys.exit(int(sys.argv[1]))"
    )
    lines = []
    assert run_command("check", ["spoken", "0"], tmp_path, Watch(lines.append)).returncode == 0
    assert lines == ["idc check: error: no archive"]
    with pytest.raises(StageFailedError, match=r"^check: no archive$"):
        run_command("check", ["spoken", "2"], tmp_path, Watch(lines.append))
    with pytest.raises(TransientError):
        run_command("check", ["spoken", "75"], tmp_path, Watch(lines.append))


def attempts(monkeypatch, *outcomes):
    """Let the stage end so, one outcome after the other; return the attempts made."""
    made = []

    def reproduce(stage, root, watch):
        made.append(stage)
        outcome = outcomes[len(made) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(stage_runner, "reproduce_stage", reproduce)
    return made


def test_stage_runner_when_a_lock_is_held_for_a_while_then_it_tries_again_and_says_so(
    monkeypatch, tmp_path
):
    made = attempts(monkeypatch, TransientError("train: lock"), TransientError("train: lock"), True)
    lines = []
    assert StageRunner(Watch(lines.append), wait_s=0.0).run_stage("train", tmp_path)
    assert made == ["train"] * 3
    assert lines == ["train: lock: retrying in 0 s"] * 2


def test_stage_runner_when_a_lock_stays_held_then_it_gives_up(monkeypatch, tmp_path):
    made = attempts(monkeypatch, *[TransientError("train: lock")] * 3)
    runner = StageRunner(Watch(str), num_retries=2, wait_s=0.0)
    with pytest.raises(TransientError, match="lock"):
        runner.run_stage("train", tmp_path)
    assert len(made) == 3


def test_stage_runner_when_a_stage_fails_by_itself_then_it_is_not_tried_again(
    monkeypatch, tmp_path
):
    made = attempts(monkeypatch, StageFailedError("train: its own"), True)
    with pytest.raises(StageFailedError):
        StageRunner(Watch(str), wait_s=0.0).run_stage("train", tmp_path)
    assert len(made) == 1
