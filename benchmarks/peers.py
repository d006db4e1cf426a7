"""What a test pays for its database in clonedb, and in other packages used as their own documentation says."""

from __future__ import annotations

import contextlib
import secrets
import socket
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.apparatus.clusters import TUNED, cluster
from benchmarks.apparatus.peers import PEERS
from benchmarks.apparatus.peers.clonedb import AUTO
from benchmarks.apparatus.peers.given import Given
from benchmarks.apparatus.peers.peer import Peer
from benchmarks.apparatus.peers.pytest_postgresql import PYTEST_POSTGRESQL
from benchmarks.apparatus.peers.rollback import ROLLBACK
from benchmarks.apparatus.peers.suite import Run, Suite, SuiteError
from benchmarks.apparatus.places import bases, state_dir
from benchmarks.apparatus.schemas import write_medium_schema
from benchmarks.apparatus.tables import Chart, Measurement, Table, ratio
from clonedb.embedded import binaries
from clonedb.settings.config import Config

__all__ = ["given_server", "measure", "ordinary"]

_FEW = 4
"""Tests of each kind for a peer that is slow."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is run on a server, and what is asked of it: so many times auto is no more than the best peer."""

    quick: bool
    server: str
    times: int
    durable: bool
    peers: Sequence[Peer]
    workers: Sequence[int]
    rounds: int
    writing: int
    reading: int


@dataclass(frozen=True, slots=True)
class _Found:
    """The runs of each peer with so many workers, in the order of the rounds, and why others have none."""

    runs: Mapping[tuple[Peer, int], Sequence[Run]]
    absent: Mapping[str, str]


def measure(*, quick: bool) -> Iterator[Table]:
    """All peers in turns, on a server whose settings give durability away."""
    name, base = next(bases())
    plan = _Plan(
        quick=quick,
        server=f"a tuned server, data in {name}",
        times=20,
        durable=False,
        peers=PEERS,
        workers=(1,) if quick else (1, 2),
        rounds=1 if quick else 3,
        writing=2 if quick else 15,
        reading=2 if quick else 10,
    )
    with given_server(base, settings=TUNED) as given:
        yield from _tables(plan, _run(plan, given))


def ordinary(*, quick: bool) -> Iterator[Table]:
    """The same on a server as initdb makes it, on disk: fsync, checksums and autovacuum on."""
    *_, (name, base) = bases()
    plan = _Plan(
        quick=quick,
        server=f"a server with default settings, data on {name}",
        times=100,
        durable=True,
        peers=(AUTO, ROLLBACK, PYTEST_POSTGRESQL) if quick else PEERS,
        workers=(1,) if quick else (1, 2),
        rounds=1 if quick else 2,
        writing=2 if quick else 5,
        reading=2 if quick else 3,
    )
    with given_server(base, settings={}, initdb=["--data-checksums"]) as given:
        yield from _tables(plan, _run(plan, given))


@contextlib.contextmanager
def given_server(
    base: Path, *, settings: Mapping[str, str], initdb: Sequence[str] = ()
) -> Iterator[Given]:
    """A server below `base`, a project with 40 tables of 20 rows, and a directory for what is run."""
    import psycopg
    from psycopg import sql

    with state_dir(base) as state:
        write_medium_schema(state / "project")
        found = binaries.choose(Config(rootdir=state), ())
        address, password = _free_address(), secrets.token_hex(16)
        values = {**settings, **({"listen_addresses": address} if address else {})}
        with cluster(
            found, base, settings=values, initdb=[*initdb, "--auth-host=scram-sha-256"]
        ) as url:
            with psycopg.connect(url, dbname="postgres", autocommit=True) as connection:
                if (
                    connection.info.server_version >= 160_000
                ):  # the password is random: iterations add nothing to it
                    connection.execute("set scram_iterations = 1")
                connection.execute(
                    sql.SQL("alter role postgres password {}").format(sql.Literal(password))
                )
            yield Given(
                host=url.rpartition("=")[2],
                ini=str(state / "project" / "alembic.ini"),
                spent=str(state / "suites" / "spent.json"),
                address=address,
                password=password,
            )


def _free_address() -> str:
    """An address of this machine's own at which nobody listens on port 5432; empty if there is none to be had.

    All of 127.0.0.0/8 is the loopback interface (Linux), so that the port stays the one that everybody assumes.
    """
    for _ in range(10):
        address = ".".join(["127", *(str(secrets.randbelow(254) + 1) for _ in range(3))])
        with contextlib.suppress(OSError), socket.socket() as bound:
            bound.bind((address, 5432))
            return address
    return ""


def _run(plan: _Plan, given: Given) -> _Found:
    suites: dict[Peer, Suite] = {}
    absent: dict[str, str] = {}
    for peer in PEERS:
        if why := _why_not(plan, given, peer):
            absent[peer.name] = why
            continue
        directory = given.directory / peer.name.replace(" ", "_").replace(",", "")
        writing, reading = (_FEW, _FEW) if peer.slow else (plan.writing, plan.reading)
        suites[peer] = Suite(peer, given, directory, writing=writing, reading=reading)
    suites[AUTO].run(1)
    runs: dict[tuple[Peer, int], list[Run]] = {}
    for _ in range(plan.rounds):
        for workers in plan.workers:
            for peer, suite in list(suites.items()):
                if peer.slow and workers > 1:
                    continue
                try:
                    runs.setdefault((peer, workers), []).append(suite.run(workers))
                except SuiteError as error:
                    absent[peer.name] = str(error)
                    del suites[peer]
    return _Found({key: found for key, found in runs.items() if key[0] in suites}, absent)


