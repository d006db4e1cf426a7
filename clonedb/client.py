"""A client of `clonedb serve` for Python, which needs nothing but the standard library.

>>> from clonedb.client import Client
>>> client = Client("http://127.0.0.1:5000")
>>> with client.lease(project="/srv/shop") as lease:
...     connect(lease.url)
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from clonedb.errors import CloneDBError, ConfigError

__all__ = ["Client", "ClientLease", "ServiceError"]

_PATIENCE = 30.0  # seconds for a reply, beside those that a database is waited for


class ServiceError(CloneDBError):
    """The service refused, or did not answer; `status` is the reply's, or 0."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status: int = status


@dataclass(frozen=True)
class ClientLease:
    """A database that this client has until it releases it, or has not been connected for the lease's time."""

    lease: str
    """Names the lease to the service."""
    id: int
    database: str
    url: str
    """`postgresql://user:password@host:port/database`."""
    expires: str
    """ISO 8601."""


class Client:
    """Speaks to one service; every call is a connection of its own, so that threads may share it.

    `url` is `http://host:port`, `token` what the service's `--token-file` holds.
    Raises ConfigError for a URL of another kind; all calls raise ServiceError.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"the service's url is {url!r}; it looks like 'http://127.0.0.1:5000'"
            )
        secure = parts.scheme == "https"
        self._class = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._place: tuple[str, int | None] = (parts.hostname, parts.port)
        self._root = parts.path.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def acquire(
        self,
        *,
        hash: str | None = None,  # noqa: A002 - what the protocol calls it
        project: str | None = None,
        wait: float = 60.0,
        holder: str = "",
    ) -> ClientLease:
        """A database of the template of a `hash`, or of a `project`'s (a directory of the service's host).

        It waits for `wait` seconds at most; `holder` is what the service's page shows.
        """
        given = {"hash": hash, "project": project, "wait": wait, "holder": holder}
        body = {name: value for name, value in given.items() if value not in (None, "")}
        return _lease(self._ask("POST", "/v1/leases", body, wait))

    @contextlib.contextmanager
    def lease(
        self,
        *,
        hash: str | None = None,  # noqa: A002 - what the protocol calls it
        project: str | None = None,
        wait: float = 60.0,
        holder: str = "",
    ) -> Iterator[ClientLease]:
        """As `acquire`, and released when the context ends."""
        found = self.acquire(hash=hash, project=project, wait=wait, holder=holder)
        try:
            yield found
        finally:
            self.release(found)

    def renew(self, lease: ClientLease) -> ClientLease:
        """Begin the lease's time anew."""
        return _lease(self._ask("POST", f"/v1/leases/{quote(lease.lease, safe='')}/renew"))

    def keep(self, lease: ClientLease) -> ClientLease:
        """The database stays as it is after this lease, until it is dropped."""
        return _lease(self._ask("POST", f"/v1/leases/{quote(lease.lease, safe='')}/keep"))

    def release(self, lease: ClientLease) -> None:
        """Give the database back: what was written to it is undone."""
        self._ask("DELETE", f"/v1/leases/{quote(lease.lease, safe='')}")

    def drop(self, lease: ClientLease) -> None:
        """Drop the database, kept or not."""
        self._ask("DELETE", f"/v1/leases/{quote(lease.lease, safe='')}/database")

    def _ask(self, method: str, path: str, body: Any = None, wait: float = 0.0) -> Any:
        connection = self._class(*self._place, timeout=wait + _PATIENCE)
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, self._root + path, text, headers)
            reply = connection.getresponse()
            found = _read(reply.read())
        except (OSError, http.client.HTTPException) as error:
            host, port = self._place
            raise ServiceError(
                f"the service at {host}:{port or 'its default port'} did not answer:"
                f" {str(error) or type(error).__name__}; check that `clonedb serve` runs there"
            ) from error
        finally:
            connection.close()
        if reply.status >= 400:
            told = found.get("message") if isinstance(found, dict) else None
            raise ServiceError(told or f"the service answered {reply.status}", reply.status)

        return found


def _read(text: bytes) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def _lease(found: Any) -> ClientLease:
    try:
        return ClientLease(
            **{name: found[name] for name in ("lease", "id", "database", "url", "expires")}
        )
    except (KeyError, TypeError) as error:
        raise ServiceError(
            "what answered is no clonedb service: its reply has no lease"
        ) from error
