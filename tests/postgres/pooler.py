"""A pooler between clients and the run's server, which does what PgBouncer does with sessions in its two usual modes."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Literal

from clonedb.embedded.leases import Lease

Mode = Literal["session", "transaction"]

_AUTHENTICATED = b"R\0\0\0\x08\0\0\0\0"
_IDLE = b"Z\0\0\0\x05I"


class Pooler:
    """Lets everybody in; each client's session of the server is one that no other client uses at the moment.

    In `transaction` mode that is so until the client is in no transaction, else until it goes. A session of the server
    stays open when its client has gone.
    """

    def __init__(self, lease: Lease, mode: Mode, *, in_turn: bool = False) -> None:
        """`in_turn` is how it gives out free sessions: the one that was used longest ago, or the last one."""
        self._next = 0 if in_turn else -1
        self._path = f"{lease.socket_dir}/.s.PGSQL.{lease.port}"
        self._user = lease.user
        self._mode = mode
        self._free: dict[str, list[socket.socket]] = {}
        self._sessions: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"postgresql://{self._user}@127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        """Let nobody in any more, and end all sessions."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for session in self._sessions:
            session.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                # the messages of an answer would wait for the client's acknowledgements, 40 ms each
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError, ValueError):  # closed meanwhile
            database = self._greet(client)
            while True:
                select.select([client], [], [])
                session = self._take(database)
                goes_on = self._pass_on(client, session, self._free[database])
                if not goes_on:
                    return

    @staticmethod
    def _greet(client: socket.socket) -> str:
        """Answer a client's beginning as a server without passwords does, with a pid that is no process's."""
        while True:
            (length,) = struct.unpack("!i", _exactly(client, 4))
            message = _exactly(client, length - 4)
            if struct.unpack("!i", message[:4])[0] == 0x30000:
                break
            client.sendall(b"N")  # neither TLS nor GSS
        words = message[4:].split(b"\0")
        parameters = dict(zip(words[::2], words[1::2], strict=False))
        status = b"".join(
            b"S" + struct.pack("!i", len(name + value) + 6) + name + b"\0" + value + b"\0"
            for name, value in {
                b"server_version": b"18.0",
                b"client_encoding": b"UTF8",
                b"standard_conforming_strings": b"on",
                b"DateStyle": b"ISO, MDY",
                b"integer_datetimes": b"on",
            }.items()
        )
        client.sendall(
            _AUTHENTICATED + status + b"K" + struct.pack("!iii", 12, 2**31 - 1, 0) + _IDLE
        )
        return parameters[b"database"].decode()

    def _take(self, database: str) -> socket.socket:
        free = self._free.setdefault(database, [])
        while free:
            session = free.pop(self._next)
            if not select.select([session], [], [], 0)[
                0
            ]:  # what the server has ended can be read
                return session
        session = socket.socket(socket.AF_UNIX)
        self._sessions.append(session)
        session.connect(self._path)
        start = (
            struct.pack("!i", 0x30000)
            + f"user\0{self._user}\0database\0{database}\0\0".encode()
        )
        session.sendall(struct.pack("!i", len(start) + 4) + start)
        while (message := _message(session))[:1] != b"Z":
            if message[:1] == b"E":
                raise EOFError
        return session

    def _pass_on(
        self, client: socket.socket, session: socket.socket, free: list[socket.socket]
    ) -> bool:
        """Pass messages on until the client's transaction has ended (True), or the client has gone (False).

        The session is free before the client knows that its transaction has ended.
        """
        while True:
            readable, _, _ = select.select([client, session], [], [])
            if session in readable and self._mode == "session":
                client.sendall(_some(session))
            elif session in readable:
                message = _message(session)
                if message == _IDLE:
                    free.append(session)
                client.sendall(message)
                if message == _IDLE:
                    return True
            else:
                try:
                    message = _message(client)
                except EOFError:
                    message = b"X"
                if message[:1] == b"X":
                    free.append(session)
                    return False
                session.sendall(message)


def _some(connection: socket.socket) -> bytes:
    if not (found := connection.recv(1 << 16)):
        raise EOFError
    return found


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (more := connection.recv(count - len(data))):
            raise EOFError
        data += more
    return data


def _message(connection: socket.socket) -> bytes:
    head = _exactly(connection, 5)
    return head + _exactly(connection, struct.unpack("!i", head[1:])[0] - 4)


@contextlib.contextmanager
def pooled(lease: Lease, mode: Mode, *, in_turn: bool = False) -> Iterator[str]:
    """The URL of a pooler."""
    pooler = Pooler(lease, mode, in_turn=in_turn)
    try:
        yield pooler.url
    finally:
        pooler.close()
