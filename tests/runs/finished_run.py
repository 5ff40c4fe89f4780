"""What a finished run leaves in a workspace, for the tests of records, adoption and retention."""

import os
from datetime import UTC, datetime

import yaml

from idc.core.files import save_json
from idc.core.git import git
from idc.core.layout import WORKSPACE_RECORD
from idc.runs.record import record_run
from idc.runs.workspace import WORKSPACES, override_params

SUBSETS = "# assigned by a rule\ncase,subset\n"


def finish_run(project, name, *, epochs=3, subsets=SUBSETS, opened=None):
    """A worktree with what a finished run leaves; return its tag."""
    folder = project / WORKSPACES / name
    git(project, "worktree", "add", "--quiet", "--detach", str(folder))
    override_params(
        folder / "params.yaml", {"train.epochs": epochs, "publish.move_challenger": False}
    )
    lock = {"schema": "2.0", "stages": {"train": {"cmd": name}, "publish": {"cmd": "p"}}}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/case_subsets.csv").write_text(subsets)
    (folder / "data/raw/a.zip.dvc").write_text("outs: []\n")
    published = {"run_id": "r1", "model_name": "m", "model_version": "4", "result_digest": "d"}
    save_json(folder / "reports/published.json", published)
    save_json(
        folder / WORKSPACE_RECORD,
        {
            "root": str(project),
            "commit": git(project, "rev-parse", "HEAD"),
            "opened": (opened or datetime.now(UTC)).isoformat(),
            "opened_by": {"host": os.uname().nodename, "pid": 2**22 + 1, "started": 0.0},
        },
    )
    return record_run(folder)