def _why_not(plan: _Plan, given: Given, peer: Peer) -> str | None:
    """Why a peer is not tried; None if it is."""
    if plan.durable and peer.own_server:
        return "a server of its own, in memory"
    if plan.quick and (peer.slow or peer not in plan.peers):
        return "left out with --quick"
    if peer.needs_address and not given.address:
        return "no address for TCP to be had"
    return peer.absent()


def _tables(plan: _Plan, found: _Found) -> Iterator[Table]:
    """What a test that writes pays, what one that only reads pays, and whole suites."""
    writing = _rows(found, lambda run: run.writing)
    for workers in plan.workers:
        best = _best(found, workers)
        others = [(best, f"{best.name}, the best peer")] if best else []
        others += [
            (peer, f"{peer.name}, on a server of its own")
            for peer in _elsewhere(found, workers)
        ]
        for other, name in others:
            label = _label(f"{plan.times} x {AUTO.name} / {name}", workers)
            ours, theirs = (
                [statistics.median(run.writing) for run in found.runs[peer, workers]]
                for peer in (AUTO, other)
            )
            writing.append(ratio(label, ours, theirs, 1.0, plan.times))
    chart = Chart("bars", y="ms a test, before and after it")
    yield Table(f"A test that writes, on {plan.server}", _about(plan, found), writing, chart)
    about = "The same runs: what is done before and after a test that only asks two tables how many rows they have."
    yield Table(
        f"A test that reads, on {plan.server}",
        about,
        _rows(found, lambda run: run.reading),
        chart,
    )
    about = (
        f"The same runs, from the start of each process to its end, by the number of its tests ({plan.writing} that"
        f" write, {plan.reading} that read): start-up, migrations and all. clonedb's template is there from an earlier"
        " run; the others migrate in every run, and in every worker of it."
    )
    whole = _rows(found, lambda run: [run.whole])
    yield Table(
        f"Whole suites, on {plan.server}",
        about,
        whole,
        Chart("bars", y="ms a test, of the whole process"),
    )


def _best(found: _Found, workers: int) -> Peer | None:
    """The fastest peer that gives each test a database of its own on the given server, to commit to."""
    peers = [peer for peer, number in found.runs if peer.compared and number == workers]
    return min(peers, key=lambda peer: _median(found.runs[peer, workers]), default=None)


def _elsewhere(found: _Found, workers: int) -> list[Peer]:
    """The peers that do so on a server of their own."""
    return [
        peer
        for peer, number in found.runs
        if peer.own_server and peer.rows and number == workers
    ]


def _median(runs: Sequence[Run]) -> float:
    return statistics.median(sample for run in runs for sample in run.writing)


def _rows(found: _Found, samples: Callable[[Run], Sequence[float]]) -> list[Measurement]:
    """A row for each peer and number of workers; those of one process are drawn."""
    return [
        Measurement(
            _label(peer.name, workers),
            [sample for run in runs for sample in samples(run)],
            "ms",
            series=peer.series if workers == 1 else "",
        )
        for (peer, workers), runs in sorted(
            found.runs.items(), key=lambda item: PEERS.index(item[0][0])
        )
    ]


def _label(name: str, workers: int) -> str:
    return name if workers == 1 else f"{name}: -n {workers}"


def _about(plan: _Plan, found: _Found) -> str:
    ran = [peer for peer, workers in found.runs if workers == 1]
    sessions = _names(peer for peer in ran if peer.speaks == "sqlalchemy")
    about = (
        "40 tables of 20 rows. What is done before and after a test together, by pytest's own"
        " durations; the test writes 3 rows to 2 tables and commits. Whole pytest runs in turns, each with the peer's"
        f" plugin and no other, {plan.rounds} of each, in one process (without xdist) and with as many workers as said;"
        " the first and the last test of each worker are left out, which pay for the template. clonedb is given the"
        f" server by URL, as the others are, and its template is there. SQLAlchemy sessions: {sessions}; the others"
        " give a psycopg connection. The best peer is the fastest that gives each test a database of its own on this"
        " server, to commit to."
    )
    sentences = [about]
    if own := [peer for peer in ran if peer.own_server]:
        sentences.append(f"On a server of its own: {_names(own)}.")
    sentences += [
        f"{peer.name}: {peer.slow}: {_FEW} tests of each kind, in one process."
        for peer in ran
        if peer.slow
    ]
    sentences += [
        f"{peer.name} leaves the template's tables empty." for peer in ran if peer.rows == 0
    ]
    sentences.append(
        "Versions: " + ", ".join(dict.fromkeys(peer.versions() for peer in ran)) + "."
    )
    reasons: dict[str, list[str]] = {}
    for name, why in found.absent.items():
        reasons.setdefault(why, []).append(name)
    sentences += [
        f"Without figures: {', '.join(names)} ({why})." for why, names in reasons.items()
    ]
    return " ".join(sentences)


def _names(peers: Iterator[Peer] | Sequence[Peer]) -> str:
    return ", ".join(peer.name for peer in peers)
