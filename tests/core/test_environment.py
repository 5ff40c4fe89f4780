"""One home of the settings that keep the tools quiet."""

import re
import subprocess
from pathlib import Path

import pytest

from idc.core.dvc import dvc
from idc.core.environment import QUIET, own_environment
from idc.core.errors import InputError

ROOT = Path(__file__).parents[2]


def test_quiet_when_read_then_holds_every_setting_of_the_file():
    assert QUIET["MLFLOW_DISABLE_TELEMETRY"] == "true"
    lines = (ROOT / "src/idc/core/quiet.env").read_text().splitlines()
    assert len(QUIET) == len([line for line in lines if re.match("[A-Z]", line)])


def test_makefile_when_it_runs_a_command_then_that_sees_the_settings():
    shown = subprocess.run(
        ["make", "-s", "-f", "-", "shown-environment"],
        input="include Makefile\nshown-environment: ; @env\n",
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert {f"{name}={value}" for name, value in QUIET.items()} <= set(shown)


def test_dockerfile_when_it_sets_one_then_to_the_same_value():
    text = (ROOT / "deploy/Dockerfile").read_text()
    named = dict(re.findall(r"^(?:ENV)?\s+(\w+)=(\S+)", text, re.M))
    quiet = {name: value for name, value in QUIET.items() if "TIMEOUT" not in name}
    assert quiet.items() <= named.items()


def test_own_environment_then_the_code_of_the_root_comes_first(tmp_path):
    environment = own_environment(tmp_path)
    assert environment["PYTHONPATH"].startswith(str(tmp_path / "src"))
    assert QUIET.items() <= environment.items()


def test_dvc_when_it_fails_then_its_last_line_says_why(tmp_path):
    with pytest.raises(InputError, match=r"dvc status failed in .*not inside of a DVC repository"):
        dvc(tmp_path, "status")
