"""What a change of a parameter runs again: DVC on the project's own graph, its commands replaced.

Each command only makes its outputs; what DVC thinks of the graph is the real thing.
"""

import shlex
import sys
from pathlib import Path

import pytest
import yaml

from idc.core.dvc import dvc
from idc.runs.plan import plan_run
from idc.runs.workspace import override_params

ROOT = Path(__file__).parents[2]
MAKE = """
import sys, pathlib
for name in sys.argv[1:]:
    path = pathlib.Path(name)
    if name == "data/patches":
        path = path / "index.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("made")
"""


def paths_of(stage, *kinds):
    listed = [item for kind in kinds for item in stage.get(kind, [])]
    return [item if isinstance(item, str) else next(iter(item)) for item in listed]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The graph after a run, with files of a line in place of code, data and results."""
    root = tmp_path_factory.mktemp("project")
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    outputs = [paths_of(stage, "outs", "metrics", "plots") for stage in graph["stages"].values()]
    made = [out for outs in outputs for out in outs]
    for stage in graph["stages"].values():
        for dep in paths_of(stage, "deps"):
            if not any(dep == out or dep.startswith(f"{out}/") for out in made):
                file = root / dep / "file" if (ROOT / dep).is_dir() else root / dep
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("given")
        outs = paths_of(stage, "outs", "metrics", "plots")
        stage["cmd"] = shlex.join([sys.executable, "make.py", *outs])
    (root / "make.py").write_text(MAKE)
    del graph["plots"]
    (root / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False))
    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    dvc(root, "init", "--quiet", "--no-scm")
    dvc(root, "repro", "--quiet")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "running"),
    [
        ({}, set()),
        ({"predict.d4_average": True}, {"predict", "evaluate", "explain", "report", "publish"}),
        ({"baselines.names": ["trees"]}, {"baselines", "evaluate", "explain", "report", "publish"}),
    ],
)
def test_repro_when_a_parameter_changes_then_only_what_it_concerns_runs(project, change, running):
    before = (project / "params.yaml").read_bytes()
    try:
        override_params(project / "params.yaml", change)
        planned = {stage.name for stage in plan_run(project) if stage.reasons or stage.after}
    finally:
        (project / "params.yaml").write_bytes(before)
    assert planned == running
