"""Which templates a project keeps on a server: for each host those that it used last, as their age and bytes allow."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Generic, NamedTuple, TypeVar

from clonedb.originals import now
from clonedb.quantities import size
from clonedb.templates.metadata import Metadata

__all__ = ["Limits", "superfluous"]

T = TypeVar("T")

_REVISIONS = (
    8  # times keep_templates: how many templates that stop at a revision a project has at most
)
_AWAY = 7 * 86400.0  # seconds without a use after which a template is no other host's
_DAY = 86400.0  # seconds
_RECENT = (
    2 * 3600.0
)  # seconds: a use is noted once an hour, so that the last one may be an hour later


class Limits(NamedTuple):
    """What a project keeps: `per_host` templates of a lane, `days` without a use, `most_bytes` of all."""

    per_host: int
    days: float
    most_bytes: int


@dataclass(slots=True)
class _Ranked(Generic[T]):
    """A template, and its place among those that one host used last; the lowest place of all hosts counts.

    `recent` says whether any host used it within the hour, `stays` whether it is what this host used last.
    """

    item: T
    metadata: Metadata
    used: float
    place: int
    recent: bool
    stays: bool = False


def superfluous(
    templates: Iterable[tuple[T, Metadata]],
    limits: Limits,
    *,
    all_of: Callable[[str], bool] = lambda _: False,
    one_host: bool,
) -> Iterator[tuple[T, str]]:
    """The templates that are to go, and why: those that no host has among the `per_host` of a lane that it used last.

    So the templates of one host's branches do not displace those of another host. What another
    host has not used for a week counts as this host's: CI often has a new host each time, for
    which all that it built would be kept. Whatever was not used for `days` goes as well, and of
    what is left the least recently used of a project, until the rest has `most_bytes`.

    What was used within the hour stays: another run may begin with it at any moment. With
    `one_host` all uses are this host's, on a server of its own, where `per_host` holds at once: who
    edits a migration again and again leaves a template each time. `all_of` says whether all
    templates of a project are to go.
    """
    by_lane: dict[tuple[str, str], list[tuple[T, Metadata]]] = {}
    for item, metadata in templates:
        by_lane.setdefault((metadata.project, metadata.lane), []).append((item, metadata))

    kept: dict[str, list[_Ranked[T]]] = {}
    for (project, lane), of_lane in by_lane.items():
        limit = limits.per_host * (_REVISIONS if lane == "revision" else 1)
        for ranked in _ranked(of_lane, one_host=one_host):
            if all_of(project):
                yield ranked.item, "all of the project go"
            elif ranked.place >= limit and (one_host or not ranked.recent):
                yield ranked.item, "the project used newer templates since"
            elif now() - ranked.used > limits.days * _DAY and not ranked.recent:
                yield ranked.item, f"it was not used for keep_days = {limits.days:g}"
            else:
                kept.setdefault(project, []).append(ranked)

    for of_project in kept.values():
        for large in _too_large(of_project, limits.most_bytes):
            most = size(limits.most_bytes)
            yield large.item, f"the project's templates are larger than keep_bytes = {most}"


def _ranked(of_lane: list[tuple[T, Metadata]], *, one_host: bool) -> list[_Ranked[T]]:
    here = socket.gethostname()
    found: list[_Ranked[T]] = []
    by_host: dict[str, list[tuple[float, _Ranked[T]]]] = {}
    for item, metadata in of_lane:
        uses = _uses(metadata, here, one_host=one_host)
        used = max(uses.values())
        recent = used > now() - _RECENT
        found.append(_Ranked(item, metadata, used, len(of_lane), recent))
        for host, when in uses.items():
            by_host.setdefault(host, []).append((when, found[-1]))

    for host, uses_of_host in by_host.items():
        uses_of_host.sort(key=itemgetter(0), reverse=True)
        for place, (_, ranked) in enumerate(uses_of_host):
            ranked.place = min(ranked.place, place)
            ranked.stays = ranked.stays or (host == here and place == 0)

    return found


def _uses(metadata: Metadata, here: str, *, one_host: bool) -> dict[str, float]:
    """When each host used a template last."""
    found: dict[str, float] = {}
    for host, used in metadata.used_by_host().items():
        counts_for = here if one_host or used < now() - _AWAY else host
        found[counts_for] = max(used, found.get(counts_for, 0.0))
    return found


def _too_large(templates: Iterable[_Ranked[T]], most: int) -> Iterator[_Ranked[T]]:
    """Those beyond the bytes that a project's templates may take, the least recently used.

    What this host used last in each lane counts first, and stays, as does what any host may be
    using now.
    """
    total = 0
    for ranked in sorted(templates, key=attrgetter("stays", "used"), reverse=True):
        total += ranked.metadata.size
        if total > most and not ranked.stays and not ranked.recent:
            yield ranked
