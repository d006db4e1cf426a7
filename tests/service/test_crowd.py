"""Many callers at once: no two have one database at the same time, and each finds the template's contents."""

from __future__ import annotations

import asyncio
import random

import psycopg
import pytest

from clonedb.service.cloning import Service
from clonedb.service.contract import Lease, NoSuchDatabaseError
from clonedb.settings.config import Config
from tests.service.stories import databases, dsn, filled, lent, names, run_sql, running, state


class Crowd:
    """Callers that do something different each time, and what they have at the moment."""

    def __init__(self, service: Service, seed: int) -> None:
        self.service = service
        self.chance = random.Random(seed)
        self.out: dict[str, str] = {}
        self.kept: list[Lease] = []

    async def call(self, number: int, cycles: int) -> None:
        """One caller."""
        for cycle in range(cycles):
            hash_ = self.chance.choice(["one", "two"])
            lease = await lent(self.service, hash_)
            database, mine = lease.address.database, f"{number}-{cycle}"
            assert database not in self.out, f"{database} is lent twice"
            self.out[database] = mine
            assert await names(lease) == ["one", "two"]
            await asyncio.to_thread(
                run_sql, lease.address, f"insert into item values (9, '{mine}')"
            )
            await asyncio.sleep(self.chance.random() / 100)
            assert await names(lease) == ["one", "two", mine]
            await self._end(lease, hash_)

    async def _end(self, lease: Lease, hash_: str) -> None:
        del self.out[lease.address.database]
        how = self.chance.choice(
            ["release", "release", "return", "leak", "drop", "keep", "twice"]
        )
        if how == "keep" and len(self.kept) < 3:
            self.kept.append(await self.service.keep(lease.lease))
        elif how == "drop":
            await self.service.drop(lease.lease)
        elif how == "return":
            await self.service.give_back(hash_, lease.id)
        elif how == "twice":
            first, second = await asyncio.gather(
                self.service.release(lease.lease),
                self.service.release(lease.lease),
                return_exceptions=True,
            )
            assert first is None
            assert isinstance(second, NoSuchDatabaseError)
        elif how == "leak":
            leaked = await asyncio.to_thread(_leak, lease)
            await self.service.release(lease.lease)
            leaked.close()
        else:
            await self.service.release(lease.lease)


def _leak(lease: Lease) -> psycopg.Connection[tuple[object, ...]]:
    """A session in the middle of a transaction."""
    connection = psycopg.connect(dsn(lease.address))
    connection.execute("delete from item")
    return connection


@pytest.mark.parametrize("callers", [8, pytest.param(64, marks=pytest.mark.campaign("kills"))])
def test_a_crowd(service_config: Config, admin_dsn: str, callers: int) -> None:
    """Of two templates, with returns, leaks, drops and kept databases in between."""

    async def story() -> None:
        async with running(service_config, initial=2, maximum=callers) as service:
            await filled(service, "one")
            await filled(service, "two")
            crowd = Crowd(service, callers)
            await asyncio.gather(*(crowd.call(number, 6) for number in range(callers)))
            assert {one.lease for one in service.leases()} == {one.lease for one in crowd.kept}
            assert state(service, "one").leased == state(service, "two").leased == 0
            for lease in crowd.kept:
                assert len(await names(lease)) == 3
                await service.drop(lease.lease)

    asyncio.run(story())
    assert len(databases(admin_dsn, service_config.prefix)) == 2


def test_what_happens_is_told(service_config: Config) -> None:
    """Changes come to those that listen, events and the server's counts are listed."""

    async def story() -> None:
        async with running(service_config) as service:
            changes = service.changes()
            first = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
            await filled(service)
            await asyncio.wait_for(first, 10)
            lease = await lent(service)
            await asyncio.wait_for(anext(changes), 10)
            found = await service.ping()
            assert found["sessions"] > 1
            assert found["bytes"] > 10**6
            await service.drop(lease.lease)
            kinds = [one.kind for one in service.events()]
            assert kinds[0] == "dropped"
            assert kinds[-1] == "built"
            assert all("password" not in one.text for one in service.events())

    asyncio.run(story())
