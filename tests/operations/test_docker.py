"""The image and the work pool's template, as far as they can be looked at without an engine.

What can be said of a Dockerfile alone, `hadolint` says in `make check`.
"""

import json
import re
import shlex
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import PurePosixPath

import httpx
import pytest
import yaml

from idc.cli import COMMANDS

DOCKERFILE = "deploy/Dockerfile"


@pytest.fixture(scope="module")
def steps(project_root):
    """Instruction and arguments of each step, lines joined and comments left out."""
    text = (project_root / DOCKERFILE).read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def is_ignored(project_root):
    """Whether a path of the project stays out of the image: it or a folder above is named."""
    lines = (project_root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.removeprefix("**/") for line in lines if line and not line.startswith("#")]

    def check(path):
        parts = PurePosixPath(path)
        return any(
            fnmatch(str(part), pattern) for part in (parts, *parts.parents) for pattern in patterns
        )

    return check


@pytest.fixture(scope="module")
def template(project_root):
    return json.loads((project_root / "deploy/docker-work-pool.json").read_text(encoding="utf-8"))


def test_image_when_it_copies_then_the_paths_are_there_and_not_ignored(
    steps, project_root, is_ignored
):
    sources = [
        source for name, rest in steps if name == "COPY" for source in rest.split()[:-1]
    ]  # fmt: skip
    assert "." in sources
    assert [path for path in sources if not (project_root / path).exists()] == []
    assert [path for path in sources if is_ignored(path)] == []


def test_image_when_it_installs_then_by_the_versions_that_make_setup_installs(steps, project_root):
    (pip,) = (rest for name, rest in steps if name == "RUN" and "pip install" in rest)
    arguments = shlex.split(pip)
    pinned = re.findall(
        r"^CONSTRAINTS := (.*)", (project_root / "Makefile").read_text(encoding="utf-8"), re.M
    )[-1]
    files = set(shlex.split(pinned)) - {"-c"}
    assert {path for flag, path in pairwise(arguments) if flag == "-c"} == files
    copied = " ".join(rest for name, rest in steps[: steps.index(("RUN", pip))] if name == "COPY")
    assert files <= set(copied.split())  # before it installs


def test_image_when_it_starts_then_a_command_of_idc_as_another_user_than_root(steps):
    program, command = json.loads(dict(steps)["CMD"])
    assert program == "idc"
    assert command in COMMANDS
    assert int(dict(steps)["USER"]) > 0  # by number: a host need not know the name


def test_image_when_made_then_no_data_no_result_no_store_and_no_secret_gets_in(
    project_root, is_ignored
):
    stages = yaml.safe_load((project_root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    cached = [
        out
        for stage in stages.values()
        for out in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
        if isinstance(out, str)  # what carries options lives in the user's git
    ]
    assert len(cached) > 5
    others = [".git/config", ".dvc/config.local", ".dvc/cache/a", "data/raw/x.zip", "mlruns/a",
              "deploy/.env", ".workspaces/w"]  # fmt: skip
    assert [path for path in (*cached, *others) if not is_ignored(path)] == []
    assert not is_ignored("src/idc/models/networks/fusion.py")


def test_work_pool_template_when_read_then_every_placeholder_is_a_variable(template):
    placeholders = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert placeholders == set(template["variables"]["properties"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_work_pool_template_when_given_to_a_prefect_server_then_it_takes_it_and_checks_by_it(
    servers, template
):
    def ask(path, body):
        return httpx.post(f"{servers.prefect_url}{path}", json=body, timeout=60, trust_env=False)

    pool = {"name": "docker", "type": "docker", "base_job_template": template}
    assert ask("/work_pools/", pool).status_code == 201
    flow = ask("/flows/", {"name": "pipeline"}).json()["id"]
    deployment = {"name": "docker", "flow_id": flow, "work_pool_name": "docker"}
    good = deployment | {"job_variables": {"image": "idc", "volumes": ["/clone/data:/idc/data"]}}
    assert ask("/deployments/", good | {"enforce_parameter_schema": False}).status_code == 201
    bad = deployment | {"name": "bad", "job_variables": {"image_pull_policy": "Sometimes"}}
    assert ask("/deployments/", bad).status_code in (409, 422)
