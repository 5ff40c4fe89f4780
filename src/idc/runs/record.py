"""A finished run of a workspace: its files recorded under a tag, its new subsets kept."""

from pathlib import Path

from filelock import FileLock

from idc.core.errors import InputError
from idc.core.files import load_json, replacing_file
from idc.core.git import git, has_commit
from idc.core.layout import CASE_SUBSETS, DVC_LOCK, PARAMS, PUBLISHED, STATE
from idc.data.split.case_subsets import join_case_subsets
from idc.runs.lineage import find_pointers, load_lock, result_digest
from idc.runs.tags import commit_of, tag_of
from idc.runs.workspace import describe_workspace


def record_run(workspace: Path) -> str | None:
    """Commit a finished run's lock, parameters, subsets and raw pointers, and tag the commit.

    The tag survives the workspace. A result that already has a tag keeps it.

    Returns:
        The tag, such as `idc-run/1234567890ab`; None without git.

    Raises:
        InputError: If nothing has run in the workspace, or git fails.
    """
    digest = result_digest(load_lock(workspace))
    if not has_commit(workspace):
        return None
    tag = tag_of(digest)
    if commit_of(workspace, tag) is not None:
        return tag
    pointers = [path.relative_to(workspace) for path in find_pointers(workspace)]
    files = [PARAMS, DVC_LOCK, CASE_SUBSETS, *pointers]
    there = [str(path) for path in files if (workspace / path).exists()]
    git(workspace, "add", "--force", "--", *there)
    published = load_json(workspace / PUBLISHED)
    git(
        workspace, "commit", "--quiet", "--allow-empty",
        "-m", f"Results of {workspace.name}",
        "-m", f"result digest {digest}\nMLflow run {published['run_id']}\n"
        f"model {published['model_name']} version {published['model_version']}",
    )  # fmt: skip
    git(workspace, "tag", tag, "HEAD")
    return tag


def keep_case_subsets(workspace: Path) -> int:
    """Add the subsets that a workspace's split gave to new cases to the project's own file.

    They are permanent: a later run must not reassign a case that a model of this one was trained
    on. Concurrent runs wait for each other.

    Returns:
        The number of cases added.

    Raises:
        InputError: If the project's file now contradicts them.
    """
    root = describe_workspace(workspace).root
    path, theirs = root / CASE_SUBSETS, (workspace / CASE_SUBSETS).read_text(encoding="utf-8")
    (root / STATE).mkdir(exist_ok=True)
    with FileLock(root / STATE / "case_subsets.lock"):
        ours = path.read_text(encoding="utf-8") if path.exists() else ""
        try:
            joined = join_case_subsets(ours, theirs)
        except InputError as error:
            raise InputError(f"{path}: {error}; run again on today's data") from None
        if joined == ours:
            return 0
        with replacing_file(path) as partial:
            partial.write_text(joined, encoding="utf-8")
    return len(joined.splitlines()) - max(2, len(ours.splitlines()))
