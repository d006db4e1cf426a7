"""What `clonedb serve` costs its callers: a ready database, the whole cycle of a test, many at once, and memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.apparatus.places import environment, state_dir
from benchmarks.apparatus.tables import Measurement, Table, percentile

__all__ = ["measure"]

_HASH = "benchmark"
_SQL = (
    "create table item (id serial primary key, name text);"
    "insert into item (name) select md5(i::text) from generate_series(1, 100) i"
)
_BATCH = 20  # databases that are asked for one after the other, all of them ready
_CLIENTS = 64


def measure(*, quick: bool) -> Iterator[Table]:
    """One client, 64 clients at once, many leases, and the memory of the service."""
    with state_dir(None) as state:
        yield asyncio.run(_measure(state, quick=quick))


async def _measure(state: Path, *, quick: bool) -> Table:
    open_leases = 50 if quick else 1000
    with _service(state, open_leases + 100) as (port, pid):
        client = await _Client.connected(port)
        begun = await client.ask("POST", "/templates", {"hash": _HASH})
        with psycopg.connect(**_keywords(begun), autocommit=True) as connection:
            connection.execute(_SQL)
        await client.ask("PUT", f"/templates/{_HASH}")
        await _prepared(client)
        gets = [each for _ in range(2 if quick else 20) for each in await _gets(client)]
        cycles = [await _cycle(client) for _ in range(20 if quick else 300)]
        bare = [await _cycle(client, writes=False) for _ in range(20 if quick else 300)]
        crowd = await _crowd(port, 3 if quick else 30)
        before = _memory(pid)
        many = 500 if quick else 50_000
        for _ in range(many):
            await _cycle(client, writes=False)
        after = _memory(pid)
        held = [
            await client.ask("GET", f"/templates/{_HASH}/tests") for _ in range(open_leases)
        ]
        among = [await _cycle(client) for _ in range(20 if quick else 100)]
        for one in held:
            await client.ask("DELETE", f"/templates/{_HASH}/tests/{one['id']}")
    rows = [
        Measurement("GET of a ready database", gets, "ms", 0.6),
        Measurement("  ... the 95th percentile", [percentile(gets, 95)], "ms", 2.0),
        Measurement("GET, connect, write a row, return", cycles, "ms", 5.0),
        Measurement("  ... without connecting and writing", bare, "ms"),
        Measurement(f"  ... with {open_leases} leases open", among, "ms", 5.0),
        Measurement(f"{_CLIENTS} clients at once: GET, return", crowd, "ms"),
        Measurement("  ... the 99th percentile", [percentile(crowd, 99)], "ms"),
        Measurement(f"memory after {many} cycles more / before", [after / before], "x", 1.1),
    ]
    about = (
        "`clonedb serve` on the embedded server, data in memory; requests by sockets that stay open. Returning waits"
        " until what was written is undone, so that the next GET has a ready database. The clients at once are tasks of"
        f" one process, which has its part in their times. The service took {after / 1e6:.0f} MB in the end."
    )
    return Table("The service", about, rows)


async def _gets(client: _Client) -> list[float]:
    """The milliseconds of some GETs, of databases that are all ready."""
    found, ids = [], []
    for _ in range(_BATCH):
        begin = time.perf_counter()
        got = await client.ask("GET", f"/templates/{_HASH}/tests")
        found.append((time.perf_counter() - begin) * 1e3)
        ids.append(got["id"])
    for number in ids:
        await client.ask("DELETE", f"/templates/{_HASH}/tests/{number}")
    return found


async def _cycle(client: _Client, *, writes: bool = True) -> float:
    begin = time.perf_counter()
    got = await client.ask("GET", f"/templates/{_HASH}/tests")
    if writes:
        with psycopg.connect(**_keywords(got), autocommit=True) as connection:
            connection.execute("insert into item (name) values ('mine')")
    await client.ask("DELETE", f"/templates/{_HASH}/tests/{got['id']}")
    return (time.perf_counter() - begin) * 1e3


async def _crowd(port: int, times: int) -> list[float]:
    """The milliseconds of cycles of many clients at once."""
    clients = [await _Client.connected(port) for _ in range(_CLIENTS)]
    # there is a database for each by then
    await asyncio.gather(*(_cycle(client, writes=False) for client in clients))

    async def run(client: _Client) -> list[float]:
        return [await _cycle(client, writes=False) for _ in range(times)]

    found = await asyncio.gather(*(run(client) for client in clients))
    return [each for samples in found for each in samples]


async def _prepared(client: _Client) -> None:
    while True:
        (state,) = (await client.ask("GET", "/v1/templates"))["templates"]
        if state["state"] == "ready" and state["ready"] >= _BATCH:
            return
        await asyncio.sleep(0.05)


class _Client:
    """HTTP on one connection, as little of it as this needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connected(cls, port: int) -> _Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        text = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n"
        self._writer.write(head.encode() + text)
        reply = await self._reader.readuntil(b"\r\n\r\n")
        status = int(reply.split(b" ", 2)[1])
        length = re.search(rb"content-length: (\d+)", reply)
        found = await self._reader.readexactly(int(length[1])) if length else b""
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {found!r}")
        return json.loads(found) if found else None


def _keywords(answer: Any) -> dict[str, Any]:
    config = answer["database"]["config"]
    return {
        "host": config["host"],
        "port": config["port"],
        "user": config["username"],
        "password": config["password"],
        "dbname": config["database"],
    }


@contextlib.contextmanager
def _service(state: Path, most: int) -> Iterator[tuple[int, int]]:
    """The service: its port, and the number of its process."""
    log = state / "service.log"
    variables = environment(
        CLONEDB_STATE_DIR=str(state),
        CLONEDB_MAX_CLONES=str(most),
        INTEGRESQL_TEST_INITIAL_POOL_SIZE=str(_BATCH),
        INTEGRESQL_TEST_MAX_POOL_SIZE=str(most),
    )
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "clonedb", "serve", "--port", "0"],
            cwd=state,
            env=variables,
            stderr=file,
        )
    try:
        while not (
            found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text())
        ):
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield int(found[1]), process.pid
    finally:
        process.terminate()
        process.wait()


def _memory(pid: int) -> int:
    """The bytes of memory that a process has to itself and shares."""
    resident = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(resident[1]) * 1024 if resident else 0
