"""New data: whether there is any, and whether it resembles the champion's training data."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact

from idc.core.config import load_params
from idc.core.errors import InputError, StageFailedError, StoreUnavailableError, TransientError
from idc.core.files import load_json
from idc.core.layout import DRIFT, PARAMS
from idc.lifecycle.intake import NewData, find_new_data
from idc.ops.logs import rotate_logs
from tasks.stages import RETRIED, run_attended


@task(**RETRIED)
def check_new_data(root: Path) -> NewData:
    """Say whether the archive holds anything that the challenger was not trained on.

    Raises:
        StageFailedError: If there is no archive, or it is inconsistent.
        TransientError: If the tracking server does not answer.
    """
    rotate_logs(root)  # between two runs of a schedule nobody else looks after them
    try:
        return find_new_data(root, load_params(root / PARAMS))
    except InputError as error:
        raise StageFailedError(f"intake: {error}") from None
    except StoreUnavailableError as error:
        raise TransientError(str(error)) from None


@task(**RETRIED)
def report_drift(root: Path) -> dict[str, Any] | None:
    """Compare the ingested archive with the champion's training profile; show it in Prefect.

    Returns:
        The content of `reports/drift.json`; None if there is no champion, or it has no profile.

    Raises:
        StageFailedError: If it cannot be measured.
        TransientError: If the tracking server does not answer.
    """
    (root / DRIFT).unlink(missing_ok=True)
    run_attended("drift", ["idc", "drift"], root)
    if not (root / DRIFT).exists():
        return None
    report: dict[str, Any] = load_json(root / DRIFT)
    create_markdown_artifact(format_drift(report), key="drift", description="New data")
    return report


def format_drift(report: dict[str, Any]) -> str:
    """Return a drift report as Markdown."""
    lines = [
        f"Compared with the training data of version {report['champion']}: "
        f"{report['num_new_cases']} new, "
        f"{report['num_changed_cases']} changed, {report['num_missing_cases']} missing cases; "
        f"{report['num_patches']} new patches.",
        "",
        "| figure | training | new | shift | beyond its limit |",
        "|---|---|---|---|---|",
    ]
    for name, figure in report.get("figures", {}).items():
        before, now = (
            format(figure[key], ".4g") if key in figure else "" for key in ("training", "new")
        )
        shift = figure.get("shift", figure.get("difference"))
        shown = figure.get("reason", "") if shift is None else format(shift, "+.3f")
        lines.append(
            f"| {name} | {before} | {now} | {shown} | {'**yes**' if figure['drifted'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"
