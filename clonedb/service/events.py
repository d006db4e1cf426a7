"""What happened in the service, for the list of events, and who is told that something has changed."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter, deque
from collections.abc import AsyncGenerator, Sequence
from typing import Literal, TypeAlias

from clonedb.service.contract import Event
from clonedb.url import redact

__all__ = ["Events", "Kind", "in_a_line"]

Kind: TypeAlias = Literal[
    "built", "discarded", "evicted", "expired", "refused", "adopted", "dropped", "kept"
]

_MOST = 200
_PAUSE = 0.25  # seconds between two tellings of a change


class Events:
    """The last 200 events, and the change that the list of templates or leases has seen since it was last looked at."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_MOST)
        self._listeners: set[asyncio.Event] = set()
        self.counts: Counter[tuple[str, ...]] = Counter()

    def add(self, kind: Kind, template: str, text: str) -> None:
        """Something happened; `text` says what, and why."""
        self._events.appendleft(Event(dt.datetime.now(dt.UTC), kind, template, redact(text)))
        self.count("events", kind)
        self.changed()

    def count(self, *what: str, by: float = 1) -> None:
        """Add to what is counted from the start on; `what` is a name and labels, as `Cloning.counts` says."""
        self.counts[what] += by  # type: ignore[assignment]

    def changed(self) -> None:
        """Tell those that listen."""
        for listener in self._listeners:
            listener.set()

    def newest_first(self) -> Sequence[Event]:
        """The list."""
        return tuple(self._events)

    async def changes(self) -> AsyncGenerator[None]:
        """Each change, but at most four a second."""
        listener = asyncio.Event()
        self._listeners.add(listener)
        try:
            while True:
                await listener.wait()
                listener.clear()
                yield
                await asyncio.sleep(_PAUSE)
        finally:
            self._listeners.discard(listener)


def in_a_line(error: BaseException) -> str:
    """An error for a reply or the list of events: in a line, without a password."""
    return redact(" ".join(str(error).split())) or type(error).__name__
