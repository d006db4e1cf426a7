"""What is on a server, what dead owners left there, and what is kept too long: found, and dropped if it is ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from clonedb.clones.clone import Clone
from clonedb.clones.retention import Limits, superfluous
from clonedb.errors import NotOursError, ServerError
from clonedb.names import Name, parse
from clonedb.originals import monotonic, now, sleep
from clonedb.postgres import locks, sql
from clonedb.postgres.local_leases import is_leased
from clonedb.postgres.obstacles import beyond_us
from clonedb.postgres.orphans import remove_orphans
from clonedb.postgres.server import Server
from clonedb.quantities import duration
from clonedb.templates.metadata import Kept, Metadata
from clonedb.url import redact

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Item", "Leftover", "collect", "drop_one", "enforce_retention", "inventory", "keep"]

_ENDING = 2.0  # seconds that a session may take to end


@dataclass(frozen=True, slots=True)
class Leftover:
    """A database that is to go, and why; of one that could not be dropped, why not. `project` is a key, if known."""

    name: str
    why: str
    project: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """A database of ours for a list: its kind in a word, its size in bytes, what there is to say."""

    name: str
    kind: str
    size: int
    about: str


@dataclass(frozen=True, slots=True)
class _Found:
    """A database whose name says that we made it, with what its comment says and the lock that protects it."""

    name: Name
    template: Metadata | None
    kept: Kept | None

    @property
    def project(self) -> str:
        """The key of its project; empty for a clone that is not kept and an unfinished template."""
        said = self.template or self.kept
        return said.project if said else ""

    @property
    def lock(self) -> int:
        return _lock_of(self.name)

    def is_used(self, server: Server, held: Collection[int]) -> bool:
        """Whether its owner lives, or a process that clones it; `held` are the keys of the locks held on the server."""
        return self.lock in held or is_leased(server.config, _lease_of(self.name))


def _lock_of(name: Name) -> int:
    return locks.owner_key(name.owner) if name.owner else locks.use_key(name.text)


def _lease_of(name: Name) -> str:
    return name.owner or name.text


def _found(connection: Connection[Any], prefix: str) -> list[_Found]:
    return [
        _Found(
            name,
            Metadata.from_json(database.comment) if name.kind == "template" else None,
            Kept.from_json(database.comment) if name.kind == "clone" else None,
        )
        for database in sql.databases(connection, prefix)
        if (name := parse(prefix, database.name))
    ]


def collect(
    server: Server,
    *,
    dry_run: bool = False,
    everything: bool = False,
    projects: Collection[str] | None = None,
    seconds: float = 60.0,
    refused: Callable[[Leftover], None] = lambda _: None,
) -> list[Leftover]:
    """Drop clones and unfinished templates of dead owners, and templates beyond the limits: what was dropped.

    With `everything`, also kept clones and every template, of these `projects` if keys are
    given, unless one is in use `refused` is told of each database that PostgreSQL did not drop,
    or that a client has open, and why.

    A name is ours when its mark fits; an owner is dead when its advisory lock is free, in every
    database of the server, and no process of this machine has its file lock. The databases are
    listed before the locks: an owner takes its lock before it makes a database, so a lock that
    is free afterwards was given up. Then the lock is taken for as long as the drop lasts. Stops
    after `seconds`; one process at a time collects.
    """
    import psycopg

    def all_of(project: str) -> bool:
        return everything and (projects is None or project in projects)

    with contextlib.closing(
        server.connect(server.config.maintenance_database, application_name="clonedb gc")
    ) as own:
        # a dry run changes nothing, and need not keep others from collecting
        if not dry_run and not locks.try_lock(own, locks.collector_key(server.config.prefix)):
            return []
        deadline = monotonic() + seconds
        gone = []
        silent = set() if dry_run else _end_silent(own, server.config.prefix)
        for leftover, name in _leftovers(server, own, all_of):
            if monotonic() > deadline:
                break
            try:
                deserted = _lock_of(name) in silent
                if dry_run or _drop(own, server, name, kept_too=everything, deserted=deserted):
                    gone.append(leftover)
            except (
                psycopg.Error,
                ServerError,
            ) as error:  # another role's, or a client has it open
                # with its session the collector's lock is gone: another process may collect
                if own.closed:
                    raise
                refused(Leftover(leftover.name, _reason(error)))

        if not dry_run and server.lease is not None:
            with contextlib.suppress(OSError):
                remove_orphans(own, server.lease.data_dir)

        if not dry_run:  # the server ends the session a moment after it is closed, and the next one may begin at once
            locks.release(own, locks.collector_key(server.config.prefix))
        return gone


def _leftovers(
    server: Server, own: Connection[Any], all_of: Callable[[str], bool]
) -> list[tuple[Leftover, Name]]:
    """What may go, with what its name says; `all_of` says whether all of a project does."""
    # in this order: see `collect`
    found = _found(own, server.config.prefix)
    held = locks.held_keys(own)
    config = server.config
    templates = superfluous(
        [(one, one.template) for one in found if one.template is not None],
        Limits(config.keep_templates, config.keep_days, config.keep_bytes),
        all_of=all_of,
        one_host=server.embedded,
    )
    gone = [*_clones(found, all_of), *templates]
    return [
        (Leftover(one.name.text, why, one.project), one.name)
        for one, why in gone
        if not one.is_used(server, held)
    ]


def _clones(
    found: Iterable[_Found], all_of: Callable[[str], bool]
) -> Iterator[tuple[_Found, str]]:
    """Those that go if their owner is gone, and why; unfinished templates, too."""
    for one in found:
        if one.template is None and (one.kept is None or all_of(one.kept.project)):
            yield one, "its owner is gone"


def _end_silent(own: Connection[Any], prefix: str) -> set[int]:
    """End the sessions of owners that sent no heartbeat for lease_timeout: the keys of the locks that they had."""
    held = locks.held_by(own, {one.lock for one in _found(own, prefix)})
    ended = {holder.pid for holder in locks.end_silent(own, {pid for pid, _ in held})}
    keys = {key for pid, key in held if pid in ended}
    deadline = monotonic() + _ENDING
    while ended & locks.holders(own, keys) and monotonic() < deadline:
        sleep(0.01)
    return keys


def _drop(
    own: Connection[Any],
    server: Server,
    found: Name,
    *,
    kept_too: bool,
    deserted: bool = False,
) -> bool:
    """Drop a database while holding the lock that proves it is unused; False when it is in use.

    One that is `deserted` was its owner's who was silent for longer than its lease: the clients
    connected to it are that owner's. Raises ServerError when a client is connected to any other:
    a person to a kept one, or tests to one whose owner on another host has lost the session with
    its lock and not noticed yet (an embedded server's users are on this one, where file locks
    tell). Raises psycopg's error when PostgreSQL refuses.
    """
    name, key = found.text, _lock_of(found)
    # two proofs: the file lock tells of this machine, the advisory lock of all
    if is_leased(server.config, _lease_of(found)) or not locks.try_lock(own, key):
        return False
    try:
        # under the lock: the clone may have been kept since it was listed
        database = sql.find_database(own, name)
        kept = database is not None and Kept.from_json(database.comment) is not None
        if database is None or (kept and not kept_too):
            return False
        # a pooler keeps sessions whose clients are gone; only a builder works in what is unfinished,
        # and one that lost its lock publishes nothing
        telling = kept or not (server.embedded or server.proxied or found.kind == "unfinished")
        if telling and not deserted and (users := sql.sessions(own, name, "client backend")):
            raise ServerError(
                f"database {name!r} is open in {'; '.join(users)}: close it there first"
            )

        sql.drop_whatever(own, database)
    finally:
        if not own.closed:
            locks.release(own, key)

    return True


def _reason(error: Exception) -> str:
    """What PostgreSQL says, in a line."""
    return redact(" ".join(str(error).split()))


def drop_one(server: Server, name: str) -> None:
    """Drop a database of ours that a user named.

    Raises ServerError while its owner or a user of it lives, and when PostgreSQL refuses;
    NotOursError for a database that clonedb did not make.
    """
    import psycopg

    found = parse(server.config.prefix, name)
    if found is None:
        raise NotOursError(
            f"database {name!r} was not made by clonedb (prefix {server.config.prefix!r})"
        )

    def drop(connection: Connection[Any]) -> bool:
        try:
            return _drop(connection, server, found, kept_too=True)
        except psycopg.Error as error:
            if connection.closed:
                raise
            raise ServerError(
                f"database {name!r} cannot be dropped: {_reason(error)}"
            ) from error

    if not server.run(drop):
        who = server.run(locks.holder, _lock_of(found))
        raise ServerError(
            f"database {name!r} is in use by {who or 'a process of this machine'}; end that process first"
        )


def inventory(server: Server) -> list[Item]:
    """Every database that clonedb made under the prefix, by name."""
    import psycopg

    def look(connection: Connection[Any]) -> list[Item]:
        held = locks.held_keys(connection)
        items = []
        for found in _found(connection, server.config.prefix):
            kind, about = _about(connection, found, used=found.is_used(server, held))
            with contextlib.suppress(psycopg.errors.InvalidCatalogName):  # dropped meanwhile
                if size := sql.database_size(connection, found.name.text):
                    items.append(Item(found.name.text, kind, size, about))

        return items

    return server.run(look)


def _about(connection: Connection[Any], found: _Found, *, used: bool) -> tuple[str, str]:
    if found.template is not None:
        data = found.template
        return "template", _about_template(data, used=used)
    if found.kept is not None:
        return "kept clone", f"{found.kept.project}, {found.kept.test or 'made by hand'}"
    kind = "clone" if found.name.kind == "clone" else "unfinished template"
    if used:
        return kind, "its owner lives"
    if reasons := beyond_us(connection, found.name.text):
        return kind, f"its owner is gone, and clonedb gc cannot drop it: {'; '.join(reasons)}"
    return kind, "its owner is gone: clonedb gc drops it"


def _about_template(data: Metadata, *, used: bool) -> str:
    """Of which project, at which state, who built it, and who used it last."""
    host, last = max(data.used_by_host().items(), key=itemgetter(1))
    use = "in use" if used else f"used {_ago(last)} on {host}"
    return f"{data.project}, {data.state}, built {_ago(data.made)} by {data.by}, {use}"


def _ago(when: float) -> str:
    return f"{duration(max(0.0, now() - when))} ago"


def keep(clone: Clone, kept: Kept, *, limited: bool = True) -> bool:
    """Keep a test's clone for people to look into, if there is room for it (or `limited` is false): whether it is kept.

    One process at a time decides: the workers of a run whose tests fail all at once would each
    find room.
    """
    server, key = clone.server, locks.keep_key(f"{clone.server.config.prefix} {kept.project}")
    held = server.run(locks.wait_for_lock, key, timeout=5.0)
    try:
        if not enforce_retention(server, kept.project, kept.run) and limited:
            return False
        clone.keep(kept)
        return True
    finally:
        if held:
            server.run(locks.release, key)


def enforce_retention(server: Server, project: str, run: str) -> bool:
    """Make room for one more kept clone of a failed test: whether there is room.

    A run keeps its first keep_count failures, which a developer reads first; older runs' give
    way to them.
    """
    import psycopg

    count = server.config.keep_count
    found = server.run(_found, server.config.prefix)
    ours = [
        (f.kept.when, f)
        for f in found
        if f.kept and f.kept.project == project and f.kept.test is not None
    ]
    here = [f for _, f in ours if f.kept and f.kept.run == run]
    older = [
        f for _, f in sorted(ours, key=lambda pair: pair[0], reverse=True) if f not in here
    ]
    # there must be room for those of this run and one more
    for old in older[max(0, count - 1 - len(here)) :]:
        with contextlib.suppress(
            psycopg.Error, ServerError
        ):  # `clonedb list` says why; or a client is connected
            server.run(_drop, server, old.name, kept_too=True)

    return len(here) < count
