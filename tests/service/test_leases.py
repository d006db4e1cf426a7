"""How long a lease lives, and what a caller can do with it."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import sys

import psycopg
import pytest

from clonedb.errors import ServerError
from clonedb.postgres.servers import open_server
from clonedb.service.contract import NoSuchDatabaseError, UnavailableError
from clonedb.settings.config import Config
from tests.service.stories import (
    databases,
    dsn,
    filled,
    lent,
    names,
    ready,
    run_sql,
    running,
    state,
    until,
)

MINE = "insert into item values (100, 'mine')"


def test_what_never_connected_is_free_after_its_time(service_config: Config) -> None:
    """A caller that has got a database and died gives it back so; it is told in the list of events."""

    async def story() -> None:
        async with running(service_config, maximum=1, lease_timeout=1.0) as service:
            await filled(service)
            lease = await lent(service)
            assert lease.expires - lease.since < dt.timedelta(seconds=1.1)
            # the only one that there is
            second = await lent(service)
            assert second.lease != lease.lease
            assert [one.lease for one in service.leases()] == [second.lease]
            assert any(
                one.kind == "expired" and lease.address.database in one.text
                for one in service.events()
            )

    asyncio.run(story())


@pytest.mark.campaign("long")
def test_a_connected_client_keeps_its_lease(service_config: Config) -> None:
    """It lives as long as a session is there, and its time after that; what was written is undone then."""

    async def story() -> None:
        async with running(service_config, lease_timeout=1.0) as service:
            await filled(service)
            await ready(service)
            lease = await lent(service)
            with psycopg.connect(dsn(lease.address), autocommit=True) as connection:
                connection.execute(MINE.encode())
                await asyncio.sleep(3)
                (found,) = service.leases()
                assert found.lease == lease.lease
                assert found.seen is not None
                assert found.seen > lease.since + dt.timedelta(seconds=1)
                assert connection.execute("select count(*) from item").fetchone() == (3,)
            await until(lambda: not service.leases(), "the lease did not end")
            second = await lent(service)
            assert await names(second) == ["one", "two"]

    asyncio.run(story())


def test_a_killed_client(service_config: Config) -> None:
    """kill -9 in the middle of a transaction: its lease ends, and nothing of it is left."""
    program = (
        "import psycopg, sys, time; c = psycopg.connect(sys.argv[1]); c.execute(sys.argv[2]);"
        " print(); time.sleep(99)"
    )

    async def story() -> None:
        async with running(service_config, lease_timeout=1.0) as service:
            await filled(service)
            await ready(service)
            lease = await lent(service)
            client = subprocess.Popen(  # noqa: ASYNC220 - it is quick
                [sys.executable, "-uc", program, dsn(lease.address), MINE],
                stdout=subprocess.PIPE,
            )
            assert client.stdout is not None
            await asyncio.to_thread(client.stdout.readline)
            client.kill()
            await asyncio.to_thread(client.communicate)
            await until(lambda: not service.leases(), "the lease did not end")
            assert await names(await lent(service)) == ["one", "two"]

    asyncio.run(story())


@pytest.mark.campaign("long")
def test_short_sessions_keep_a_lease(service_config: Config) -> None:
    """Sessions that come and go between two looks of the service count as well."""

    async def story() -> None:
        async with running(service_config, lease_timeout=2.0) as service:
            await filled(service)
            await ready(service)
            lease = await lent(service)
            for _ in range(12):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(run_sql, lease.address, "select 1")
            assert [one.lease for one in service.leases()] == [lease.lease]

    asyncio.run(story())


def test_a_failure_to_collect_ends_no_service(
    service_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is ready stays, leases end as before, and the failure is told once."""

    def fail(*_: object, **__: object) -> None:
        raise ServerError("no luck today")

    monkeypatch.setattr("clonedb.service.upkeep.collect", fail)
    monkeypatch.setattr("clonedb.service.upkeep._SELDOM", 0.0)

    async def story() -> None:
        async with running(service_config, lease_timeout=1.0) as service:
            await filled(service)
            await ready(service)
            await lent(service)
            await until(lambda: not service.leases(), "the lease did not end")
            await until(lambda: state(service).ready > 0, "none is ready")
            assert await names(await lent(service)) == ["one", "two"]
            assert [one.text for one in service.events() if one.kind == "refused"] == [
                "no luck today"
            ]

    asyncio.run(story())


