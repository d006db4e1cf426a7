"""A network with a delay between this process and a server: a TCP proxy in a process of its own, which counts trips."""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import multiprocessing
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

__all__ = ["Distance", "distant"]

_CHUNK = 2**20
_SPIN = 0.0002  # seconds before something is due in which the proxy does not sleep
_PR_SET_TIMERSLACK = 29  # prctl(2): the kernel may wake a process 50 us late otherwise


@dataclass(frozen=True, slots=True)
class Distance:
    """A way to a server: the port on 127.0.0.1 that leads there, and the round trips that were made on it."""

    port: int
    _trips: Synchronized[int]

    @property
    def trips(self) -> int:
        """How often something was sent after an answer had come: what is sent before that shares a round trip."""
        return self._trips.value


@contextlib.contextmanager
def distant(path: str, seconds: float) -> Iterator[Distance]:
    """A way to the server that listens on the Unix socket `path`, on which each direction takes `seconds`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    trips = context.Value("Q", 0)
    process = context.Process(target=_serve, args=(theirs, path, seconds, trips), daemon=True)
    process.start()
    try:
        if not ours.poll(60):
            raise RuntimeError("the proxy did not begin within 60 s")
        yield Distance(ours.recv(), trips)
    finally:
        process.terminate()
        process.join()


def _serve(told: Connection, path: str, seconds: float, trips: Synchronized[int]) -> None:
    with contextlib.suppress(AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    told.send(listening.getsockname()[1])
    proxy = _Proxy(listening, path, seconds, trips)
    while True:
        proxy.step()


class _Proxy:
    """Passes on what the ends of connections send, each piece after the delay."""

    def __init__(
        self, listening: socket.socket, path: str, seconds: float, trips: Synchronized[int]
    ) -> None:
        self._listening = listening
        self._path = path
        self._seconds = seconds
        self._trips = trips
        self._answered = True
        # the other end of each connection's ends, and those that are the server's
        self._others: dict[socket.socket, socket.socket] = {}
        self._servers: set[socket.socket] = set()
        # when it is due, a number that keeps the order, whose it is, and what
        self._waiting: list[tuple[float, int, socket.socket, bytes]] = []
        self._number = 0

    def step(self) -> None:
        """Pass on what is due, and wait for the next thing that happens."""
        left = self._waiting[0][0] - time.monotonic() if self._waiting else None
        if left is not None and left <= 0:
            self._pass_on(*heapq.heappop(self._waiting)[2:])
            return
        # what sleeps is woken late; select() and not epoll, which counts in milliseconds
        left = None if left is None else max(0.0, left - _SPIN)
        for source in select.select([self._listening, *self._others], [], [], left)[0]:
            if source is self._listening:
                self._accept()
            elif source in self._others:
                self._take(source)

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._path)
        self._servers.add(server)
        self._others |= {client: server, server: client}

    def _take(self, source: socket.socket) -> None:
        try:
            data = source.recv(_CHUNK)
        except OSError:
            data = b""
        if data and source not in self._servers:
            # what is sent before an answer has come shares a round trip
            self._trips.value += self._answered
            self._answered = False
        if not data:
            self._close(source)
            return
        self._number += 1
        heapq.heappush(
            self._waiting, (time.monotonic() + self._seconds, self._number, source, data)
        )

    def _pass_on(self, source: socket.socket, data: bytes) -> None:
        if source not in self._others:
            return
        if source in self._servers:
            self._answered = True
        try:
            self._others[source].sendall(data)
        except OSError:
            self._close(source)

    def _close(self, source: socket.socket) -> None:
        other = self._others.pop(source)
        del self._others[other]
        self._servers -= {source, other}
        source.close()
        other.close()
