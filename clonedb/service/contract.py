"""What the service does, apart from how it is spoken to: the routes know these names and nothing below them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from clonedb.errors import CloneDBError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import AsyncGenerator, Mapping, Sequence

__all__ = [
    "Address",
    "AlreadyInitializedError",
    "Cloning",
    "DiscardedError",
    "Disconnected",
    "DisconnectedError",
    "Event",
    "Lease",
    "NoSuchDatabaseError",
    "NoSuchTemplateError",
    "TemplateState",
    "UnavailableError",
]

Disconnected: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""A coroutine that ends when the caller has closed its connection."""


class AlreadyInitializedError(CloneDBError):
    """Another caller fills the template, or it is finished."""


class NoSuchTemplateError(CloneDBError):
    """No caller has begun a template with that hash, or it was discarded."""


class NoSuchDatabaseError(CloneDBError):
    """No database of that id, or of that lease, is handed out."""


class DiscardedError(CloneDBError):
    """The template was discarded while the caller waited for one of its databases."""


class DisconnectedError(CloneDBError):
    """The caller has closed its connection while it waited for a database."""


class UnavailableError(CloneDBError):
    """It cannot be done now: the time is up, the server is full or gone, or the service is stopping."""


@dataclass(frozen=True)
class Address:
    """Where a database is, over TCP."""

    host: str
    port: int
    username: str
    password: str
    database: str


@dataclass(frozen=True)
class Lease:
    """A database in the hands of a caller."""

    lease: str
    """A random name, which only the caller knows."""
    template: str
    """The hash, or the name of the project, that it was asked by."""
    id: int
    """Of the database: who gives it back and asks again may get the same one."""
    address: Address
    holder: str
    """Who asked: the peer's address, and what it calls itself."""
    since: dt.datetime
    expires: dt.datetime
    """Without a client session until then it is free again."""
    seen: dt.datetime | None
    """When a client was last connected to it."""
    kept: bool
    """It outlives its holder, until it is dropped."""


@dataclass(frozen=True)
class TemplateState:
    """One row of the list of templates."""

    hash: str
    state: Literal["building", "preparing", "ready", "discarded"]
    project: str | None
    """Of this host, whose template pytest uses, too; None for one that a caller filled."""
    heads: Sequence[str]
    bytes: int
    built_by: str
    built: dt.datetime | None
    used: dt.datetime | None
    ready: int
    leased: int
    waiting: int


@dataclass(frozen=True)
class Event:
    """Something that happened, for the list of events."""

    at: dt.datetime
    kind: Literal[
        "built", "discarded", "evicted", "expired", "refused", "adopted", "dropped", "kept"
    ]
    template: str
    text: str


class Cloning(Protocol):
    """The service behind its routes. Every method may be called by many tasks at once; errors are those above."""

    async def start(self) -> None:
        """Find what an earlier process left: templates, leases, ready databases."""
        ...

    async def close(self) -> None:
        """Stop; leases stay."""
        ...

    async def initialize(self, hash_: str, holder: str) -> Address:
        """Begin a template: an empty database to fill. Raises AlreadyInitializedError, UnavailableError."""
        ...

    async def finalize(self, hash_: str, *, doubtful: bool = False) -> None:
        """The template is filled; again is no error. Raises NoSuchTemplateError, UnavailableError.

        `doubtful` says that the caller may be one that was told AlreadyInitializedError, and
        finalizes all the same, as the Python client 0.9.2 does: then the template is sealed
        when its builder has left it, or once more callers have finalized it than were refused.
        """
        ...

    async def discard(self, hash_: str) -> None:
        """Drop a template, and its spare databases. Raises NoSuchTemplateError."""
        ...

    async def discard_all(self) -> None:
        """Drop every template that callers filled."""
        ...

    async def acquire(
        self,
        hash_: str,
        holder: str,
        *,
        wait: float,
        project: str | None = None,
        disconnected: Disconnected | None = None,
    ) -> Lease:
        """A database in the template's state that no other caller has, after at most `wait` seconds.

        With `project`, the directory of a project of this host, `hash_` is ignored: its template
        is built, if it is not there. `disconnected` returns when the caller has disconnected,
        which ends its wait for a free database.

        Raises DisconnectedError, NoSuchTemplateError, DiscardedError, UnavailableError; and the project's own errors.
        """
        ...

    async def give_back(self, hash_: str, id_: int) -> None:
        """IntegreSQL's unlock and recreate: what was written is undone before the next caller gets it.

        Raises NoSuchTemplateError, NoSuchDatabaseError.
        """
        ...

    async def renew(self, lease: str) -> Lease:
        """Begin the lease's time anew. Raises NoSuchDatabaseError."""
        ...

    async def release(self, lease: str) -> None:
        """As `give_back`, by the lease's name. Raises NoSuchDatabaseError."""
        ...

    async def keep(self, lease: str) -> Lease:
        """The database stays as it is, to be looked at. Raises NoSuchDatabaseError."""
        ...

    async def drop(self, lease: str) -> None:
        """End the lease and drop its database, kept or not. Raises NoSuchDatabaseError."""
        ...

    def templates(self) -> Sequence[TemplateState]:
        """All templates, the last used first."""
        ...

    def leases(self) -> Sequence[Lease]:
        """All leases, the newest first."""
        ...

    def events(self) -> Sequence[Event]:
        """The last 200 events, the newest first."""
        ...

    def counts(self) -> Mapping[tuple[str, ...], float]:
        """What was counted since the start, by a name and labels.

        `("events", kind)`; `("resets", outcome, reason)` of databases that came back: rewound,
        untouched, or refused and made new; `("builds",)` of callers' templates and the
        `("build seconds",)` that they took.
        """
        ...

    def changes(self) -> AsyncGenerator[None]:
        """Something above has changed; at most four times a second."""
        ...

    async def ping(self) -> Mapping[str, float]:
        """Ask the server; what only it knows: `sessions`, `bytes`. Raises UnavailableError."""
        ...
