"""Databases of one template that are dropped behind all else, one after another, and again if they could not be."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from clonedb.service.events import Events, in_a_line
from clonedb.service.worker import Entry, Worker

__all__ = ["Dropper"]


class Dropper:
    """A thread of its own: a database that cannot be dropped takes its time, and keeps nothing else from being done."""

    def __init__(self, template: str, events: Events) -> None:
        self._template = template
        self._events = events
        self._thread = ThreadPoolExecutor(1, f"clonedb-drop-{template[:40]!r}")
        self._stuck: list[Entry] = []

    async def drop(self, entry: Entry, worker: Worker | None) -> None:
        """Drop a database, by the worker that made it if it is known; what is in the way is told of."""
        drop = _drop_clone if worker is None else worker.drop
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, drop, entry)
        except Exception as error:  # noqa: BLE001 - it is tried again
            self._stuck.append(entry)
            text = f"{entry.name} could not be dropped: {in_a_line(error)}"
            self._events.add("refused", self._template, text)
        self._events.changed()

    def take_stuck(self) -> list[Entry]:
        """Those that could not be dropped, for another try."""
        stuck, self._stuck = self._stuck, []
        return stuck

    def close(self) -> None:
        """End the thread, when it has done what it was given."""
        self._thread.shutdown(wait=False)


def _drop_clone(entry: Entry) -> None:
    entry.clone.drop()
