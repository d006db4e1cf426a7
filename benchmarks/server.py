"""How long a process waits for the embedded server: its first start, a later start, and joining one that is up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.apparatus.places import bases, configuration, run, state_dir
from benchmarks.apparatus.tables import Measurement, Table
from clonedb.embedded import binaries, leases

__all__ = ["measure"]

# `lease` counts from before the embedded server's modules are imported until the lease is held, `query` until the
# server has answered. The configuration is there before: in a test run the plugin's registration has imported it.
LEASE = """
import sys, time
from pathlib import Path
from clonedb.settings.config import Config
begin = time.perf_counter()
from clonedb.embedded import binaries, leases
config = Config(rootdir=Path("/")).replace("benchmark", state_dir=sys.argv[1], idle_timeout=300.0)
lease = leases.lease(config, binaries.choose(config, ()))
held = time.perf_counter() - begin
import json, psycopg
psycopg.connect(host=str(lease.socket_dir), port=lease.port, user=lease.user, dbname="postgres").execute("select 1")
print(json.dumps({"lease": held, "query": time.perf_counter() - begin, "started": lease.started}))
"""


def measure(*, quick: bool) -> Iterator[Table]:
    """A table for each place the data may be in."""
    for name, base in bases():
        yield _measure(
            name,
            base,
            first=2 if quick else 5,
            later=3 if quick else 10,
            joining=5 if quick else 20,
        )


def _measure(name: str, base: Path, *, first: int, later: int, joining: int) -> Table:
    firsts, restarts, joins = [], [], []
    for _ in range(first):
        with state_dir(base) as state:
            firsts.append(_lease(state, started=True))
    with state_dir(base) as state:
        config = configuration(state)
        leases.lease(config, binaries.choose(config, ())).close()
        for _ in range(later):
            leases.stop(config)
            restarts.append(_lease(state, started=True))
        with leases.lease(config, binaries.choose(config, ())):
            joins += [_lease(state, started=False) for _ in range(joining)]
    rows = []
    for label, samples, target in (
        ("first lease, initdb included", firsts, 2000.0),
        ("restart on existing data", restarts, 250.0),
        ("joining a running server", joins, 20.0),
    ):
        rows.append(Measurement(label, [lease * 1e3 for lease, _, _ in samples], "ms", target))
        rows.append(
            Measurement(
                "  ... and its first answer", [query * 1e3 for _, query, _ in samples], "ms"
            )
        )
        rows.append(
            Measurement(
                "  ... the whole process", [whole * 1e3 for _, _, whole in samples], "ms"
            )
        )
    about = (
        "In a fresh process each, from before the import of clonedb.embedded.leases until the lease is held; its"
        " first answer comes after the import of psycopg; the whole process includes the interpreter's start and end."
    )
    return Table(f"Embedded server, data in {name}", about, rows)


def _lease(state: Path, *, started: bool) -> tuple[float, float, float]:
    whole, found = run(LEASE, str(state))
    if found["started"] is not started:
        raise RuntimeError(
            f"a lease that should{'' if started else ' not'} start the server did otherwise: {found}"
        )
    return found["lease"], found["query"], whole
