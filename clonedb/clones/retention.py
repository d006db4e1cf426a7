"""Which templates a project keeps on a server: for each host those that it used last, as far as their bytes allow."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Generic, TypeVar

from clonedb.originals import now
from clonedb.templates.metadata import Metadata

__all__ = ["superfluous"]

T = TypeVar("T")

_REVISIONS = (
    8  # times keep_templates: how many templates that stop at a revision a project has at most
)
_MOST_BYTES = 10 * 1024**3  # of a project's templates, but for those that have to stay
_AWAY = 7 * 86400.0  # seconds without a use after which a template is no other host's
_IN_USE = 2 * 3600.0  # seconds; a use is noted once an hour


@dataclass(slots=True)
class _Ranked(Generic[T]):
    """A template, and its place among those that one host used last; the lowest place of all hosts counts."""

    item: T
    metadata: Metadata
    used: float
    place: int
    stays: bool = False


def superfluous(
    templates: Iterable[tuple[T, Metadata]],
    count: int,
    *,
    all_of: Callable[[str], bool] = lambda _: False,
    one_host: bool,
) -> Iterator[tuple[T, str]]:
    """The templates that are to go, and why: those that no host has among the `count` of a lane that it used last.

    So the templates of one host's branches do not displace those of another host. What another
    host has not used for a week counts as this host's: CI often has a new host each time, for
    which all that it built would be kept. With `one_host` all uses are this host's. `all_of`
    says whether all templates of a project are to go.
    """
    by_lane: dict[tuple[str, str], list[tuple[T, Metadata]]] = {}
    for item, metadata in templates:
        by_lane.setdefault((metadata.project, metadata.lane), []).append((item, metadata))

    kept: dict[str, list[_Ranked[T]]] = {}
    for (project, lane), of_lane in by_lane.items():
        limit = 0 if all_of(project) else count * (_REVISIONS if lane == "revision" else 1)
        for ranked in _ranked(of_lane, one_host=one_host):
            if ranked.place < limit:
                kept.setdefault(project, []).append(ranked)
            else:
                yield ranked.item, "the project used newer templates since"

    for of_project in kept.values():
        for large in _too_large(of_project):
            gigabytes = _MOST_BYTES // 1024**3
            yield large.item, f"the project's templates are larger than {gigabytes} GB together"


def _ranked(of_lane: list[tuple[T, Metadata]], *, one_host: bool) -> list[_Ranked[T]]:
    here = socket.gethostname()
    found = [_Ranked(item, data, data.used, len(of_lane)) for item, data in of_lane]
    by_host: dict[str, list[tuple[float, _Ranked[T]]]] = {}
    for ranked in found:
        for host, used in _uses(ranked.metadata, here, one_host=one_host).items():
            by_host.setdefault(host, []).append((used, ranked))

    for host, uses in by_host.items():
        uses.sort(key=itemgetter(0), reverse=True)
        for place, (used, ranked) in enumerate(uses):
            ranked.place = min(ranked.place, place)
            if host == here:
                ranked.stays = ranked.stays or place == 0
            else:
                ranked.stays = ranked.stays or used > now() - _IN_USE

    return found


def _uses(metadata: Metadata, here: str, *, one_host: bool) -> dict[str, float]:
    """When each host used a template last."""
    found: dict[str, float] = {}
    for host, used in metadata.used_by_host().items():
        counts_for = here if one_host or used < now() - _AWAY else host
        found[counts_for] = max(used, found.get(counts_for, 0.0))
    return found


def _too_large(templates: Iterable[_Ranked[T]]) -> Iterator[_Ranked[T]]:
    """Those beyond the bytes that a project's templates may take, the least recently used.

    What this host used last in each lane counts first, and stays, as does what another host may
    be using now.
    """
    total = 0
    for ranked in sorted(templates, key=attrgetter("stays", "used"), reverse=True):
        total += ranked.metadata.size
        if total > _MOST_BYTES and not ranked.stays:
            yield ranked
