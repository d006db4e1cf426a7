"""Clones that live on a server while something else is measured, each with a slot of `max_clones`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from clonedb.api import Template
from clonedb.postgres.admission import Admission

__all__ = ["Living", "slot"]


@dataclass(slots=True)
class Living:
    """The living clones of one session: they end with their server."""

    template: Template
    number: int = field(default=0, init=False)

    @property
    def megabytes(self) -> float:
        """What one of them takes."""
        return self.template.record.metadata.size / 1e6

    def grow(self, number: int) -> None:
        """Until there are so many."""
        while self.number < number:
            _take(self.template.server.admission)
            self.template.clone()
            self.number += 1


def slot(admission: Admission) -> float:
    """The milliseconds that it takes to get a slot, which is done before a clone is made."""
    start = time.perf_counter()
    taken = _take(admission)
    spent = time.perf_counter() - start
    admission.give(taken)
    return spent * 1e3


def _take(admission: Admission) -> int:
    taken = admission.try_slot()
    if taken is None:
        raise RuntimeError("max_clones is too low for what is measured")
    return taken
