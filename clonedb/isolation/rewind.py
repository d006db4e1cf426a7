"""`auto`: a clone that is brought back to the template's exact state after each test, where that is provable."""

from __future__ import annotations

from collections.abc import Sequence

from clonedb.clone import Clone
from clonedb.isolation.strategy import Origin, Reusable
from clonedb.postgres import sql
from clonedb.rewind.rewinder import Pristine, Rewinder, why_not
from clonedb.rewind.sessions import reset_session

__all__ = ["Rewind"]


class Rewind(Reusable):
    """What a test wrote is undone; a clone whose way back is not certain is dropped, and the next test gets another.

    On a server whose WAL cannot be read every test gets a clone of its own, as under `clone`.
    """

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._watched: dict[Clone, Rewinder] = {}
        self._unable = why_not(origin.server)
        self._pristine = None if self._unable else Pristine(origin.server, origin.template)
        if self._unable:
            origin.note("unable", self._unable)

    def make(self) -> Clone:
        """A new clone, watched from its first moment on."""
        clone = super().make()
        if self._pristine is not None:
            self._watched[clone] = Rewinder(clone, self._pristine)
        return clone

    def release(self, clone: Clone) -> Sequence[sql.Session]:
        """Rewind it, or drop it."""
        clone.dispose()
        rewinder = self._watched.get(clone)
        if rewinder is None:
            ended = () if clone.kept else clone.end_sessions()
            clone.drop()
            return ended
        if clone.kept:
            self.drop(clone)
            return ()
        try:
            ours = clone.lasting.idle(reset_session)
            open_still = self._left_open(clone, {*ours, *filter(None, [rewinder.pid])})
            outcome = rewinder.rewind(keep=ours)
        except BaseException:
            self._discard(clone)
            raise
        self.origin.note(outcome.kind, outcome.why)
        if outcome.kind == "refused":
            self.drop(clone)
        else:
            self._free.append(clone)
        return open_still

    def _left_open(self, clone: Clone, keep: set[int]) -> Sequence[sql.Session]:
        return clone.server.run(lambda connection: sql.left_open(connection, clone.name, keep=keep))

    def drop(self, clone: Clone) -> None:
        """End what watches it, too."""
        if (rewinder := self._watched.pop(clone, None)) is not None:
            rewinder.close()
        clone.drop()

    def close(self) -> None:
        """Drop what is left, and what rows were read from."""
        super().close()
        if self._pristine is not None:
            self._pristine.close()
