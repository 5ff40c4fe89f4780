"""What is asked of a server, and what its answers become: a real one on loopback."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from idc.core.errors import InputError
from idc.ops.prefect_api import (
    Deployment,
    api_url,
    ask,
    load_deployments,
    require_server,
    worker_name,
)


@pytest.fixture
def requests(monkeypatch):
    """A server that notes each request; `/missing` is not found, `/broken` fails."""
    noted = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            noted.append((self.command, self.path, body, self.headers["Authorization"]))
            code = {"/api/missing": 404, "/api/broken": 500}.get(self.path, 200)
            self.send_response(code)
            self.end_headers()
            pages = b"<!doctype html>"
            answers = {"/api/health": b"true", "/health": pages, "/api/binary": b"\xff\x00"}
            self.wfile.write(answers.get(self.path, b""))

        def __getattr__(self, name):  # do_GET, do_POST, do_PATCH
            if name.startswith("do_"):
                return self.answer
            raise AttributeError(name)

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api/")
        for name in ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"):
            monkeypatch.delenv(name, raising=False)
        yield noted
        server.shutdown()


def test_ask_when_there_is_a_body_then_it_is_posted_unless_a_method_is_named(requests):
    assert ask("/health") is True
    assert ask("/workers/filter", {"a": 1}) is None
    assert ask("/schedules/1", {"active": True}, method="PATCH") is None
    assert requests == [
        ("GET", "/api/health", None, None),
        ("POST", "/api/workers/filter", {"a": 1}, None),
        ("PATCH", "/api/schedules/1", {"active": True}, None),
    ]


@pytest.mark.parametrize(
    ("name", "value", "sent"),
    [
        ("PREFECT_API_KEY", "k", "Bearer k"),
        ("PREFECT_API_AUTH_STRING", "me:secret", "Basic bWU6c2VjcmV0"),
    ],
)
def test_ask_when_there_are_credentials_then_they_are_sent(
    requests, monkeypatch, name, value, sent
):
    monkeypatch.setenv(name, value)
    ask("/health")
    assert requests[-1][3] == sent


def test_ask_when_the_server_has_no_such_object_or_fails_then_the_two_are_told_apart(requests):
    with pytest.raises(LookupError, match="/missing"):
        ask("/missing")
    with pytest.raises(OSError, match="500"):
        ask("/broken")


def test_ask_when_the_answer_is_no_json_then_it_is_an_oserror_that_says_how_the_address_ends(
    requests, monkeypatch
):
    with pytest.raises(OSError, match="answers no JSON"):
        ask("/binary")
    monkeypatch.setenv("PREFECT_API_URL", api_url().removesuffix("/api/"))
    with pytest.raises(OSError, match="answers no JSON"):
        ask("/health")
    with pytest.raises(InputError, match=r"no Prefect server answers at .* ends in /api"):
        require_server()


def test_ask_when_no_http_is_spoken_then_it_is_an_oserror(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.getsockname()[1]}/api")

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match="answers no JSON"):
            ask("/health")
        thread.join()


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@localhost/api",
        "http://user:secret@localhost:4200/api",
        "http://user:p/ssecret@localhost:4200/api",
        "user:secret@localhost:4200/api",
        "ftp://user:secret@localhost/api",
    ],
)
def test_api_url_when_it_holds_a_password_then_it_is_refused_and_not_repeated(monkeypatch, url):
    monkeypatch.setenv("PREFECT_API_URL", url)
    for action in (api_url, require_server, lambda: ask("/health")):
        with pytest.raises(InputError, match=r"\*\*\*@localhost") as refused:
            action()
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://host:port/api", "http://[::1/api", "http:///api"])
def test_api_url_when_host_or_port_is_none_then_says_how_to_write_one(monkeypatch, url):
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(InputError, match="is not the address of a server: write http://HOST:PORT"):
        api_url()


def test_ask_when_nothing_listens_then_it_is_an_oserror(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(OSError, match="refused"):
        ask("/health")


def test_deployments_when_read_then_are_named_as_prefect_names_them(tmp_path, project_root):
    assert load_deployments(tmp_path) == []
    assert Deployment("pipeline/local", "idc") in load_deployments(project_root)


def test_worker_name_when_two_clones_share_a_machine_then_each_has_its_own(tmp_path):
    names = {worker_name(tmp_path / name) for name in ("a", "b")}
    assert len(names) == 2
    assert worker_name(tmp_path / "a") in names
