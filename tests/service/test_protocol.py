"""What a caller sees: a template is begun, filled and finalized, and databases of it are lent and given back."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest

from clonedb.service import filling
from clonedb.service.contract import (
    AlreadyInitializedError,
    DiscardedError,
    NoSuchDatabaseError,
    NoSuchTemplateError,
)
from clonedb.service.worker import Worker
from clonedb.settings.config import Config
from tests.service.stories import (
    WAIT,
    databases,
    dsn,
    filled,
    lent,
    names,
    ready,
    run_sql,
    running,
    state,
)


def test_a_template_is_filled_and_its_databases_are_lent(service_config: Config) -> None:
    """Two callers have two databases, each with the template's contents."""

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service)
            one, two = await lent(service), await lent(service)
            assert await names(one) == await names(two) == ["one", "two"]
            assert one.address.database != two.address.database
            assert one.id != two.id
            assert {lease.lease for lease in service.leases()} == {one.lease, two.lease}
            assert state(service).leased == 2

    asyncio.run(story())


def test_what_was_written_is_undone_and_the_same_database_comes_next(
    service_config: Config,
) -> None:
    """Last in, first out; the id stays with the database."""

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service)
            await ready(service)
            first = await lent(service)
            run_sql(
                first.address, "delete from item where id = 1", "insert into item values (3)"
            )
            await service.give_back("abc", first.id)
            second = await lent(service)
            assert second.id == first.id
            assert second.address.database == first.address.database
            assert second.lease != first.lease
            assert await names(second) == ["one", "two"]

    asyncio.run(story())


def test_what_is_not_there_is_said(service_config: Config) -> None:
    """Unknown hashes, numbers and leases have errors of their own, and a lease ends once."""

    async def story() -> None:
        async with running(service_config) as service:
            with pytest.raises(NoSuchTemplateError):
                await service.finalize("abc")
            with pytest.raises(NoSuchTemplateError):
                await lent(service)
            with pytest.raises(NoSuchTemplateError):
                await service.give_back("abc", 0)
            with pytest.raises(NoSuchTemplateError):
                await service.discard("abc")
            await filled(service)
            with pytest.raises(AlreadyInitializedError):
                await service.initialize("abc", "another")
            await service.finalize("abc")
            with pytest.raises(NoSuchDatabaseError):
                await service.give_back("abc", 4711)
            lease = await lent(service)
            await service.release(lease.lease)
            for method in (service.release, service.renew, service.keep, service.drop):
                with pytest.raises(NoSuchDatabaseError):
                    await method(lease.lease)
            with pytest.raises(NoSuchDatabaseError):
                await service.give_back("abc", lease.id)

    asyncio.run(story())


def test_a_template_is_discarded_while_its_builder_works_and_five_wait(
    service_config: Config, admin_dsn: str
) -> None:
    """All five are told, the builder's session is ended, and the hash can be begun anew at once."""

    async def story() -> None:
        async with running(service_config) as service:
            address = await service.initialize("abc", "builder")
            waiters = [asyncio.create_task(lent(service)) for _ in range(5)]
            with psycopg.connect(dsn(address)) as builder:
                builder.execute("create table item ()")
                await asyncio.sleep(0)
                assert state(service).waiting == 5
                await service.discard("abc")
                found = await asyncio.gather(*waiters, return_exceptions=True)
                assert [type(one) for one in found] == [DiscardedError] * 5
                with pytest.raises(psycopg.OperationalError):
                    builder.execute("select")
            await filled(service)
            assert await names(await lent(service)) == ["one", "two"]
            await service.discard_all()
            assert [one for one in service.templates() if one.state != "discarded"] == []

    asyncio.run(story())
    left = databases(admin_dsn, service_config.prefix)
    # the lent one is not dropped while somebody has it
    assert len(left) == 1


def test_nothing_is_left_but_what_is_lent(service_config: Config, admin_dsn: str) -> None:
    """After the service was stopped there are the templates and the lent database, and nobody else's."""

    async def story() -> str:
        async with running(service_config, initial=3) as service:
            await filled(service)
            await ready(service, count=3)
            return (await lent(service)).address.database

    name = asyncio.run(story())
    left = databases(admin_dsn, service_config.prefix)
    assert len(left) == 2
    assert name in left


@pytest.mark.parametrize("initial", [0, 1])
def test_what_was_lent_before_the_template_was_prepared(
    service_config: Config, monkeypatch: pytest.MonkeyPatch, initial: int
) -> None:
    """It is made new when it comes back, and the next caller gets its number, whether one is ready or not."""
    prepare, go_on = filling.prepare, threading.Event()

    def waiting(*arguments: Any) -> Any:
        assert go_on.wait(WAIT)
        return prepare(*arguments)

    monkeypatch.setattr(filling, "prepare", waiting)

    async def story() -> None:
        async with running(service_config, initial=initial) as service:
            await filled(service)
            others = [await lent(service) for _ in range(3)]
            first = await lent(service)
            go_on.set()
            await ready(service, count=initial)
            await service.give_back("abc", first.id)
            second = await lent(service)
            assert second.id == first.id
            assert second.address.database != first.address.database
            assert await names(second) == ["one", "two"]
            assert len({one.id for one in (*others, second)}) == 4

    asyncio.run(story())


def test_what_is_made_meanwhile_is_lent_later(
    service_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database that came back last is the next one, also if another one was being made."""
    make, go_on = Worker.make, threading.Event()
    go_on.set()

    def waiting(worker: Worker, number: int) -> Any:
        assert go_on.wait(WAIT)
        return make(worker, number)

    monkeypatch.setattr(Worker, "make", waiting)

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service)
            await ready(service)
            go_on.clear()
            first = await lent(service)
            await service.give_back("abc", first.id)
            go_on.set()
            await ready(service, count=2)
            assert (await lent(service)).id == first.id

    asyncio.run(story())
