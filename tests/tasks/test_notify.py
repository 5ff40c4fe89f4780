"""Failure, promotion and drift reach a local receiver; the address reaches no log."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.testing.utilities import prefect_test_harness

from tasks.notify import BLOCK_VARIABLE, URL_VARIABLE, deliver, notify, notify_failure

pytestmark = pytest.mark.slow  # starts a Prefect server

SECRET = "token-that-nobody-may-read"


@pytest.fixture(scope="module", autouse=True)
def _prefect():
    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture(autouse=True)
def _nowhere_to_tell(monkeypatch):
    for variable in (BLOCK_VARIABLE, URL_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


class Receiver(ThreadingHTTPServer):
    got: list[dict[str, str]]
    status: int
    url: str


@pytest.fixture
def receiver():
    """An HTTP server on loopback: `receiver.url`, and the bodies that came as `receiver.got`."""

    class Handler(BaseHTTPRequestHandler):
        server: Receiver

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.got.append(json.loads(body))
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = Receiver(("127.0.0.1", 0), Handler)
    server.got, server.status = [], 200
    server.url = f"http://127.0.0.1:{server.server_port}/{SECRET}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.mark.parametrize("event", ["promotion", "drift"])
def test_notify_when_the_environment_names_an_address_then_it_is_notified(
    receiver, monkeypatch, event, caplog
):
    monkeypatch.setenv(URL_VARIABLE, receiver.url)

    @flow
    def tell():
        return notify(event, "version 3", "all reasons")

    with caplog.at_level(logging.DEBUG):
        assert tell() == 1
    assert receiver.got == [
        {"event": event, "subject": "version 3", "text": "version 3\nall reasons"}
    ]
    assert SECRET not in caplog.text


def test_notify_failure_when_a_flow_fails_then_the_receiver_gets_the_reason(receiver, monkeypatch):
    monkeypatch.setenv(URL_VARIABLE, receiver.url)

    @flow(name="doomed", on_failure=[notify_failure])
    def doomed():
        raise ValueError("the archive is damaged")

    with pytest.raises(ValueError, match="damaged"):
        doomed()
    (told,) = receiver.got
    assert told["event"] == "failure"
    assert told["subject"].startswith("doomed ")
    assert "the archive is damaged" in told["text"]


def test_notify_failure_when_the_flow_was_called_by_another_then_the_caller_alone_tells(
    receiver, monkeypatch
):
    monkeypatch.setenv(URL_VARIABLE, receiver.url)

    @flow(name="inner", on_failure=[notify_failure])
    def inner():
        raise ValueError("the archive is damaged")

    @flow(name="outer", on_failure=[notify_failure])
    def outer():
        inner()

    with pytest.raises(ValueError, match="damaged"):
        outer()
    (told,) = receiver.got
    assert told["subject"].startswith("outer ")
    assert "the archive is damaged" in told["text"]


def test_deliver_when_a_secret_block_holds_the_address_then_it_is_notified(receiver, monkeypatch):
    Secret(value=receiver.url).save("idc-address", overwrite=True)
    monkeypatch.setenv(BLOCK_VARIABLE, "secret/idc-address")
    assert deliver("drift", "stain", "shifted", pytest.fail) == 1
    assert receiver.got[0]["subject"] == "stain"


def test_deliver_when_a_notification_block_is_named_then_it_is_notified(receiver, monkeypatch):
    CustomWebhookNotificationBlock(
        name="receiver", url=receiver.url, json_data={"told": "{{subject}}: {{body}}"}
    ).save("idc-block", overwrite=True)
    monkeypatch.setenv(BLOCK_VARIABLE, "custom-webhook/idc-block")
    assert deliver("drift", "stain", "shifted", pytest.fail) == 1
    assert receiver.got == [{"told": "stain: shifted"}]


@pytest.mark.parametrize("variable", [URL_VARIABLE, BLOCK_VARIABLE])
def test_deliver_when_the_receiver_refuses_then_warns_without_the_address(
    receiver, monkeypatch, caplog, variable
):
    receiver.status = 500
    CustomWebhookNotificationBlock(name="receiver", url=receiver.url, json_data={"a": "b"}).save(
        "idc-refusing", overwrite=True
    )
    places = {URL_VARIABLE: receiver.url, BLOCK_VARIABLE: "custom-webhook/idc-refusing"}
    monkeypatch.setenv(variable, places[variable])
    warnings = []
    client = logging.getLogger("httpx")  # tells every address at this level
    with caplog.at_level(logging.DEBUG, "prefect"), caplog.at_level(logging.DEBUG, client.name):
        assert deliver("drift", "stain", "shifted", warnings.append) == 0
        assert client.level == logging.DEBUG  # as it was
    assert len(warnings) == 1
    assert variable in warnings[0]
    assert SECRET not in warnings[0] + caplog.text


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://127.0.0.1:1/x"])
def test_deliver_when_an_address_cannot_be_used_then_warns_and_fails_nothing(monkeypatch, url):
    monkeypatch.setenv(URL_VARIABLE, url)
    warnings = []
    assert deliver("drift", "stain", "shifted", warnings.append) == 0
    assert url not in warnings[0]


def test_deliver_when_nothing_is_named_then_notifies_nobody():
    assert deliver("drift", "stain", "shifted", pytest.fail) == 0
