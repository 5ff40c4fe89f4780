"""The workflow for a hosted CI, which cannot run here; `make check` holds it to its schema."""

import re
import subprocess
import tomllib

import pytest
import yaml


@pytest.fixture(scope="module")
def jobs(project_root):
    text = (project_root / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["jobs"]


def test_workflow_when_a_job_calls_make_then_make_knows_what_to_do(jobs, project_root):
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {command.split()[1] for command in commands} >= {"check", "test", "docs"}
    for command in commands:
        done = subprocess.run(
            [*command.split(), "--dry-run"], cwd=project_root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_workflow_when_it_tests_then_from_the_oldest_python_that_is_allowed(jobs, project_root):
    settings = tomllib.loads((project_root / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = re.fullmatch(r">=(\d\.\d+)", settings["project"]["requires-python"]).group(1)
    versions = jobs["test"]["strategy"]["matrix"]["python-version"]
    assert versions[0] == oldest
    assert all(isinstance(version, str) for version in versions)  # 3.10 without quotes is 3.1
