"""What tests of the service do again and again: run one, fill a template, look into a database."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg

from clonedb.service.cloning import Service, Sizes
from clonedb.service.contract import Address, Lease, TemplateState
from clonedb.settings.config import Config

WAIT = 60.0  # seconds that something may take on a machine that is busy


@contextlib.asynccontextmanager
async def running(
    config: Config, *, initial: int = 1, maximum: int = 20, lease_timeout: float = 30.0
) -> AsyncIterator[Service]:
    """A service that is stopped in the end."""
    service = Service(config, sizes=Sizes(initial, maximum), lease_timeout=lease_timeout)
    await service.start()
    try:
        yield service
    finally:
        await service.close()


def dsn(address: Address) -> str:
    """What psycopg connects by."""
    return psycopg.conninfo.make_conninfo(
        host=address.host,
        port=address.port,
        user=address.username,
        password=address.password,
        dbname=address.database,
    )


def run_sql(address: Address, *statements: str) -> list[Any]:
    """Run statements in a database as a caller does: the rows of the last one."""
    with psycopg.connect(dsn(address), autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


ITEMS = (
    "create table item (id int primary key, name text)",
    "insert into item values (1, 'one'), (2, 'two')",
)


async def filled(service: Service, hash_: str = "abc", *statements: str) -> None:
    """Begin a template, fill it, and finalize it."""
    address = await service.initialize(hash_, "builder")
    await asyncio.to_thread(run_sql, address, *(statements or ITEMS))
    await service.finalize(hash_)


async def lent(service: Service, hash_: str = "abc") -> Lease:
    """A database of a template."""
    return await service.acquire(hash_, "tester", wait=WAIT)


async def names(lease: Lease) -> list[str]:
    """The names of the items in a lent database."""
    rows = await asyncio.to_thread(run_sql, lease.address, "select name from item order by id")
    return [name for (name,) in rows]


def state(service: Service, hash_: str = "abc") -> TemplateState:
    """What the list says of a template."""
    return next(one for one in service.templates() if one.hash == hash_)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something, and fail with `what` if it does not come."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def ready(service: Service, hash_: str = "abc", count: int = 1) -> None:
    """Wait until a template is prepared, and some databases of it are ready."""
    await until(
        lambda: state(service, hash_).state == "ready" and state(service, hash_).ready >= count,
        f"not ready: {service.templates()}, {service.events()}",
    )


def databases(admin_dsn: str, prefix: str) -> list[str]:
    """The databases under a prefix."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        rows = connection.execute(
            "select datname from pg_database where starts_with(datname, %s) order by 1",
            [f"{prefix}_"],
        )
        return [name for (name,) in rows]


def told(service: Service) -> list[str]:
    """What the list of events says of the server."""
    return [one.text for one in service.events() if one.template == ""]


async def server_is_back(service: Service) -> None:
    """Wait until the service has found its server again, for the first time."""
    await until(
        lambda: "the server answers again" in told(service), "the service did not go on"
    )
