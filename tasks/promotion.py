"""Champion against challenger, as a task."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from idc.core.files import load_json
from idc.core.layout import DECISION
from tasks.stages import run_attended


@task(cache_policy=NO_CACHE)
def compare_models(root: Path) -> dict[str, Any]:
    """Compare the challenger with the champion on the gate of `root`; promote it or not.

    Not retried automatically: a person should look at the failure first, and the next run repairs
    the log.

    Returns:
        The content of `reports/decision.json`.

    Raises:
        StageFailedError: With the reason, such as an empty gate.
        TransientError: If the tracking server does not answer.
    """
    run_attended("promote", ["idc", "promote"], root)
    decision: dict[str, Any] = load_json(root / DECISION)
    create_markdown_artifact(format_decision(decision), key="decision", description="Promotion")
    return decision


def format_decision(decision: dict[str, Any]) -> str:
    """Return a decision as Markdown."""
    verdict = "is promoted" if decision["promote"] else "is not promoted"
    lines = [f"{decision['model']} version {decision['challenger']['version']} {verdict}.", ""]
    lines += [
        f"- {'holds' if reason['holds'] else '**fails**'}: {reason['rule']}: {reason['text']}"
        for reason in decision["reasons"]
    ]
    lines += [f"- warning: {warning}" for warning in decision["warnings"]]
    return "\n".join(lines) + "\n"
