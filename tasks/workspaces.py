"""Where a flow runs, in place or in a workspace of its own, and what a finished run leaves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE

from idc.core.config import load_params
from idc.core.layout import CASE_SUBSETS, PARAMS, UNCOMMITTED
from idc.ops.logs import rotate_logs
from idc.runs.record import keep_case_subsets, record_run
from idc.runs.workspace import WORKSPACES, describe_workspace, is_workspace, open_workspace


def choose_root(root: Path, overrides: Mapping[str, Any]) -> Path:
    """Return the folder in which this flow run works.

    A run of a deployment, and any run with overrides, gets a workspace named after it, and
    continues there if it is retried. With overrides it does not move the alias `challenger`, unless
    they say so.

    Args:
        root: The project.
        overrides: New parameter values by dotted key.

    Raises:
        InputError: If an override names no parameter or breaks its rule.
    """
    if not overrides and runtime.deployment.id is None:
        return root
    rotate_logs(root)
    own = {"publish.move_challenger": False, **overrides} if overrides else {}
    # the name alone need not be unique
    name = f"{runtime.flow_run.name}-{runtime.flow_run.id[:8]}"
    folder = open_workspace(root, WORKSPACES / name, own)
    logger = get_run_logger()
    logger.info(f"workspace {folder}, code {describe_workspace(folder).commit}")
    if (folder / UNCOMMITTED).exists():
        logger.warning(f"the code is not committed; the difference: {folder / UNCOMMITTED}")
    return folder


@task(cache_policy=NO_CACHE)
def keep_subsets(root: Path) -> None:
    """Add the subsets of new cases to the project's file, if this run's model may be promoted.

    Raises:
        InputError: If another run has assigned a case to another subset in the meantime.
    """
    if not is_workspace(root) or not load_params(root / PARAMS).publish.move_challenger:
        return
    if num_cases := keep_case_subsets(root):
        get_run_logger().info(
            f"{num_cases} new cases are in {CASE_SUBSETS} of the project: commit it"
        )


@task(cache_policy=NO_CACHE)
def record_results(root: Path) -> str | None:
    """Commit and tag the results of a run in a workspace; in place, or without git, do nothing.

    Raises:
        InputError: If git fails.
    """
    tag = record_run(root) if is_workspace(root) else None
    if tag is not None:
        get_run_logger().info(f"recorded as {tag}: `idc adopt {tag}` brings it into a branch")
    return tag
