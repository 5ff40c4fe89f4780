"""`dvc.yaml` against the code: stages, parameters, imports, and the paths of idc.layout."""

import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
import yaml

from idc.config import OF_NO_STAGE, Params
from idc.stages import STAGES

ROOT = Path(__file__).parents[2]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# modules whose change cannot change a result, with the reason
CANNOT_CHANGE_A_RESULT = {
    "idc.config": "checks values; the values themselves are tracked as params",
    "idc.layout": "names of files; a changed name changes dvc.yaml",
    "idc.errors": "classes without content",
    "idc.files": "writes what it is given",
    "idc.progress": "talks to the user",
    "idc.processes": "says where work is done, and keeps its order",
    "idc.data.tables": "reads, writes and checks tables, and changes no value in them",
    "idc.tracking": "talks to MLflow; publish reconciles whatever it says",
    "idc.store": "copies and moves what MLflow was told",
    "idc.untold": "keeps what idc.tracking could not say yet",
    "idc.lineage": "reads git and dvc.lock for MLflow",
}


@pytest.fixture(scope="module")
def imports():
    return grimp.build_graph("idc", cache_dir=None)


def test_stages_when_compared_then_dvc_and_code_name_the_same_in_the_same_order():
    assert tuple(GRAPH) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_command_of_a_stage_then_it_is_the_one_front_door(stage):
    assert GRAPH[stage]["cmd"] == f"python -m idc {stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_when_compared_with_imports_then_they_are_the_same(stage, imports):
    reached = imports.find_upstream_modules(f"idc.stages.{stage}") | {f"idc.stages.{stage}"}
    packages = {name for name in reached if imports.find_children(name)}
    wanted = {
        f"src/{name.replace('.', '/')}.py"
        for name in reached - packages
        if not any(f"{name}.".startswith(f"{other}.") for other in CANNOT_CHANGE_A_RESULT)
    }
    named = {dep for dep in GRAPH[stage]["deps"] if dep.startswith("src/") and dep.endswith(".py")}
    assert named == wanted


@pytest.mark.parametrize(
    ("stage", "folder"), [("report", "src/idc/report/templates"), ("publish", "src/idc/serving")]
)
def test_code_deps_when_a_stage_reads_a_folder_without_importing_it_then_it_is_named_too(
    stage, folder
):
    assert (ROOT / folder).is_dir()
    assert folder in GRAPH[stage]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_params_when_compared_with_the_source_then_every_section_read_is_tracked(stage):
    source = (ROOT / f"src/idc/stages/{stage}.py").read_text()
    read = set(re.findall(r"params\.(\w+)", source)) & set(Params.model_fields)
    tracked = set(GRAPH[stage].get("params", []))
    assert read - {"runtime"} <= tracked
    assert "runtime" not in tracked


def test_every_section_when_of_the_stages_then_some_stage_tracks_it():
    tracked = {section for stage in GRAPH.values() for section in stage.get("params", [])}
    assert tracked == set(Params.model_fields) - set(OF_NO_STAGE)


def test_every_output_when_named_then_git_ignores_it():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for stage in GRAPH.values():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, []):
                if isinstance(out, dict) and "data/case_sides.csv" in out:
                    continue  # belongs into the user's git
                path = out if isinstance(out, str) else next(iter(out))
                assert any(f"/{path}".startswith(line) for line in ignored if line), path


@pytest.mark.parametrize("stage", ["ingest", "sample", "split", "evaluate", "report", "publish"])
def test_stage_when_it_needs_no_network_then_does_not_wait_for_torch(stage):
    code = f"import sys, idc.stages.{stage}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
