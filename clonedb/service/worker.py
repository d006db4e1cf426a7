"""The clones of one template, as threads make them, bring them back and drop them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from clonedb.clones.clone import Clone, create
from clonedb.errors import ServerError
from clonedb.originals import now
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.rewind.rewinder import Outcome, Pristine, Rewinder, why_not
from clonedb.service.sessions import Sessions
from clonedb.templates.crash_losses import what_is_lost
from clonedb.templates.metadata import Kept, TemplateRecord

__all__ = ["PROJECT", "Entry", "GoneError", "NoRoomError", "Worker"]

PROJECT = "clonedb serve"
"""What the comments of the service's databases say in place of a project."""

_ATTEMPTS = 3  # to drop a database whose server answers
_SESSIONS = 64  # of clonedb's own that clones on one server may keep open to be brought back by


class NoRoomError(ServerError):
    """All of `max_clones` are in use."""


class GoneError(ServerError):
    """The template is gone from the server, or has lost rows: no clone can be made of it any more."""


@dataclass(slots=True, eq=False)
class Entry:
    """A database of the pool of a template; its `id` stays with it.

    `worker` has made it, None if an earlier process did. `rewinder` watches it from the moment
    it was made; None where nothing can be undone, and `why` says why.
    """

    id: int
    clone: Clone
    worker: Worker | None = None
    rewinder: Rewinder | None = None
    why: str = "it was lent before the service was started again"

    @property
    def name(self) -> str:
        """The database's."""
        return self.clone.name

    @property
    def oid(self) -> int:
        """Its number."""
        return self.clone.oid or 0

    @property
    def is_intact(self) -> bool:
        """Whether it is as it was when it was made or brought back, as far as that is known here."""
        return self.rewinder.is_intact if self.rewinder else not self.clone.may_lack_rows

    @property
    def sessions(self) -> int | None:
        """How many sessions it had had by then; None if that is not known."""
        return self.rewinder.sessions if self.rewinder else None


class Worker:
    """Makes, rewinds and drops the clones of one template; several threads may use it at once."""

    def __init__(self, server: Server, record: TemplateRecord, sessions: Sessions) -> None:
        self.server = server
        self.record = record
        self._sessions = sessions
        self._lock = threading.Lock()
        self._busy = 0
        self._closed = False
        self._asked = False
        self._unable: str | None = None
        self._pristine: Pristine | None = None
        self._watched: set[Entry] = set()

    def make(self, number: int) -> Entry:
        """A new clone, watched from its first moment on. Raises NoRoomError, GoneError, and what `create` raises."""
        with self._working():
            return self._make(number)

    def _make(self, number: int) -> Entry:
        pristine = self._ready()
        try:
            clone = self._clone()
        except ServerError as error:
            if self._is_gone():
                raise GoneError(str(error)) from error
            raise
        if clone is None:
            raise NoRoomError(
                f"max_clones = {self.server.config.max_clones} of {self.server.about} are in use"
            )

        try:
            # it outlives this process, so that no other one collects what is lent while the
            # service is being started again
            kept = Kept(
                project=PROJECT, run=self.server.owner, when=now(), test="ready or lent"
            )
            self._sessions.run(sql.comment, clone.name, kept.to_json())
            entry = Entry(number, clone, self, why=self._unable or "")
            if pristine is not None:
                self._watch(entry, pristine)
        except BaseException:
            with contextlib.suppress(Exception):
                clone.drop_by(self._sessions)
            raise
        return entry

    def reset(self, entry: Entry) -> Outcome:
        """Bring a clone back to the template's contents; after 'refused' it is only good to be dropped.

        Sessions that are connected to it are ended. Nothing that a caller did raises.
        """
        if entry.rewinder is None:
            return Outcome("refused", entry.why)
        with self._working():
            return self._reset(entry, entry.rewinder)

    def _reset(self, entry: Entry, rewinder: Rewinder) -> Outcome:
        outcome = rewinder.rewind()
        found = rewinder.changes_of_server()
        if found is not None:
            # its objects may be a new role's: first the database goes
            self._drop(entry)
            left = [f"{one.what} ({one.statement})" for one in found.undo(self.server)]
            told = f": {'; '.join(left)} stays" if left else ""
            return Outcome("refused", f"it changed what belongs to the whole server{told}")

        if rewinder.pid is not None and not self._sessions.reserve(entry, _SESSIONS):
            # there are many: it is opened again on need
            rewinder.close()
        return outcome

    def drop(self, entry: Entry) -> None:
        """Drop a clone, clients that are connected to it notwithstanding. Raises the last error of several attempts."""
        for attempt in range(_ATTEMPTS):
            try:
                self._drop(entry)
            except Exception:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def forget(self, entry: Entry) -> None:
        """Watch a clone no longer."""
        self._watched.discard(entry)
        self._close_rewinder(entry)

    def _close_rewinder(self, entry: Entry) -> None:
        self._sessions.give_up(entry)
        if entry.rewinder is not None:
            entry.rewinder.close()

    def close(self) -> None:
        """End its sessions, when no thread works any more; clones are left."""
        with self._lock:
            self._closed = True
            if not self._busy:
                self._end()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise ServerError(f"template {self.record.name!r} is not used any more")
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                if self._closed and not self._busy:
                    self._end()

    def _end(self) -> None:
        watched, self._watched = [*self._watched], set()
        for entry in watched:
            self._close_rewinder(entry)
        if self._pristine is not None:
            with contextlib.suppress(Exception):  # what it cannot drop is collected
                self._pristine.close()
        self._pristine = None

    def release_spares(self) -> None:
        """Drop the clone that rows are read from: another process waits for room."""
        if self._pristine is not None:
            self._pristine.release_spares()

    def _ready(self) -> Pristine | None:
        """What clones are brought back by; None if the server does not let us."""
        with self._lock:
            if not self._asked:
                self._unable = why_not(self.server)
                self._asked = True
            if self._pristine is None and self._unable is None:
                self._pristine = Pristine(self.server, self.record, self._clone)
            return self._pristine

    def _clone(self) -> Clone | None:
        """A clone, or None if there is no room for one."""
        slot = self.server.admission.try_slot()
        if slot is None:
            return None
        make = partial(create, self.server, self.record, session=self._sessions, wait=False)
        return self.server.admission.filled(slot, make)

    def _watch(self, entry: Entry, pristine: Pristine) -> None:
        self._warm(entry.clone)
        rewinder = Rewinder(entry.clone, pristine)
        if rewinder.is_intact:
            entry.rewinder = rewinder
            self._watched.add(entry)
        else:
            # there is something in the template that cannot be undone: it is lent once
            entry.why = rewinder.rewind().why

    def _is_gone(self) -> bool:
        name = self.record.name
        found = self._sessions.run(sql.find_database, name)
        return found is None or what_is_lost(self.server, self.record) is not None

    def _warm(self, clone: Clone) -> None:
        """Have a first session write pg_internal.init, where the copy has none: 4 ms less for the caller's."""
        if self.server.info.fsync or self.server.config.strategy == "wal_log":
            self.server.connect(clone.name, application_name="clonedb serve").close()

    def _drop(self, entry: Entry) -> None:
        self.forget(entry)
        entry.clone.drop_by(self._sessions)
