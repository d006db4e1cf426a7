"""Templates that callers fill: who begins one, who takes it over, what may be in their hashes, and how long they stay."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal

import psycopg
import pytest

from clonedb.service.cloning import Retention, Service, Sizes
from clonedb.service.contract import (
    AlreadyInitializedError,
    NoSuchTemplateError,
    UnavailableError,
)
from clonedb.settings.config import Config
from clonedb.templates.metadata import Metadata
from tests.service.stories import (
    ITEMS,
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


def test_a_hundred_racers_have_one_builder(service_config: Config) -> None:
    """All others are told that it is begun, and get a database each when it is finished."""

    async def story() -> None:
        async with running(service_config, maximum=100) as service:
            found = await asyncio.gather(
                *(service.initialize("abc", f"racer {number}") for number in range(100)),
                return_exceptions=True,
            )
            (address,) = [one for one in found if not isinstance(one, BaseException)]
            assert sum(isinstance(one, AlreadyInitializedError) for one in found) == 99
            waiting = [asyncio.create_task(lent(service)) for _ in range(10)]
            await asyncio.to_thread(run_sql, address, "create table item (id int, name text)")
            await asyncio.gather(*(service.finalize("abc") for _ in range(10)))
            leases = await asyncio.gather(*waiting)
            assert len({lease.address.database for lease in leases}) == 10

    asyncio.run(story())


@pytest.mark.campaign("long")
def test_one_that_was_refused_and_finalizes_all_the_same(service_config: Config) -> None:
    """Neither the empty nor the half-filled database is sealed: the builder's work is."""

    async def story() -> None:
        async with running(service_config) as service:
            address = await service.initialize("abc", "builder")
            refused = []
            for number in range(2):
                with pytest.raises(AlreadyInitializedError):
                    await service.initialize("abc", f"refused {number}")
                refused.append(asyncio.create_task(service.finalize("abc", doubtful=True)))
            await asyncio.sleep(1.5)
            connection = psycopg.connect(dsn(address), autocommit=True)
            connection.execute("create table item (id int, name text)")
            await asyncio.sleep(1.5)
            assert state(service).state == "building"
            connection.execute("insert into item values (1, 'one')")
            connection.close()
            await service.finalize("abc", doubtful=True)
            await asyncio.gather(*refused)
            assert await names(await lent(service)) == ["one"]

    asyncio.run(story())


def test_one_that_may_have_been_refused_is_believed_in_the_end(service_config: Config) -> None:
    """A builder whose rivals were refused, and never finalize, waits for a second."""

    async def story() -> None:
        async with running(service_config) as service:
            address = await service.initialize("abc", "builder")
            for number in range(5):
                with pytest.raises(AlreadyInitializedError):
                    await service.initialize("abc", f"refused {number}")
            await asyncio.to_thread(run_sql, address, "create table item (id int, name text)")
            await service.finalize("abc", doubtful=True)
            assert await names(await lent(service)) == []

    asyncio.run(story())


def test_databases_are_lent_while_the_template_is_prepared(service_config: Config) -> None:
    """PUT does not wait for the preparation, nor does the first GET; what it gave is made new when it returns."""

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service)
            assert state(service).state == "preparing"
            lease = await lent(service)
            assert state(service).state == "preparing"
            assert await names(lease) == ["one", "two"]
            await ready(service)
            await service.release(lease.lease)
            for second in (await lent(service), await lent(service)):
                assert second.address.database != lease.address.database
                assert await names(second) == ["one", "two"]

    asyncio.run(story())


@pytest.mark.parametrize(
    "hash_",
    [
        "x" * 10_000,
        "nul\0nul",
        "'; drop table lease; --",
        '"quoted" %s {} %(name)s',
        "../../etc/passwd",
        "\ud800 half a pair",
        "ünïcode 💥\n\r\t",
        " ",
    ],
)
def test_a_hash_is_data(service_config: Config, hash_: str) -> None:
    """Whatever is in it, also over a new start of the service, and beside one that begins like it."""

    async def first() -> str:
        async with running(service_config) as service:
            await filled(service, hash_)
            await filled(service, hash_ + "!", "create table item (id int, name text)")
            lease = await lent(service, hash_)
            assert lease.template == hash_
            assert await names(lease) == ["one", "two"]
            assert await names(await lent(service, hash_ + "!")) == []
            return lease.lease

    async def second(name: str) -> None:
        async with running(service_config) as service:
            assert name in [lease.lease for lease in service.leases()]
            assert await names(await lent(service, hash_)) == ["one", "two"]
            await service.discard(hash_)
            with pytest.raises(NoSuchTemplateError):
                await lent(service, hash_)
            assert await names(await lent(service, hash_ + "!")) == []

    asyncio.run(second(asyncio.run(first())))


