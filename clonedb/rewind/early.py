"""What goes on while the witness reads the WAL: sessions are reset, and what was probably written is undone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from clonedb.rewind.prediction import Early, Prediction
from clonedb.rewind.undo import Undoing
from clonedb.rewind.wal import Written
from clonedb.rewind.witness import Mark

__all__ = ["EarlyUndoing", "Kept"]


@dataclass(frozen=True, slots=True)
class Kept:
    """The backends of sessions that stay; `finish` ends the resets that keep those of `busy` from being idle.

    It says whether all of them succeeded.
    """

    pids: Collection[int]
    busy: Collection[int] = ()
    finish: Callable[[], bool] | None = None


class EarlyUndoing:
    """The resets, and the undoing of a prediction if there is one, in the round trip that the witness's question takes.

    Whether the prediction was right, the answer to that question tells. `failed` says that a
    reset did not succeed.
    """

    def __init__(
        self, undoing: Undoing | None, prediction: Prediction | None, since: Mark, kept: Kept
    ) -> None:
        self._undoing = undoing if prediction is not None else None
        self._prediction = prediction
        self._since = since
        self._kept = kept
        self._early: Early | None = None
        self.failed: bool = False

    @property
    def busy(self) -> Collection[int]:
        """The backends that need not be idle meanwhile."""
        return (
            self._kept.busy if self._undoing is None else (*self._kept.busy, self._undoing.pid)
        )

    @property
    def transaction(self) -> int | None:
        """The transaction that undid something; its records are none of the test's."""
        return None if self._early is None else self._early.transaction

    def run(self) -> int | None:
        """Do it: the transaction."""
        kept = self._kept
        if self._undoing is not None and self._prediction is not None:
            self._undoing.session.begin_early(
                self._prediction, self._since, kept.pids, kept.busy
            )
        self.failed = kept.finish is not None and not kept.finish()
        if self._undoing is not None:
            self._early = self._undoing.session.end_early()
        return self.transaction

    def mark(self, mark: Mark) -> Mark:
        """The witness's mark, with what is to be known of this."""
        return mark if self._early is None else self._early.mark(mark)

    def has_undone(self, written: Written, mark: Mark) -> bool:
        """Whether all that was written is undone, and no session came between the beginning of this and the mark."""
        return (
            self._early is not None
            and self._early.sessions == mark.sessions
            and self._early.saw(written)
            and self._prediction is not None
            and self._prediction.covers(written)
        )
