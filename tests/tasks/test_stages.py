import asyncio

import pytest
from prefect.states import Failed

from idc.ops.process_group import Finished
from tasks.stages import (
    StageFailedError,
    TransientError,
    _passes_by_itself,
    _require_success,
    last_error_line,
    result_rows,
    run_stage,
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
        _require_success("sample", Finished(1, FAILED))


def test_failure_when_the_repo_lock_is_held_then_it_is_worth_another_try():
    lines = ("ERROR: Unable to acquire lock. Most likely another DVC process is running",)
    with pytest.raises(TransientError):
        _require_success("train", Finished(1, lines))


def test_failure_when_a_stage_runs_elsewhere_then_it_is_final():
    lines = (
        "ERROR: '/x/data' is busy, it is being blocked by:",
        "  (PID 12): dvc repro",
        "If there are no processes with such PIDs, you can manually remove '/x' and try again.",
    )
    with pytest.raises(StageFailedError, match=r"^train: runs elsewhere .*\(PID 12\): dvc repro"):
        _require_success("train", Finished(1, lines))


def test_failure_when_the_tracking_server_is_away_then_it_is_worth_another_try():
    lines = (
        "idc publish: try again: tracking server http://x does not answer",
        "ERROR: failed to reproduce 'publish': failed to run: python -m idc publish, "
        "exited with 75",
    )
    with pytest.raises(TransientError, match="does not answer"):
        _require_success("publish", Finished(1, lines))


def test_last_error_line_when_nothing_was_said_then_it_says_so():
    assert last_error_line(()) == "no output"


@pytest.mark.parametrize(
    ("error", "retried"), [(TransientError("lock"), True), (StageFailedError("its own"), False)]
)
def test_retry_when_a_stage_fails_then_only_what_passes_by_itself_is_tried_again(error, retried):
    assert asyncio.run(_passes_by_itself(run_stage, None, Failed(data=error))) is retried
    assert run_stage.retries > 0


def test_was_run_when_a_stage_came_back_from_the_cache_then_it_did_not_run():
    cached = ("Stage 'train' is cached - skipping run, checking out outputs",)
    assert was_run("train", ("Running stage 'train':", "> python -m idc train"))
    assert not was_run("train", cached)
    assert not was_run("train", ("Running stage 'predict':",))


def test_result_rows_when_a_metric_lacks_a_companion_then_its_cell_is_empty():
    metrics = {
        f"{subset}/{name}{end}": 0.5
        for subset, names in {
            "test": ("auroc", "brier"), "test_context": ("auroc",), "test_colour": ("auroc",),
            "val": ("auroc",),
        }.items()
        for name in names
        for end in ("", "_low", "_high")
    }  # fmt: skip
    auroc, brier = result_rows(metrics | {"test/num_cases": 5})
    assert (auroc["metric"], brier["metric"]) == ("auroc", "brier")
    assert (auroc["with neighbours"], auroc["colour baseline"]) == (0.5, 0.5)
    assert (brier["with neighbours"], brier["colour baseline"]) == ("", "")
