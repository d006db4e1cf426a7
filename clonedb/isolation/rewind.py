"""`auto`: a clone that is brought back to the template's exact state after each test, where that is provable."""

from __future__ import annotations

from collections.abc import Sequence

from clonedb.clones.clone import Clone
from clonedb.errors import RewindError
from clonedb.isolation.mode import CloneSource, Reusable
from clonedb.isolation.server_changes import CHANGED, settle
from clonedb.isolation.template_reset import TemplateReset
from clonedb.postgres import client_sessions
from clonedb.rewind.rewinder import Outcome, Pristine, Rewinder, why_not

__all__ = ["Rewind"]

_EACH = 3  # how many it pays to make ahead where every test gets a new one
_AFTER_REFUSAL = 1  # and where a test has been followed by a new one before


class Rewind(Reusable):
    """What a test wrote is undone; a clone whose way back is not certain is dropped, and the next test gets another.

    On a server whose WAL cannot be read every test gets a clone of its own, as under `clone`.
    """

    def __init__(self, supply: CloneSource) -> None:
        super().__init__(supply)
        self._watched: dict[Clone, Rewinder] = {}
        self._template_reset = TemplateReset()
        self._refusals = 0
        self._unable = why_not(supply.server)
        self._pristine = (
            None if self._unable else Pristine(supply.server, supply.template, supply.spare)
        )
        if self._unable:
            supply.note("unable", self._unable)

    def make(self) -> Clone:
        """A new clone, watched from its first moment on."""
        # without rewinding each test needs one; after a refusal the next may come
        clone = self.supply.clone(
            ahead=_EACH if self._unable else _AFTER_REFUSAL if self._refusals else 0
        )
        if self._pristine is not None:
            self._watched[clone] = Rewinder(clone, self._pristine)
            # its connections are worth keeping open between tests
            clone.lasting.reused = True
        return clone

    def is_intact(self, clone: Clone) -> bool:
        """Not if the server has crashed meanwhile."""
        rewinder = self._watched.get(clone)
        return rewinder is not None and rewinder.is_intact

    def release(self, clone: Clone) -> Sequence[client_sessions.ClientSession]:
        """Rewind it, or drop it."""
        clone.dispose()
        rewinder = self._watched.get(clone)
        # not watched: the WAL of this server cannot be read
        if rewinder is None:
            ended = () if clone.kept else clone.end_sessions()
            self.supply.drop(clone)
            return ended

        if clone.kept:
            # the clone stays as it is; what was changed of the server is undone all the same
            self._settle(clone, rewinder)
            self.drop(clone)
            return ()

        try:
            renewal = self._template_reset.begin(clone)
            # connections are reset while the server reads the WAL
            try:
                outcome = rewinder.rewind(
                    keep=renewal.pids, meanwhile=renewal.end, busy=renewal.busy
                )
            finally:
                # also after an error, or a connection would be left in the middle of its reset
                renewal.end()

            left_open = outcome.left_open
            if (
                outcome.kind == "refused"
            ):  # perhaps before it was seen who is connected, and perhaps because of that
                ours = {*renewal.pids, *rewinder.own}  # which may take a moment to go
                left_open += tuple(one for one in clone.end_sessions() if one.pid not in ours)

            # after the test's sessions have ended: they are the ones that changed it
            if self._settle(clone, rewinder):
                outcome = Outcome("refused", CHANGED)
        except BaseException:
            self._discard(clone)
            raise

        self.supply.note(outcome.kind, outcome.why)
        if outcome.kind == "refused":
            self._refusals += 1
            self.drop(clone)
        else:
            self._verify(clone)
            if outcome.reshaped:  # no reset makes drivers forget what they prepared for it
                clone.lasting.close()
            self.hand_on(clone)

        return left_open

    def _settle(self, clone: Clone, rewinder: Rewinder) -> bool:
        """Undo or tell what the test changed of the whole server: whether it changed anything."""
        found = rewinder.changes_of_server()
        if found is not None:
            settle(self.supply, clone, found)
        return found is not None

    def _verify(self, clone: Clone) -> None:
        """Raises RewindError for a clone that is not what a new one is, if the configuration wants that looked at."""
        if not clone.server.config.verify:
            return
        from clonedb.rewind.verify import verify

        if differences := verify(clone.server, self.supply.template, clone):
            self._discard(clone)
            raise RewindError(
                f"database {clone.name!r} was rewound after the test, but differs from a new clone of template"
                f" {self.supply.template.name!r}: {'; '.join(differences)}; please report this, and use isolation"
                " 'clone' until it is mended"
            )

    def drop(self, clone: Clone) -> None:
        """End what watches it, too."""
        if (rewinder := self._watched.pop(clone, None)) is not None:
            rewinder.close()
        self.supply.drop(clone)

    def release_spares(self) -> None:
        """Drop what rows were read from, too."""
        super().release_spares()
        if self._pristine is not None:
            self._pristine.release_spares()

    def close(self) -> None:
        """Drop what is left, and what rows were read from."""
        super().close()
        if self._pristine is not None:
            self._pristine.close()
