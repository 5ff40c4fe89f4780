"""Notify people: through a notification block of Prefect, or by a POST to an address.

The environment says where to, so no address is ever in git. `IDC_NOTIFY_BLOCK` names a block as
`TYPE/NAME`: one that can notify, such as `slack-webhook/team`, or `secret/NAME`, which holds an
address. `IDC_NOTIFY_URL` is an address itself. An address is a secret, so neither it nor the text
of an error, which may contain it, is ever logged, by this module or by the client that sends. A
message that cannot be sent does not fail the run.
"""

import json
import logging
import os
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging import get_logger

BLOCK_VARIABLE = "IDC_NOTIFY_BLOCK"
URL_VARIABLE = "IDC_NOTIFY_URL"

_TIMEOUT_S = 10

_CLIENTS = ("httpx", "httpcore", "urllib3", "requests", "apprise")
"""Loggers of the clients used by notification blocks; below warning they log the address."""

Event = Literal["failure", "promotion", "drift"]


@task(cache_policy=NO_CACHE, task_run_name="notify-{event}")
def notify(event: Event, subject: str, text: str) -> int:
    """Notify every place that the environment names.

    Returns:
        The number of places that accepted the message.
    """
    return deliver(event, subject, text, get_run_logger().warning)


def notify_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Report that a run failed or crashed; a hook of a flow. Subflows do not report."""
    if flow_run.parent_task_run_id is not None:  # its caller reports the failure, once
        return
    subject = f"{flow.name} {flow_run.name}: {(state.name or state.type.value).lower()}"
    deliver("failure", subject, state.message or "no message", get_logger("notify").warning)


def deliver(event: Event, subject: str, text: str, warn: Callable[[str], None]) -> int:
    """Send to the block and to the address that the environment names; return how many accepted.

    An address receives JSON: `event`, `subject`, and `text`, which chat services show.
    """
    sent = 0
    for variable, send in ((BLOCK_VARIABLE, _send_to_block), (URL_VARIABLE, _post)):
        place = os.environ.get(variable)
        if not place:
            continue
        try:
            with _clients_are_silent():
                send(place, event, subject, text)
            sent += 1
        except Exception as error:  # whatever a service raises; its text may hold the address
            warn(f"the {event} could not be sent through {variable}: {type(error).__name__}")
    return sent


@contextmanager
def _clients_are_silent() -> Iterator[None]:
    """Keep the address of a request out of the log, whatever the logging level."""
    known = {*_CLIENTS, *logging.root.manager.loggerDict}
    names = [name for name in known if name.partition(".")[0] in _CLIENTS]
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _send_to_block(place: str, event: Event, subject: str, text: str) -> None:
    load: Any = Block.load
    block = load(place, _sync=True)  # a hook may be called where a loop already runs
    if isinstance(block, Secret):
        _post(str(block.get()), event, subject, text)
    elif isinstance(block, NotificationBlock):
        send: Any = block.notify
        with block.raise_on_failure():
            send(text, subject=subject, _sync=True)
    else:
        raise TypeError("the block can neither notify nor hold an address")


def _post(url: str, event: Event, subject: str, text: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError("an address begins with http:// or https://")
    content = {"event": event, "subject": subject, "text": f"{subject}\n{text}"}
    request = urllib.request.Request(  # noqa: S310  looked at above
        url, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310
        pass