@pytest.mark.campaign("long")
def test_a_dead_builder_is_followed_by_the_next(service_config: Config) -> None:
    """After its lease, not before; those that wait get what the second one makes, not what the first has begun."""

    async def story() -> None:
        async with running(service_config, lease_timeout=2.0) as service:
            address = await service.initialize("abc", "dead")
            await asyncio.to_thread(run_sql, address, "create table half (id int)")
            waiting = asyncio.create_task(lent(service))
            with pytest.raises(AlreadyInitializedError):
                await service.initialize("abc", "too early")
            await asyncio.sleep(3.5)
            await filled(service)
            lease = await waiting
            assert await names(lease) == ["one", "two"]
            rows = await asyncio.to_thread(run_sql, lease.address, "select to_regclass('half')")
            assert rows == [(None,)]
            # another name: what the dead one may still send does not go there
            with pytest.raises(psycopg.OperationalError):
                await asyncio.to_thread(run_sql, address, "select")

    asyncio.run(story())


@pytest.mark.campaign("long")
def test_a_builder_that_is_connected_is_not_followed(service_config: Config) -> None:
    """However long it works."""

    async def story() -> None:
        async with running(service_config, lease_timeout=1.0) as service:
            address = await service.initialize("abc", "slow")
            with psycopg.connect(dsn(address), autocommit=True) as connection:
                await asyncio.sleep(3)
                with pytest.raises(AlreadyInitializedError):
                    await service.initialize("abc", "impatient")
                connection.execute("create table item (id int, name text)")
            await service.finalize("abc")
            assert await names(await lent(service)) == []

    asyncio.run(story())


def test_sessions_on_a_template_are_ended(service_config: Config) -> None:
    """One that is in a transaction with locks is no hindrance, and none can come any more."""

    async def story() -> None:
        async with running(service_config) as service:
            address = await service.initialize("abc", "builder")
            await asyncio.to_thread(run_sql, address, "create table item (id int, name text)")
            leaked = psycopg.connect(dsn(address))
            leaked.execute("lock table item")
            await service.finalize("abc")
            with pytest.raises(psycopg.OperationalError):
                leaked.execute("select")
            with pytest.raises(psycopg.OperationalError, match="not currently accepting"):
                await asyncio.to_thread(run_sql, address, "select")
            leaked.close()
            assert await names(await lent(service)) == []

    asyncio.run(story())


def test_templates_are_found_again(service_config: Config) -> None:
    """After a new start they are ready without being prepared again; what was not full can be filled on."""

    async def first() -> None:
        async with running(service_config) as service:
            await filled(service)
            await ready(service)
            address = await service.initialize("half", "builder")
            await asyncio.to_thread(run_sql, address, "create table item (id int, name text)")

    async def second() -> None:
        async with running(service_config) as service:
            assert state(service).state == "ready"
            assert state(service, "half").state == "building"
            with pytest.raises(AlreadyInitializedError):
                await service.initialize("half", "another")
            await service.finalize("half")
            assert await names(await lent(service, "half")) == []
            assert await names(await lent(service)) == ["one", "two"]

    asyncio.run(first())
    asyncio.run(second())


def test_a_template_that_somebody_dropped(service_config: Config, admin_dsn: str) -> None:
    """Those that wait are told, and the hash can be begun anew."""

    async def story() -> None:
        async with running(service_config, initial=0) as service:
            await filled(service)
            await until(lambda: state(service).state == "ready", "not prepared")
            (name,) = databases(admin_dsn, service_config.prefix)
            with psycopg.connect(admin_dsn, autocommit=True) as connection:
                connection.execute(f'alter database "{name}" is_template false'.encode())
                connection.execute(f'drop database "{name}"'.encode())
            with pytest.raises(Exception, match="discarded"):
                await lent(service)
            await filled(service)
            assert await names(await lent(service)) == ["one", "two"]

    asyncio.run(story())


