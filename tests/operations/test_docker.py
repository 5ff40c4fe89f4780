"""The image and the work pool's template, as far as they can be looked at without an engine."""

import json
import re

import httpx
import pytest

INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "ENV", "COPY", "USER", "CMD"}


@pytest.fixture(scope="module")
def steps(project_root):
    """Instruction and arguments of each step, lines joined and comments left out."""
    text = (project_root / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def template(project_root):
    return json.loads((project_root / "deploy/docker-work-pool.json").read_text(encoding="utf-8"))


def test_dockerfile_when_read_then_it_has_known_steps_and_ends_as_another_user_than_root(steps):
    names = [name for name, _ in steps]
    assert set(names) == INSTRUCTIONS
    assert names[0] == "FROM"
    image, _, tag = steps[0][1].partition(":")
    assert image
    assert tag not in ("", "latest")
    assert names.index("USER") < names.index("CMD")
    assert dict(steps)["USER"] not in ("root", "0")
    assert json.loads(dict(steps)["CMD"])[:2] == ["python", "-m"]


def test_dockerfile_when_it_copies_then_the_files_are_there_and_not_ignored(steps, project_root):
    ignored = (project_root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name, arguments in steps:
        *sources, _ = arguments.split()
        for source in sources if name == "COPY" else []:
            assert (project_root / source).exists(), source
            assert source not in ignored


def test_dockerignore_when_read_then_no_data_no_store_and_no_secret_gets_into_the_image(
    project_root,
):
    ignored = (project_root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".git", ".dvc/config.local", "data/raw", "data/patches", "mlruns", "models"} <= {
        *ignored
    }


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
