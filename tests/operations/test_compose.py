"""deploy/compose.yaml: what it promises, and its servers' commands on this machine's PostgreSQL.

No container engine is needed: addresses of the network it would make are replaced by loopback.
"""

import os
import re
import subprocess
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from tests.operations.servers import free_port, running

COMPOSE, EXAMPLE = "deploy/compose.yaml", "deploy/.env.example"
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")
PASSWORD = "not-a-real-one"


@pytest.fixture(scope="module")
def text(project_root):
    return (project_root / COMPOSE).read_text(encoding="utf-8")


def resolve(text, variables):
    """Put in the variables as `docker compose` does; KeyError for a required one that is empty."""

    def value(match):
        name, operator, word = match.groups()
        if variables.get(name):
            return variables[name]
        if operator == ":-":
            return word
        raise KeyError(name)

    return yaml.safe_load(VARIABLE.sub(value, text))


@pytest.fixture(scope="module")
def services(text):
    return resolve(text, {"POSTGRES_PASSWORD": PASSWORD})["services"]


def test_compose_when_no_password_is_set_then_it_stops_and_names_the_variable(text, project_root):
    example = (project_root / EXAMPLE).read_text(encoding="utf-8")
    offered = dict(re.findall(r"^(\w+)=(.*)$", example, flags=re.MULTILINE))
    assert set(offered) == {match[0] for match in VARIABLE.findall(text)}
    with pytest.raises(KeyError, match="POSTGRES_PASSWORD"):
        resolve(text, offered)


def test_compose_when_resolved_then_the_password_stands_only_where_the_variable_stood(
    text, services
):
    in_environments = [
        value for one in services.values() for value in one.get("environment", {}).values()
    ]
    assert sum(PASSWORD in value for value in in_environments) == 3
    assert str(services).count(PASSWORD) == 3  # in no command and no health check
    keys = r"(?im)^ *\w*(?:password|secret|token)\w*: *(.*)"
    assert all(value.startswith("${") for value in re.findall(keys, text))


def test_compose_when_it_publishes_ports_then_on_loopback_alone(services):
    published = [port for one in services.values() for port in one.get("ports", [])]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_compose_when_a_service_waits_for_a_healthy_one_then_that_one_says_how_it_is(services):
    waits = [
        (name, other, on["condition"])
        for name, one in services.items()
        for other, on in one.get("depends_on", {}).items()
    ]
    assert {other for _, other, _ in waits} == {"postgres", "prefect", "mlflow", "deployments"}
    for _, other, condition in waits:
        assert ("healthcheck" in services[other]) == (condition == "service_healthy")


def test_compose_when_a_volume_is_mounted_then_its_folder_is_in_the_image_and_its_users(
    services, project_root
):
    """An empty volume takes over owner and content of the folder; without one it is root's."""
    dockerfile = (project_root / "deploy/Dockerfile").read_text(encoding="utf-8")
    made = re.search(r"mkdir -p ([^\\]+)", dockerfile)[1].split()
    folders = {path if path.startswith("/") else f"/idc/{path}" for path in made}
    mounted = [
        volume.split(":")
        for one in services.values()
        if one["image"] == "idc"
        for volume in one.get("volumes", [])
    ]
    named = {target for source, target in mounted if not source.startswith(".")}
    assert named
    assert named <= folders
    for source, _ in mounted:
        assert not source.startswith(".") or (project_root / "deploy" / source).is_dir()


def test_env_file_when_written_then_git_does_not_see_it(project_root):
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/.env"], cwd=project_root)
    assert ignored.returncode in (0, 128)  # 128: no git here
    assert subprocess.run(["git", "check-ignore", "-q", EXAMPLE], cwd=project_root).returncode != 0


def on_loopback(address, database):
    """Return the address with the test's database in place of the compose network's."""
    return f"{urlsplit(address).scheme}://{urlsplit(database).netloc}{urlsplit(database).path}"


def started(service, port, folder, database, health):
    """Run the service's own command and environment, host and port apart."""
    module, *arguments = service["command"]
    arguments = [item.replace("0.0.0.0", "127.0.0.1") for item in arguments]
    arguments = [re.sub(r"^--port=.*", f"--port={port}", item) for item in arguments]
    arguments = [item.replace("/srv/mlflow", str(folder / "files")) for item in arguments]
    environment = {
        name: on_loopback(value, database) if "@postgres:5432/" in value else value
        for name, value in service["environment"].items()
    }
    return running(module, arguments, folder, environment, f"http://127.0.0.1:{port}{health}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mlflow_of_compose_when_started_then_it_answers_its_own_names_and_no_others(
    services, create_database, tmp_path
):
    port, database = free_port(), create_database()
    with started(services["mlflow"], port, tmp_path, database, "/health"):

        def status(host):
            answer = httpx.get(
                f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0",
                headers={"Host": host}, timeout=60, trust_env=False,
            )  # fmt: skip
            return answer.status_code

        address = urlsplit(services["worker"]["environment"]["MLFLOW_TRACKING_URI"]).netloc
        assert [status(host) for host in (address, "127.0.0.1:5000", "localhost:7000")] == [200] * 3
        assert status("elsewhere.example:5000") == 403


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_prefect_of_compose_when_started_then_pool_and_deployments_are_made_by_its_command(
    services, create_database, tmp_path, project_root
):
    port, database = free_port(), create_database()
    with started(services["prefect"], port, tmp_path, database, "/api/health"):
        url = f"http://127.0.0.1:{port}/api"
        settings = {
            "PREFECT_API_URL": url,
            "PREFECT_HOME": str(tmp_path / "home"),
            "PYTHONPATH": f"{project_root / 'src'}:{project_root}",
        }
        for _ in range(2):  # `up` again finds both there
            done = subprocess.run(
                services["deployments"]["command"], cwd=project_root, env=os.environ | settings,
                capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
        found = httpx.post(f"{url}/deployments/filter", json={}, timeout=60, trust_env=False)
        names = {item["entrypoint"] for item in found.json()}
        assert names == {"flows/pipeline.py:pipeline", "flows/retraining.py:retraining"}
