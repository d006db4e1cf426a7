"""A TCP proxy that answers keepalives by itself: it can be frozen, and its sessions with the server stay."""

from __future__ import annotations

import contextlib
import select
import socket
import threading

__all__ = ["Proxy"]

_LOOK = (
    0.05  # seconds after which a new connection, or that it is closed, is noticed at the latest
)


class Proxy:
    """Passes on what clients on 127.0.0.1:`port` and a server on 127.0.0.1 send each other, until it is frozen.

    It reads nothing then, and closes no session with the server, whatever becomes of the client:
    the kernel of this process answers the keepalives of both.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._others: dict[socket.socket, socket.socket] = {}
        self._frozen = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def freeze(self) -> None:
        """Pass nothing on from now on."""
        self._frozen.set()

    def close(self) -> None:
        """End all sessions."""
        self._closed.set()
        self._thread.join(10)
        for one in (self._listening, *self._others):
            one.close()

    def _work(self) -> None:
        while not self._closed.is_set():
            for source in select.select([self._listening, *self._others], [], [], _LOOK)[0]:
                if self._frozen.wait(0):
                    self._closed.wait()
                    return
                if source is self._listening:
                    self._accept()
                elif source in self._others:
                    self._pass_on(source)

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        server = socket.create_connection(("127.0.0.1", self._server_port))
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._others[one] = other

    def _pass_on(self, source: socket.socket) -> None:
        other = self._others[source]
        data = b""
        with contextlib.suppress(OSError):
            data = source.recv(1 << 16)
            other.sendall(data)
        if not data:
            for one in (source, other):
                del self._others[one]
                one.close()
