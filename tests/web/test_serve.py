"""Connections, one by one: who is let in, and who is not."""

from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.server import ServerState

from atfr.web.serve import CONNECTIONS, Prompt, is_loopback


async def nothing(_scope: object, _receive: object, _send: object) -> None: ...


def test_connections_end_before_no_file_can_be_opened() -> None:
    """Else the system refuses them, which the server says on its terminal, a thousand lines a second."""
    config = uvicorn.Config(nothing, log_config=None)
    config.load()
    state, transports = ServerState(), [Mock() for _ in range(2 * CONNECTIONS + 3)]
    for transport in transports:
        Prompt(config, state, {}, Mock()).connection_made(transport)
    assert [transport.close.called for transport in transports] == [False] * 2 * CONNECTIONS + [True] * 3


@pytest.mark.parametrize(
    ("host", "here"), [("127.0.0.2", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_addresses_of_this_machine_alone(host: str, here: bool) -> None:
    assert is_loopback(host) == here
