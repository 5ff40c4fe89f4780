"""`dvc.yaml` against the code: stages, parameters, imports, and the paths of idc.core.layout."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import grimp
import pytest
import yaml

from idc.core.config import NON_STAGE_SECTIONS, Params
from idc.stages import STAGES

ROOT = Path(__file__).parents[2]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# rooms and modules whose change cannot change a result, with the reason
CANNOT_CHANGE_A_RESULT = {
    "idc.core": "parameters are tracked by value, paths by dvc.yaml",
    "idc.data.tables": "reads, writes and checks tables, and changes no value in them",
    "idc.tracking": "talks to MLflow; publish reconciles whatever it says",
    "idc.runs": "reads git and dvc.lock for MLflow",
}

READ_WITHOUT_IMPORT = defaultdict(set, {"publish": {"idc.serving.pyfunc_model"}})


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
    packages = {name for name in imports.modules if imports.find_children(name)}
    wanted = {name for name in reached - packages if not is_without_effect(name)}
    named = [dep for dep in GRAPH[stage]["deps"] if dep.startswith("src/")]
    covered = [name for dep in named for name in expand(dep, imports.modules - packages)]
    assert len(covered) == len(set(covered)), "a module is named twice"
    assert set(covered) - READ_WITHOUT_IMPORT[stage] == wanted


def is_without_effect(name):
    return any(f"{name}.".startswith(f"{other}.") for other in CANNOT_CHANGE_A_RESULT)


def expand(dep, modules):
    """Return the modules that a file or folder of the code stands for."""
    name = dep.removeprefix("src/").removesuffix(".py").replace("/", ".")
    return [module for module in modules if f"{module}.".startswith(f"{name}.")]


def test_code_deps_when_publish_ships_the_serving_code_without_importing_it_then_it_is_named_too():
    assert "src/idc/serving" in GRAPH["publish"]["deps"]


@pytest.mark.parametrize("stage", STAGES[:-2])
def test_params_when_compared_with_what_stage_and_modules_below_read_then_are_tracked(
    stage, imports
):
    reached = imports.find_upstream_modules(f"idc.stages.{stage}") | {f"idc.stages.{stage}"}
    sources = [find_source(name) for name in reached if not is_without_effect(name)]
    read = {place for source in sources for place in places_read(source)}
    tracked = set(GRAPH[stage]["params"])
    assert not [place for place in read if not places_above(place) & tracked], "read, not tracked"
    seen = {each for place in read for each in places_above(place)}
    assert not tracked - seen, "tracked, not read"


def test_params_when_the_report_shows_them_all_then_all_but_where_to_publish_are_tracked():
    tracked = set(Params.model_fields) - set(NON_STAGE_SECTIONS) - {"publish"}
    assert set(GRAPH["report"]["params"]) == tracked
    # what it logs of the others goes with their results
    assert GRAPH["publish"]["params"] == ["publish"]


@pytest.mark.parametrize("stage", STAGES)
def test_params_when_tracked_then_each_is_in_params_yaml(stage):
    known = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key in GRAPH[stage]["params"]:
        section, _, name = key.partition(".")
        assert section in known
        assert not name or name in known[section]


def find_source(module):
    path = ROOT / "src" / module.replace(".", "/")
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def places_read(source):
    """Return `section.key` of each parameter read, or `section` where a whole one is passed on."""
    found = re.findall(r"\bparams\.(\w+)(?:\.(\w+))?", source)
    return {
        f"{section}.{key}" if key in section_keys(section) else section
        for section, key in found
        if section in Params.model_fields and section != "runtime"
    }


def section_keys(section):
    return yaml.safe_load((ROOT / "params.yaml").read_text())[section]


def places_above(place):
    return {place, place.partition(".")[0]}


def test_every_section_when_of_the_stages_then_some_stage_tracks_it():
    tracked = {key.partition(".")[0] for stage in GRAPH.values() for key in stage.get("params", [])}
    assert tracked == set(Params.model_fields) - set(NON_STAGE_SECTIONS)


def test_every_output_when_named_then_git_ignores_it():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for stage in GRAPH.values():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, []):
                if isinstance(out, dict) and "data/case_subsets.csv" in out:
                    continue  # belongs into the user's git
                path = out if isinstance(out, str) else next(iter(out))
                assert any(f"/{path}".startswith(line) for line in ignored if line), path


@pytest.mark.parametrize("stage", ["ingest", "sample", "split", "evaluate", "report", "publish"])
def test_stage_when_it_needs_no_network_then_does_not_wait_for_torch(stage):
    code = f"import sys, idc.stages.{stage}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
