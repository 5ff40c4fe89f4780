"""One home of the settings that keep the tools quiet."""

import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from idc.core.dvc import dvc
from idc.core.environment import QUIET, exempt_loopback, own_environment
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


def test_makefile_when_the_clone_has_a_space_in_its_path_then_its_python_runs(tmp_path):
    folder = tmp_path / "my clone"
    (folder / "src/idc/core").mkdir(parents=True)
    for name in ("Makefile", "src/idc/core/quiet.env", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("constraints.txt", "constraints-torch.txt", ".dvc/config.local"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    (folder / ".venv/.installed").touch()
    shown = subprocess.run(
        ["make", "-s", "-f", "-", "shown"],
        input="include Makefile\nshown: setup ; @$(BIN)/python -V && command -v python\n",
        cwd=folder, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert shown[0].startswith("Python 3")
    assert shown[1] == str(folder / ".venv/bin/python")


def test_pictures_when_a_notebook_or_a_style_of_the_user_is_there_then_neither_counts(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\naxes.grid: True\n")
    code = (
        "from idc.cli import main; main(['params', '--count']); import matplotlib.pyplot as plt;"
        "print(plt.get_backend(), plt.rcParams['text.usetex'], plt.rcParams['axes.grid'])"
    )
    environment = os.environ | {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": str(tmp_path),
    }
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert shown[-1] == "agg False False"


def test_dockerfile_when_it_sets_one_then_to_the_same_value():
    text = (ROOT / "deploy/Dockerfile").read_text()
    named = dict(re.findall(r"^(?:ENV)?\s+(\w+)=(\S+)", text, re.M))
    quiet = {name: value for name, value in QUIET.items() if "TIMEOUT" not in name}
    assert quiet.items() <= named.items()


def test_quiet_when_mlflow_ends_a_run_then_no_address_with_its_password_is_printed(monkeypatch):
    from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT as SUPPRESS

    monkeypatch.delenv(SUPPRESS.name, raising=False)
    assert SUPPRESS.get() is False, "MLflow prints it unless told otherwise"
    monkeypatch.setenv(SUPPRESS.name, QUIET[SUPPRESS.name])
    assert SUPPRESS.get() is True


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,::1,localhost"),
        ({"no_proxy": "a.org, b.org"}, "127.0.0.1,::1,a.org,b.org,localhost"),
        (
            {"no_proxy": "a.org", "NO_PROXY": "b.org,localhost"},
            "127.0.0.1,::1,a.org,b.org,localhost",
        ),
        ({"NO_PROXY": "*"}, "*"),
        ({"no_proxy": "a.org", "NO_PROXY": " * "}, "*"),
    ],
)
def test_exempt_loopback_then_this_machine_joins_what_was_exempt(before, after):
    assert exempt_loopback(before) == {"no_proxy": after, "NO_PROXY": after}


def test_own_environment_when_a_proxy_is_set_then_a_server_here_is_asked_directly(monkeypatch):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = (
            "import sys, httpx, requests\n"
            "for address in sys.argv[1:]:\n"
            "    print(requests.get(address).status_code, httpx.get(address).status_code)"
        )
        addresses = [f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost")]
        shown = subprocess.run(
            [sys.executable, "-c", code, *addresses],
            env=own_environment(ROOT), capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        server.shutdown()
    assert shown.split() == ["204"] * 4


def test_own_environment_then_the_code_of_the_root_comes_first(tmp_path):
    environment = own_environment(tmp_path)
    assert environment["PYTHONPATH"].startswith(str(tmp_path / "src"))
    assert QUIET.items() <= environment.items()


def test_dvc_when_it_fails_then_its_last_line_says_why(tmp_path):
    with pytest.raises(InputError, match=r"dvc status failed in .*not inside of a DVC repository"):
        dvc(tmp_path, "status")