@pytest.mark.campaign("long")
def test_a_lease_is_renewed(service_config: Config) -> None:
    """Its time begins anew without any connection."""

    async def story() -> None:
        async with running(service_config, lease_timeout=2.0) as service:
            await filled(service)
            lease = await lent(service)
            for _ in range(4):
                await asyncio.sleep(1.0)
                assert (await service.renew(lease.lease)).expires > lease.expires
            await until(lambda: not service.leases(), "the lease did not end")

    asyncio.run(story())


@pytest.mark.campaign("long")
def test_a_kept_database_stays(service_config: Config, admin_dsn: str) -> None:
    """It is neither given back nor expired, also over a new start, counts for nobody, and goes when it is dropped."""

    async def kept() -> str:
        async with running(service_config, maximum=1, lease_timeout=1.0) as service:
            await filled(service)
            lease = await lent(service)
            run_sql(lease.address, MINE)
            assert (await service.keep(lease.lease)).kept
            await service.give_back("abc", lease.id)
            other = await lent(service)
            assert other.address.database != lease.address.database
            await service.release(other.lease)
            await asyncio.sleep(2)
            return lease.lease

    async def dropped(name: str) -> None:
        async with running(service_config, maximum=1, lease_timeout=1.0) as service:
            (lease,) = service.leases()
            assert lease.lease == name
            assert lease.kept
            assert await names(lease) == ["one", "two", "mine"]
            await service.drop(name)
            assert service.leases() == []
            assert lease.address.database not in databases(admin_dsn, service_config.prefix)

    name = asyncio.run(kept())
    asyncio.run(dropped(name))


def test_a_lease_is_dropped_with_its_database(service_config: Config, admin_dsn: str) -> None:
    """Whoever is connected to it."""

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service)
            lease = await lent(service)
            with psycopg.connect(dsn(lease.address)) as connection:
                await service.drop(lease.lease)
                assert lease.address.database not in databases(admin_dsn, service_config.prefix)
                with pytest.raises(psycopg.OperationalError):
                    connection.execute("select")
            with pytest.raises(NoSuchDatabaseError):
                await service.release(lease.lease)
            assert await names(await lent(service)) == ["one", "two"]

    asyncio.run(story())


def test_sessions_that_were_left_open_are_ended(service_config: Config) -> None:
    """What one of them has not committed is gone, and it can write no more."""

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service)
            await ready(service)
            lease = await lent(service)
            with psycopg.connect(dsn(lease.address)) as connection:
                connection.execute("delete from item")
                await service.release(lease.lease)
                await until(lambda: state(service).leased == 0, "it is not given back")
                second = await lent(service)
                assert await names(second) == ["one", "two"]
                with pytest.raises(psycopg.OperationalError):
                    connection.execute("select")

    asyncio.run(story())


def test_who_connects_after_the_return_spoils_nothing(service_config: Config) -> None:
    """A pool of a former caller reconnects and writes: the next caller gets the template's contents all the same."""

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service)
            await ready(service)
            lease = await lent(service)
            await service.release(lease.lease)
            await until(lambda: state(service).ready >= 1, "it did not come back")
            await asyncio.to_thread(run_sql, lease.address, "delete from item")
            with psycopg.connect(dsn(lease.address), autocommit=True) as late:
                late.execute("select")
                second = await lent(service)
                assert await names(second) == ["one", "two"]

    asyncio.run(story())


