"""One clone brought back to its template's exact contents, as often as tests use it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from clonedb.clones.clone import Clone
from clonedb.originals import getpid, monotonic
from clonedb.postgres.client_sessions import ClientSession
from clonedb.postgres.server import Server
from clonedb.rewind.early import EarlyUndoing, Kept
from clonedb.rewind.facts import RefusedError
from clonedb.rewind.prediction import Prediction
from clonedb.rewind.pristine import Pristine
from clonedb.rewind.server_changes import ServerChanges, find_changes
from clonedb.rewind.server_state import ServerState, read_state
from clonedb.rewind.undo import Undoing
from clonedb.rewind.wal import Written
from clonedb.rewind.witness import Mark

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Outcome", "Pristine", "Rewinder", "why_not"]

_MOST_REWINDS = 1000  # after which a new clone is due: 33 ms among so many cost nothing
_MOST_DDL = 200  # tests with DDL of which nothing is left but dead rows in the catalogs
_READING = 5.5e-3 / 2**20  # seconds that it takes to read a byte of WAL
_CHECKPOINT = 0.4  # seconds that it takes to drop a clone on a server that waits for the disk
# bytes; bounds for where a clone is very cheap or very dear
_LEAST_WAL, _MOST_WAL = 16 * 2**20, 256 * 2**20
_PATIENCE = 2.0  # seconds that it may take until no session is connected


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a used clone: nothing was written, all was undone, or it is to be dropped because of `why`.

    `left_open` are the clients' sessions that were not closed, which were ended. `reshaped`
    says that a relation or a function came and went, of which the plans of sessions may hold
    something.
    """

    kind: Literal["untouched", "rewound", "refused"]
    why: str = ""
    left_open: tuple[ClientSession, ...] = field(default=(), compare=False)
    reshaped: bool = field(default=False, compare=False)


