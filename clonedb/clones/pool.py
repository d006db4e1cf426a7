"""Clones made ahead and dropped behind, by one thread of the process with a session of its own."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Condition, Thread

from clonedb.clones.clone import Clone, create
from clonedb.errors import ServerError
from clonedb.originals import getpid, monotonic
from clonedb.postgres.admission import Waiter
from clonedb.postgres.background import Backoff, OwnSession, drop_at_once, is_owned
from clonedb.postgres.server import Server
from clonedb.templates.metadata import TemplateRecord

__all__ = ["Pool"]

_BATCH = 4  # used clones that are dropped at once where dropping waits for a checkpoint
_TOO_MANY = 8  # used clones after which a test drops its own
_LOOKS = 0.5  # seconds after which an idle process that has clones ahead asks whether a process waits for room
_CLOSE = 10.0  # seconds that closing may take
_ATTEMPTS = 3  # to drop a clone whose server answers


class Pool:
    """The clones of one template on one server, for one process.

    The first taker gets a clone made on the spot, and so does every taker until one takes a
    second clone and says that more will be taken. Then a thread starts: it makes one clone
    ahead, one more whenever a taker has to wait, up to what the takers say, and drops used ones
    in the time that is left. An error of its own is not raised: the next taker makes a clone on
    the spot and meets the same one. `total` says how many clones will be taken in all, None if
    that is not known; `waiter` what the process does while one is waited for.
    """

    def __init__(
        self,
        server: Server,
        template: TemplateRecord,
        waiter: Waiter | None = None,
        total: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._server = server
        self._template = template
        self._admission = server.admission
        self._waiter = waiter
        self._total = total
        self._pid = getpid()
        # takers and the thread meet here: it guards the two queues
        self._changed = Condition()
        self._thread: Thread | None = None
        self._session = OwnSession(server)
        # made ahead, and used ones to drop
        self._ready: deque[Clone] = deque()
        self._used: deque[Clone] = deque()
        self._expected: int | None = None
        # how often a clone was taken with more to come; how many are made ahead
        self._takes = 0
        self._depth = 0
        # whether the thread makes one, and whether that is to be dropped when it is done
        self._making = False
        self._unwanted = False
        self._connects = False
        self._closing: float | None = None
        self._make_backoff = Backoff()
        self._drop_backoff = Backoff()
        # of drops while closing
        self._failed = 0
        self._error: Exception | None = None

    @property
    def others_wait(self) -> bool:
        """Whether another process waits for room for a clone, as this one knows half a second later at most."""
        return self._admission.others_wait()

    def take(self, *, ahead: int = 0) -> Clone:
        """A clone: one made ahead, or a new one, for which room may be waited for.

        `ahead` says how many it pays to make ahead for the taker's next times: none, if there
        will be no next time. Raises as `create` and `Admission.slot` do.
        """
        clone = None
        # a forked child has the parent's clones in its memory, and no thread
        if self._pid == getpid() and self._closing is None:
            self._takes += ahead > 0
            if ahead and self._takes > 1:
                self._start()
            if self._thread is not None:
                clone = self._take_ready(ahead=ahead)
        return clone or self._make(self._admission.slot(self._waiter))

    def spare(self) -> Clone | None:
        """A clone for the process itself, or None if there is no room for more than the tests' own."""
        slot = None if self._admission.others_wait() else self._admission.try_slot()
        return None if slot is None else self._make(slot)

    def drop(self, clone: Clone) -> None:
        """Drop a used clone behind the test, or at once when there is no thread; sessions left open are ended."""
        # nothing is dropped behind a test: without a thread, while closing, and a kept clone is
        # only given up
        at_once = (
            self._thread is None
            or self._pid != getpid()
            or self._closing is not None
            or clone.kept
        )
        if at_once or len(self._used) >= _TOO_MANY:
            clone.drop()
            return

        clone.dispose_all()
        with self._changed:
            self._connects = clone.lasting.connection.asked
            self._used.append(clone)
            self._changed.notify_all()

    def release_spares(self) -> None:
        """Drop what was made ahead, and what is just being made: a process waits for room, or it may be spoilt."""
        if self._thread is not None and self._pid == getpid():
            with self._changed:
                # what is being made cannot be stopped: it is dropped when it is there
                self._unwanted = self._making
                self._give_up()
                self._changed.notify_all()

    def close(self) -> None:
        """Drop all that is left, within 10 seconds; may be called again. Raises the first error of dropping."""
        if self._thread is None or self._pid != getpid():
            return
        with self._changed:
            if self._closing is None:
                self._closing = monotonic() + _CLOSE
            self._changed.notify_all()

        # a drop that is under way may end a moment later
        self._thread.join(_CLOSE + 1.0)
        left, error = self._failed + len(self._used), self._error
        self._used.clear()
        self._failed, self._error = 0, None
        if left:
            which = "a used clone" if left == 1 else f"{left} used clones"
            raise ServerError(
                f"could not drop {which} on {self._server.about} within {_CLOSE:g} s: {error or 'too many'};"
                " the next run does, or `clonedb gc`"
            ) from error

    def _take_ready(self, *, ahead: int) -> Clone | None:
        """A clone made ahead, or one that is just being made."""
        while True:
            with self._changed:
                if not self._ready:
                    if ahead:
                        self._depth = min(self._depth + 1, ahead)
                    self._changed.notify_all()

                    # it is done sooner than another that begins now
                    self._changed.wait_for(lambda: self._ready or not self._making)

                if not self._ready:
                    return None
                clone = self._ready.popleft()

            try:
                # not if the server has ended the owner's session: others may collect its clones
                ours = is_owned(self._server, clone.name)
            except BaseException:
                self._put_back(clone)
                raise

            # one less is ready: the thread makes the next
            with self._changed:
                self._changed.notify_all()
            if ours and not clone.may_lack_rows:
                return clone
            # others may collect it, or a crash may have taken rows from it
            self.drop(clone)

    def _put_back(self, clone: Clone) -> None:
        with self._changed:
            self._ready.append(clone)

    def _make(self, slot: int, *, behind: bool = False) -> Clone:
        """A clone for a slot; `behind` the tests it is made by the thread, which does not wait for memory."""
        session = self._session if behind else None
        make = partial(
            create,
            self._server,
            self._template,
            session=session,
            waiter=self._waiter,
            wait=not behind,
        )
        # the slot first: a clone counts from before it is made
        return self._admission.filled(slot, make)

    def _start(self) -> None:
        if self._thread is None:
            self._expected = self._total()
            self._thread = Thread(target=self._work, name="clonedb-pool", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            while step := self._next():
                step()
        finally:
            with self._changed:
                # takers wait for what is being made; an error of this thread's must not leave
                # them waiting
                self._making = False
                self._changed.notify_all()
            self._session.close()

    def _next(self) -> Callable[[], None] | None:
        """What is to be done next, waited for; None when the pool is closed and nothing is left to do."""
        with self._changed:
            while True:
                now = monotonic()
                # what is ready goes the way of used ones, as long as there is time
                if self._closing is not None:
                    self._give_up()
                    return self._drop_some if self._used and now < self._closing else None

                if now >= self._make_backoff.end and self._is_wanted():
                    self._making = True
                    return self._make_one
                if self._used and now >= self._drop_backoff.end:
                    return self._drop_some
                pause = _LOOKS if self._ready or self._depth or self._used else None
                # False: nothing happened for a while
                if not self._changed.wait(pause) and self._ready:
                    return self._look

    def _is_wanted(self) -> bool:
        ahead = len(self._ready)
        if ahead >= self._depth or self._admission.is_awaited:
            return False
        # not more than there are tests left to take one
        return self._expected is None or ahead < self._expected - self._takes

    def _give_up(self) -> None:
        self._used += self._ready
        self._ready.clear()

    def _look(self) -> None:
        with contextlib.suppress(Exception):  # the next query meets the same error
            if self._admission.others_wait():
                self.release_spares()

    def _make_one(self) -> None:
        """One clone ahead, warm; without room, or when it fails, nothing is tried for a while."""
        clone, slot = None, None
        try:
            slot = self._admission.try_slot()
            if slot is not None:
                clone = self._make(slot, behind=True)
                self._warm(clone)
        except Exception:  # noqa: BLE001 - the next taker makes one on the spot, and meets it
            # a clone that was made but not warmed: its slot is free when it is dropped
            with self._changed:
                self._used.extend([clone] if clone is not None else [])
            clone = None

        with self._changed:
            self._making = False
            if clone is not None:
                # `release_spares` was called while it was made
                (self._used if self._unwanted else self._ready).append(clone)
                self._make_backoff.forget()
            else:
                self._make_backoff.begin()

            self._unwanted = False
            self._changed.notify_all()

    def _warm(self, clone: Clone) -> None:
        """Open the connection of clonedb_connection, if the last test had that: 4 ms less for the next.

        Else have the first connection write pg_internal.init, which WAL_LOG does not copy: 4 ms
        less for the test's.
        """
        if self._connects:
            with contextlib.suppress(Exception):  # the test opens it, and meets the same
                clone.lasting.connection.open()
        elif self._server.info.fsync or self._server.config.strategy == "wal_log":
            self._server.connect(clone.name, application_name="clonedb pool").close()

    def _drop_some(self) -> None:
        """A used clone; where dropping waits for a checkpoint, up to four at once."""
        with self._changed:
            count = min(len(self._used), _BATCH) if self._server.info.fsync else 1
            batch = [self._used.popleft() for _ in range(count)]
        if count > 1:
            drop_at_once(self._server, [clone.name for clone in batch])
        for clone in batch:
            self._drop_one(clone)

    def _drop_one(self, clone: Clone) -> None:
        error = self._try_to_drop(clone)
        with self._changed:
            if error is None:
                self._drop_backoff.forget()
            elif self._closing is None:
                self._used.append(clone)
                self._drop_backoff.begin()
            else:
                self._failed += 1
                self._error = self._error or error

    def _try_to_drop(self, clone: Clone) -> Exception | None:
        for _ in range(_ATTEMPTS):
            try:
                clone.drop_by(self._session)
            except Exception as error:  # noqa: BLE001 - told by close()
                found = error
            else:
                return None
        return found