@pytest.mark.parametrize(
    "damage",
    [
        "drop table item",
        "truncate item",
        "alter table item add column more text",
        "create table other as select generate_series(1, 100)",
        "select setval(pg_get_serial_sequence('counted', 'id'), 900)",
        "alter database current set work_mem = '1MB'",
        "create role {role} login",
    ],
)
def test_whatever_a_caller_did(service_config: Config, admin_dsn: str, damage: str) -> None:
    """It is undone, or the database is made new; roles that it made are gone."""
    role = f"{service_config.prefix}_role"

    async def story() -> None:
        async with running(service_config) as service:
            await filled(
                service,
                "abc",
                "create table item (id int primary key, name text)",
                "insert into item values (1, 'one'), (2, 'two')",
                "create table counted (id serial)",
            )
            await ready(service)
            lease = await lent(service)
            statement = damage.replace("current", f'"{lease.address.database}"')
            await asyncio.to_thread(run_sql, lease.address, statement.format(role=role))
            await service.release(lease.lease)
            for second in [await lent(service), await lent(service)]:
                assert await names(second) == ["one", "two"]
                rows = await asyncio.to_thread(
                    run_sql,
                    second.address,
                    "select nextval(pg_get_serial_sequence('counted', 'id')), to_regclass('other'),"
                    " (select count(*) from pg_attribute where attrelid = 'item'::regclass and attnum > 0),"
                    " current_setting('work_mem')",
                )
                assert rows == [(1, None, 2, "4MB")]

    asyncio.run(story())
    with psycopg.connect(admin_dsn) as connection:
        found = connection.execute("select from pg_roles where rolname = %s", [role]).fetchall()
    assert found == []


def test_all_are_lent(service_config: Config) -> None:
    """One more caller waits; it is told why when its time is up, and served as soon as one comes back."""

    async def story() -> None:
        async with running(service_config, initial=0, maximum=2) as service:
            await filled(service)
            await until(lambda: state(service).state == "ready", "not prepared")
            one, _ = await lent(service), await lent(service)
            with pytest.raises(
                UnavailableError, match="all 2 databases of template 'abc' are lent"
            ):
                await service.acquire("abc", "third", wait=0.3)
            waiting = asyncio.create_task(lent(service))
            await until(lambda: state(service).waiting == 1, "it does not wait")
            await service.release(one.lease)
            assert (await waiting).id == one.id

    asyncio.run(story())


def test_what_other_templates_hold_ready_makes_room(service_config: Config) -> None:
    """With `max_clones` in use, a template that nobody asks for gives up its databases for one that somebody does."""

    async def story() -> None:
        config = service_config.replace("tests", max_clones=3)
        async with running(config, initial=2) as service:
            await filled(service, "old")
            await ready(service, "old", 2)
            await filled(service, "new")
            leases = [await lent(service, "new") for _ in range(3)]
            assert len({lease.address.database for lease in leases}) == 3
            await service.release(leases[0].lease)
            assert await names(await lent(service, "new")) == ["one", "two"]

    asyncio.run(story())


def test_a_test_run_that_waits_gets_room(service_config: Config) -> None:
    """What the service holds ready goes for another process that waits for one of `max_clones`."""
    config = service_config.replace("tests", max_clones=3, lock_timeout=60.0)

    async def story() -> None:
        async with running(config, initial=3) as service:
            await filled(service)
            await ready(service, count=3)
            server = open_server(config)
            try:
                slot = await asyncio.to_thread(server.admission.slot)
                assert state(service).ready == 0
                server.admission.give(slot)
            finally:
                server.close()
            assert await names(await lent(service)) == ["one", "two"]

    asyncio.run(story())


def test_max_clones_are_in_use(service_config: Config) -> None:
    """The limit of the whole server holds for the service, too: one more waits, and is told the limit."""

    async def story() -> None:
        async with running(service_config.replace("tests", max_clones=2), initial=0) as service:
            await filled(service)
            await until(lambda: state(service).state == "ready", "not prepared")
            one, two = await lent(service), await lent(service)
            with pytest.raises(UnavailableError, match="max_clones = 2"):
                await service.acquire("abc", "third", wait=0.5)
            waiting = asyncio.create_task(lent(service))
            await asyncio.sleep(0)
            await service.drop(two.lease)
            assert (await waiting).id not in (one.id, two.id)

    asyncio.run(story())
