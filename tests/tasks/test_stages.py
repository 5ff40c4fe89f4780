import asyncio

import pytest
from prefect.states import Failed

from idc.core.errors import StageFailedError, TransientError
from tasks.stages import _passes_by_itself, result_rows, run_stage


@pytest.mark.parametrize(
    ("error", "retried"), [(TransientError("lock"), True), (StageFailedError("its own"), False)]
)
def test_retry_when_a_stage_fails_then_only_what_passes_by_itself_is_tried_again(error, retried):
    assert asyncio.run(_passes_by_itself(run_stage, None, Failed(data=error))) is retried
    assert run_stage.retries > 0


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