class Rewinder:
    """Watches one clone from the moment it is made, before it is written to.

    `own` are the backend pids of its sessions in the clone, also of those that were ended.
    """

    def __init__(self, clone: Clone, pristine: Pristine) -> None:
        """Mark the position in the WAL. The first of a process also reads the template's catalogs in the clone."""
        self._clone = clone
        self._pristine = pristine
        self._pid = getpid()
        # both count towards `bloat`
        self._rewinds = 0
        self._after_ddl = 0
        self._reshaped = False
        self._most_wal = _most_wal(clone)
        self._undoing: Undoing | None = None
        self.own: set[int] = set()
        # why the clone is of no use any more
        self._lost: str | None = None
        # for `changes_of_server`: where its next look begins, what was there then, and the
        # files of shared catalogs that the last window wrote (None: not known)
        self._start: str | None = None
        self._server_state: ServerState | None = None
        self._shared: Collection[int] | None = None
        # the facts first: they are read by a session in the clone, which the mark has to count
        with self._losing():
            self._facts = pristine.facts(clone.name)
            self._witness = pristine.witness()
            self._oid, template, self._about, self._mark = self._witness.mark(
                clone.name, pristine.template.name
            )
            self._start = self._mark.position
            # after the mark, as `find_changes` asks for: what differs later was written after
            # `start`
            self._server_state = pristine.server.run(read_state)
            # by oid: the name may have passed to a new template since the clone was made
            pristine.require_same(template)
            self._lost = self._facts.refusal

    @property
    def pid(self) -> int | None:
        """The backend pid of its own session in the clone, if it has one."""
        return None if self._undoing is None else self._undoing.pid

    @property
    def sessions(self) -> int:
        """How many sessions the clone had had when it was brought back last, by the server's count."""
        return self._mark.sessions

    @property
    def is_intact(self) -> bool:
        """Whether the clone is still as the last rewind left it, as far as that can be told without asking the server.

        A crash of the server may have lost what was undone and not flushed, and it empties
        unlogged tables.
        """
        return self._lost is None and getpid() == self._pid and self._witness.is_alive

    def rewind(
        self,
        keep: Collection[int] = (),
        meanwhile: Callable[[], bool] | None = None,
        busy: Collection[int] = (),
    ) -> Outcome:
        """End the clone's sessions but the idle ones in `keep` (backend pids), and undo what was written.

        `meanwhile` is called while the server works, and ends the resets that keep those of
        `busy` from being idle yet: false if one failed, so that it has to be looked again. After
        'untouched' and 'rewound' the clone has the template's exact
        contents, and the next window has begun; after 'refused' it is of no use any more.
        Nothing that a test did raises.
        """
        left_open: list[ClientSession] = []
        self._reshaped = False
        if self._lost is None:
            with self._losing():
                kind = self._rewind(Kept(keep, busy, meanwhile), left_open)
                return Outcome(kind, left_open=tuple(left_open), reshaped=self._reshaped)
        return Outcome("refused", self._lost or "", tuple(left_open))

    def changes_of_server(self) -> ServerChanges | None:
        """What the clone's sessions, which have ended, changed of the whole server since this was last asked.

        To be asked after each test. It costs nothing if `rewind` saw in the WAL that none did.
        If something is found, the clone is of no use any more: its sessions may have what was
        changed.
        """
        before, start, written = self._server_state, self._start, self._shared
        if before is None or start is None or getpid() != self._pid:
            return None
        self._start, self._shared = self._mark.position, None
        # None if a rewind was refused before the WAL was read
        if written is not None and not before.may_differ(written):
            return None
        found = find_changes(self._pristine.server, self._oid, before, start)
        self._server_state = found.now if found else None
        return found if found and found.changes else None

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        """Every error in here costs the clone and is not raised; an interrupt is raised."""
        try:
            yield
        except RefusedError as error:
            self._lost = str(error)
        except Exception as error:  # noqa: BLE001 - a driver's, the server's: none is a test's failure
            self._lost = _reason(error)
        except BaseException:
            self._lost = "it was interrupted"
            raise
        finally:
            if self._lost is not None:
                self.close()

    def _rewind(
        self,
        kept: Kept,
        left_open: list[ClientSession],
    ) -> Literal["untouched", "rewound"]:
        if getpid() != self._pid:
            raise RefusedError("the process was forked")
        since = self._mark
        written, mark, undone = self._look(kept, left_open)
        # their writing leaves no WAL, so an empty window proves nothing
        unlogged = bool(self._facts.unlogged_tables or self._facts.unlogged_sequences)
        if self._undoing is None and (written or written.ddl or unlogged):
            self._open()  # one more session: the server's count of them has to be read again
            written, mark, undone = self._look(Kept(kept.pids), left_open)

        # before the unlogged tables are looked at: one that was truncated is put back as a
        # whole
        if written.ddl:
            # plans know the columns of relations, and a function may have changed settings
            # under which they were made
            self._reshaped = not written.catalogs.isdisjoint(("pg_attribute", "pg_proc"))
            self._look_at_catalogs(written, since)

        if unlogged:
            self._open().look_at_unlogged(written, self._facts, since)
        if not written:
            self._mark = mark
            return "untouched"

        self._pristine.habits.learn(written)
        # each rewind leaves dead rows behind
        if self._rewinds >= _MOST_REWINDS:
            raise RefusedError("bloat")
        self._mark = mark if undone else self._open().undo(written, since, mark, kept.pids)
        self._rewinds += 1
        return "rewound"

    def _look_at_catalogs(self, written: Written, since: Mark) -> None:
        self._after_ddl += 1
        if self._after_ddl > _MOST_DDL:
            raise RefusedError("bloat")
        self._facts = self._open().look_at_catalogs(written, self._facts, since)

    def _look(
        self,
        kept: Kept,
        left_open: list[ClientSession],
    ) -> tuple[Written, Mark, bool]:
        """What was written, when no other session is connected any more, and the mark after it.

        Whether it is undone already is the last.
        """
        self._shared = None
        deadline = monotonic() + _PATIENCE
        at_once = False
        pids = (*kept.pids, *filter(None, [self.pid]))
        early = EarlyUndoing(self._undoing, self._prediction(), self._mark, kept)
        look = partial(
            self._witness.look,
            self._oid,
            self._mark,
            pids,
            self._facts,
            most_wal=self._most_wal,
        )
        found = look(busy=early.busy, meanwhile=early.run)
        if early.failed:  # what a session left is written only when it ends
            found = None
        seen_at_once = found is not None
        # from here on all to keep are idle
        look = partial(look, meanwhile=lambda: early.transaction)
        found = found or look()
        while found is None:
            if monotonic() > deadline:
                raise RefusedError("sessions came again and again")
            left_open += self._witness.send_away(
                self._oid, pids, at_once=at_once, deadline=deadline
            )
            at_once = True
            found = look()

        written, mark = found
        self._shared = written.shared
        if written.refusal is not None:
            raise RefusedError(written.refusal)
        # others write there, too (pg_database, with each clone); what is said of this database
        # decides
        if written.shared:
            about = written.about or self._witness.about(self._oid)
            if about != self._about:
                raise RefusedError("the database itself was altered")
        return written, early.mark(mark), seen_at_once and early.has_undone(written, mark)

    def _prediction(self) -> Prediction | None:
        """What is undone before it is known what was written, if that saves time and can be done."""
        facts = self._facts
        if self._undoing is None or not self._witness.far:
            return None
        # no WAL tells of their changes, so they are looked at in any case
        if facts.unlogged_tables or facts.unlogged_sequences:
            return None
        return self._pristine.habits.predict()

    def _open(self) -> Undoing:
        if self._undoing is None:
            self._undoing = Undoing(self._pristine, self._clone.name, self._oid)
            self.own.add(self._undoing.pid)
        return self._undoing

    def close(self) -> None:
        """End the session that undoes; the clone is not dropped."""
        if self._undoing is not None and getpid() == self._pid:
            with contextlib.suppress(Exception):
                self._undoing.close()
        self._undoing = None


