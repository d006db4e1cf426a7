"""Which sessions their clients hold open, as the kernel knows."""

from __future__ import annotations

import contextlib
import socket

from clonedb.postgres.client_sessions import _HELD, ClientSession, _states


def connected(listener: socket.socket, port: int = 0) -> tuple[socket.socket, socket.socket]:
    """The two ends of a connection with a listener, the client's bound to a port."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind(("127.0.0.1", port))
    client.connect(listener.getsockname())
    return client, listener.accept()[0]


def test_a_port_that_was_used_with_another_server() -> None:
    """Connections with others that ended a moment ago are not taken for that of the session, wherever they are listed."""
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(7)
        ]
        port = 0
        for listener in listeners[:-1]:
            client, server = connected(listener, port)
            port = client.getsockname()[1]
            client.close()
            server.close()
        client, server = connected(listeners[-1], port)
        session = ClientSession(1, "", "", "", "127.0.0.1", port)
        assert _states([session])[1] in _HELD
        client.close()
        server.close()
        assert _states([session])[1] not in _HELD
