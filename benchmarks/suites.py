"""A whole suite of small tests that write, with a rewound database for each, and with a transaction rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.apparatus.clusters import TUNED
from benchmarks.apparatus.peers.clonedb import AUTO, SESSION
from benchmarks.apparatus.peers.rollback import READY, ROLLBACK
from benchmarks.apparatus.peers.suite import Suite
from benchmarks.apparatus.places import bases
from benchmarks.apparatus.tables import Chart, Measurement, Table, ratio
from benchmarks.peers import given_server

__all__ = ["measure"]

WORKERS = 2
TARGET = 1.15


def measure(*, quick: bool) -> Iterator[Table]:
    """The isolations in turns, each a whole pytest run with two workers."""
    tests, rounds = (100, 1) if quick else (2_000, 3)
    name, base = next(bases())
    peers = [replace(peer, plugins=("clonedb",)) for peer in (SESSION, AUTO, ROLLBACK, READY)]
    found: dict[str, list[float]] = {peer.name: [] for peer in peers}
    with given_server(base, settings=TUNED) as given:
        suites: dict[str, Suite] = {}
        for number, peer in enumerate(peers):
            if peer.name in {SESSION.name, READY.name}:
                Suite(peer, given, given.directory / f"before_{number}", writing=4).run(WORKERS)
            suites[peer.name] = Suite(
                peer, given, given.directory / f"suite_{number}", writing=tests
            )
        for _ in range(rounds):
            for label, suite in suites.items():
                found[label].append(suite.run(WORKERS).whole * tests / 1e3)
    rows = [Measurement(peer.name, found[peer.name], "s", series=peer.series) for peer in peers]
    rows += [
        ratio(f"{ours.name} / {theirs.name}", found[ours.name], found[theirs.name], target)
        for ours, target in ((SESSION, TARGET), (AUTO, None))
        for theirs in (ROLLBACK, READY)
    ]
    about = (
        f"{tests:,} tests that write 3 rows to 2 of 40 tables and commit: whole pytest runs with -n {WORKERS} in turns,"
        " from the start of the process to its end, all with the same plugins (xdist and clonedb), on a tuned server,"
        f" data in {name}. clonedb auto, SQLAlchemy: clonedb_session; clonedb auto: clonedb_connection, which saves"
        " SQLAlchemy's own time, too. Rollback: a session of savepoints in an outer transaction, as SQLAlchemy's"
        " documentation writes it, on a database that each worker migrates at its start, and on one that a run before"
        " has left. clonedb's template is there from a run before; each worker clones it."
    )
    yield Table(
        f"A suite of {tests:,} tests", about, rows, Chart("bars", y="seconds, the whole suite")
    )