def _most_wal(clone: Clone) -> int:
    """Bytes of WAL after a test, of all databases together, that are read in less time than a new clone takes."""
    drop = _CHECKPOINT if clone.server.info.fsync else 0.0
    return int(min(max(_LEAST_WAL, (clone.seconds + drop) / _READING), _MOST_WAL))


def why_not(server: Server) -> str | None:
    """Why the WAL of this server cannot be read, in a line, or None: asked once, before anything else of this package.

    Creates the extension pg_walinspect in the maintenance database if it is not there.
    """
    if server.proxied:
        return "a proxy is between the tests and the server, so that nobody can tell whose a session is"
    if server.info.major < 15:
        return f"PostgreSQL {server.info.major} cannot show its WAL (15 and newer can)"
    if not server.info.superuser:
        return f"role {server.info.user!r} is not a superuser, so it may neither read the WAL nor undo in silence"
    return server.run(_why_not)


def _why_not(connection: Connection[Any]) -> str | None:
    import psycopg

    row = connection.execute(
        "select current_setting('wal_level') = 'minimal', pg_is_in_recovery(),"
        " exists (select from pg_available_extensions where name = 'pg_walinspect')"
    ).fetchone()
    minimal, standby, available = row or (True, True, False)
    if minimal:
        return "wal_level is minimal, which leaves writes out of the WAL"
    if standby:
        return "the server is a standby"
    if not available:
        return "the server has no extension pg_walinspect (Debian: postgresql-contrib)"
    for _ in range(
        3
    ):  # processes that create it at once fail by a unique index of the catalogs
        try:
            connection.execute("create extension if not exists pg_walinspect")
        except (
            psycopg.errors.UniqueViolation,
            psycopg.errors.DuplicateObject,
            psycopg.errors.InternalError,
        ):
            continue
        except psycopg.Error as error:
            return (
                f"the extension pg_walinspect cannot be created: {' '.join(str(error).split())}"
            )

        row = connection.execute(
            "select to_regproc('pg_get_wal_records_info') is null"
        ).fetchone()
        return (
            "the extension pg_walinspect is in a schema outside of search_path"
            if row and row[0]
            else None
        )

    return "the extension pg_walinspect cannot be created: other processes are creating it"


def _reason(error: Exception) -> str:
    """An error as a reason that can be counted, so without its message, which may hold names and values."""
    state = getattr(error, "sqlstate", None)
    # undefined_file
    if state == "58P01":
        return "WAL was recycled before it was read"
    return (
        f"the server refused it (SQLSTATE {state})"
        if state
        else f"it failed ({type(error).__name__})"
    )