@pytest.mark.campaign("long")
@pytest.mark.parametrize("limit", [Retention(days=0.00001), Retention(gigabytes=0.001)])
def test_templates_go_in_the_end(
    service_config: Config, admin_dsn: str, limit: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were not used for long, or take too much room; one whose database is lent stays."""
    monkeypatch.setattr("clonedb.service.upkeep._SELDOM", 0.5)
    monkeypatch.setattr("clonedb.service.upkeep._RECENTLY", 0.5)

    async def story() -> None:
        service = Service(service_config, sizes=Sizes(1, 5), retention=limit)
        await service.start()
        try:
            await filled(service, "used")
            lease = await lent(service, "used")
            await filled(service, "unused")
            await until(
                lambda: "unused" not in [one.hash for one in service.templates()],
                "it was not evicted",
            )
            assert any(one.kind == "evicted" for one in service.events())
            assert await names(lease) == ["one", "two"]
            assert "used" in [one.hash for one in service.templates()]
        finally:
            await service.close()

    asyncio.run(story())
    assert len(databases(admin_dsn, service_config.prefix)) == 2


def test_one_service_for_a_server_and_a_prefix(service_config: Config) -> None:
    """A second one is refused with the first one's pid; with another prefix it is on its own."""

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service)
            second = Service(service_config.replace("tests", connect_timeout=0.5))
            with pytest.raises(UnavailableError, match="another `clonedb serve` works there"):
                await second.start()
            other = service_config.replace("tests", prefix=f"{service_config.prefix}_o")
            async with running(other) as third:
                with pytest.raises(NoSuchTemplateError):
                    await lent(third)
            assert await names(await lent(service)) == ["one", "two"]

    asyncio.run(story())


def test_templates_do_not_wait_for_each_other(service_config: Config) -> None:
    """While one of them cannot be made a database of, another one's are lent."""

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service, "slow")
            await filled(service, "quick")
            await ready(service, "slow")
            await ready(service, "quick")
            slow = await lent(service, "slow")
            connection = psycopg.connect(dsn(slow.address))
            (pid,) = connection.execute("select pg_backend_pid()").fetchone() or (0,)
            # a session that cannot be ended: the return of this database takes until it goes on
            os.kill(pid, signal.SIGSTOP)
            try:
                await service.release(slow.lease)
                for _ in range(20):
                    lease = await lent(service, "quick")
                    await service.release(lease.lease)
            finally:
                os.kill(pid, signal.SIGCONT)
            connection.close()
            await until(lambda: state(service, "slow").ready >= 1, "it is not made new")
            assert await names(await lent(service, "slow")) == ["one", "two"]

    asyncio.run(story())


def test_uses_are_noted_where_collectors_look(
    service_config: Config, admin_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template that is used through the service counts as used for `clonedb gc`, too."""
    monkeypatch.setattr("clonedb.service.callers._HOUR", dt.timedelta(0))
    monkeypatch.setattr("clonedb.templates.catalog._HOUR", 0.0)

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service)
            await ready(service)
            before = used()
            await lent(service)
            await until(lambda: used() > before, "its use was not noted")

    def used() -> float:
        with psycopg.connect(admin_dsn) as connection:
            (found,) = [
                metadata
                for (comment,) in connection.execute(
                    "select shobj_description(oid, 'pg_database') from pg_database"
                    " where datistemplate and starts_with(datname, %s)",
                    [f"{service_config.prefix}_"],
                )
                if (metadata := Metadata.from_json(comment))
            ]
        return found.used

    asyncio.run(story())


def test_a_hash_that_is_begun_anew_is_not_its_forerunner(service_config: Config) -> None:
    """A database that was just being made of a discarded template fails, which says nothing of the new one."""

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service)
            await ready(service)
            forerunner = service._callers.get("abc").pool
            await service.discard("abc")
            address = await service.initialize("abc", "builder")
            forerunner._lost("its template is gone")
            await asyncio.sleep(0.1)
            await asyncio.to_thread(run_sql, address, *ITEMS)
            await service.finalize("abc")
            forerunner._lost("its template is gone")
            assert await names(await lent(service)) == ["one", "two"]

    asyncio.run(story())
