"""What becomes of the server under a service: killed, full, without a connection left, or without rights for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from clonedb.errors import CloneDBError
from clonedb.service.cloning import Service
from clonedb.service.contract import Lease, UnavailableError
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests.embedded.sandbox import Sandbox, query
from tests.service.stories import (
    dsn,
    filled,
    lent,
    names,
    ready,
    run_sql,
    running,
    server_is_back,
    state,
    told,
    until,
)


def test_the_embedded_server_is_killed(sandbox: Sandbox) -> None:
    """It is started again; leases, templates and those that wait are as they were, and databases are as new."""

    async def story() -> None:
        async with running(sandbox.config) as service:
            await filled(service)
            await ready(service)
            lease, other = await lent(service), await lent(service)
            run_sql(
                lease.address,
                "set synchronous_commit = on",
                "insert into item values (3, 'three')",
            )
            os.kill(sandbox.running().pid, signal.SIGKILL)
            await until(lambda: bool(told(service)), "the service did not see it")
            waiting = asyncio.create_task(lent_again(service))
            await server_is_back(service)
            assert {one.lease for one in service.leases()} >= {lease.lease, other.lease}
            found = {one.lease: one for one in service.leases()}[lease.lease]
            assert found.address.database == lease.address.database
            assert await names(found) == ["one", "two", "three"]
            # what its caller was told still leads there, if the port is the same
            assert found.address.password == lease.address.password
            new = await waiting
            assert new.address.database not in (
                lease.address.database,
                other.address.database,
            )
            assert await names(new) == ["one", "two"]
            await service.release(lease.lease)
            await service.release(other.lease)
            assert await names(await lent(service)) == ["one", "two"]
            await filled(service, "another")
            assert await names(await lent(service, "another")) == ["one", "two"]

    asyncio.run(story())


async def lent_again(service: Service) -> Lease:
    """A database, as soon as there is one."""
    while True:
        with contextlib.suppress(UnavailableError):
            return await lent(service)
        await asyncio.sleep(0.05)


@pytest.mark.campaign("kills")
def test_all_sessions_are_ended(service_config: Config, admin_dsn: str) -> None:
    """As an administrator or a crash of one process does it: nothing is lost, and nothing is lent twice."""

    async def story() -> None:
        async with running(service_config) as service:
            await filled(service)
            await ready(service)
            lease = await lent(service)
            for _ in range(3):
                with psycopg.connect(admin_dsn, autocommit=True) as connection:
                    connection.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        " where application_name like %s or datname like %s",
                        [f"clonedb%pid {os.getpid()}", f"{service_config.prefix}%"],
                    )
                second = await lent(service)
                assert second.address.database != lease.address.database
                assert await names(second) == ["one", "two"]
                await service.release(second.lease)
            assert lease.lease in [one.lease for one in service.leases()]
            with psycopg.connect(admin_dsn) as connection:
                rows = connection.execute(
                    f'select lease from "{service_config.prefix}".lease'.encode()
                ).fetchall()
            assert rows == [(lease.lease,)]

    asyncio.run(story())


def test_a_server_of_the_users_own(service_config: Config, server_url: str) -> None:
    """Addresses are those of the url, by TCP with its user and password."""
    config = service_config.replace("tests", url=server_url)

    async def story() -> None:
        async with running(config) as service:
            await filled(service)
            await ready(service)
            lease = await lent(service)
            url = DatabaseURL.parse(server_url)
            assert (lease.address.host, lease.address.port) == (url.host, url.port)
            assert (lease.address.username, lease.address.password) == (
                url.user,
                url.password,
            )
            run_sql(lease.address, "delete from item")
            await service.release(lease.lease)
            again = await lent(service)
            assert [one for one in service.events() if one.kind == "refused"] == []
            assert await names(again) == ["one", "two"]

    asyncio.run(story())


@pytest.mark.campaign("long")
def test_a_crash_empties_unlogged_tables(sandbox: Sandbox) -> None:
    """A template that has lost rows is discarded; its hash can be begun anew."""

    async def story() -> None:
        async with running(sandbox.config) as service:
            await filled(
                service,
                "abc",
                "create unlogged table item (id int, name text)",
                "insert into item values (1, 'one')",
            )
            await ready(service)
            os.kill(sandbox.running().pid, signal.SIGKILL)
            await server_is_back(service)
            with pytest.raises(CloneDBError, match=r"discarded|not found"):
                await lent(service)
            assert any("has lost the rows" in one.text for one in service.events())
            await filled(service)
            assert await names(await lent(service)) == ["one", "two"]

    asyncio.run(story())


def test_a_server_of_the_users_own_is_killed(sandbox: Sandbox) -> None:
    """It is waited for; when it is back, leases and templates are as they were."""
    lease = sandbox.lease()
    # the server's own password is another one after each start
    query(lease, "create role me superuser login password 'secret'")
    url = DatabaseURL("psycopg", "me", "secret", "127.0.0.1", lease.port).render()
    config = sandbox.config.replace("tests", url=url)

    async def story() -> None:
        async with running(config) as service:
            await filled(service)
            await ready(service)
            before = await lent(service)
            os.kill(sandbox.running().pid, signal.SIGKILL)
            asked = asyncio.create_task(lent_again(service))
            await until(lambda: sandbox.place.running() is None, "its keeper did not notice")
            again = await asyncio.to_thread(sandbox.lease)
            try:
                if again.port != lease.port:
                    pytest.skip("another process has taken the port meanwhile")
                new = await asked
                assert new.address.database != before.address.database
                assert await names(new) == ["one", "two"]
                assert await names(before) == ["one", "two"]
                await service.release(before.lease)
                assert await names(await lent(service)) == ["one", "two"]
            finally:
                again.close()

    asyncio.run(story())
    lease.close()


def test_another_service_takes_over(service_config: Config, admin_dsn: str) -> None:
    """One that has lost its lock to another lends nothing any more, and says so."""

    async def story() -> None:
        async with running(service_config) as first:
            await filled(first)
            await ready(first)
            lease = await lent(first)
            second = Service(service_config)
            starting = asyncio.create_task(second.start())
            await asyncio.sleep(0.5)
            # the first one would look within a second, and might be quicker than the second
            assert first._upkeep is not None
            first._upkeep.cancel()
            assert first._backend.ledger._plain is not None
            pid = first._backend.ledger._plain.info.backend_pid
            with psycopg.connect(admin_dsn, autocommit=True) as connection:
                connection.execute("select pg_terminate_backend(%s)", [pid])
            await starting
            try:
                with pytest.raises(UnavailableError, match="another `clonedb serve`"):
                    await lent(first)
                assert [one.lease for one in second.leases()] == [lease.lease]
                new = await lent(second)
                assert new.address.database != lease.address.database
            finally:
                await second.close()

    asyncio.run(story())


def test_an_account_that_may_only_create_databases(
    service_config: Config, server_url: str, admin_dsn: str
) -> None:
    """It cannot read the WAL: each return costs a new database, made ahead. Without a schema it says what to grant."""
    role = f"{service_config.prefix}_role"
    url = DatabaseURL.parse(server_url).replace(user=role, password="secret").render()
    config = service_config.replace("tests", url=url)

    async def refused() -> None:
        with pytest.raises(UnavailableError, match="permission denied for database"):
            async with running(config):
                pass

    async def story() -> None:
        async with running(config) as service:
            await filled(service)
            await ready(service)
            lease = await lent(service)
            assert lease.address.username == role
            run_sql(lease.address, "delete from item")
            await service.release(lease.lease)
            assert any("may neither read the WAL" in one.text for one in service.events())
            again = await lent(service)
            assert again.address.database != lease.address.database
            assert await names(again) == ["one", "two"]
            await service.discard("abc")

    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"create role {role} login createdb password 'secret'".encode())
        try:
            asyncio.run(refused())
            connection.execute(f"grant create on database postgres to {role}".encode())
            asyncio.run(story())
        finally:
            connection.execute(
                f"drop schema if exists {service_config.prefix} cascade".encode()
            )
            for (name,) in connection.execute(
                "select datname from pg_database where starts_with(datname, %s)",
                [service_config.prefix],
            ).fetchall():
                connection.execute(f'alter database "{name}" is_template false'.encode())
                connection.execute(f'drop database "{name}" with (force)'.encode())
            connection.execute(f"drop owned by {role}".encode())
            connection.execute(f"drop role {role}".encode())


@pytest.mark.campaign("long")
def test_the_disk_is_full(sandbox: Sandbox, small_disk: Callable[[str], Path]) -> None:
    """Who waits is told so within seconds; when there is room again, all goes on."""
    disk = small_disk("200m")
    config = sandbox.config.replace("tests", state_dir=str(disk / "state"), data="disk")

    async def story() -> None:
        async with running(config, initial=0) as service:
            await filled(service)
            await until(lambda: state(service).state == "ready", "not prepared")
            lease = await lent(service)
            ballast = disk / "ballast"
            with ballast.open("wb") as file, contextlib.suppress(OSError):
                while file.write(b"x" * 2**20):
                    file.flush()
            with pytest.raises(UnavailableError, match="No space left on device"):
                await lent(service)
            ballast.unlink()
            assert await names(lease) == ["one", "two"]
            assert await names(await lent(service)) == ["one", "two"]

    try:
        asyncio.run(story())
    finally:
        Sandbox(config, sandbox.binaries).close()


def test_no_connection_is_left(sandbox: Sandbox) -> None:
    """What is ready is lent all the same; what has to be made is told with the server's words, and made later."""
    config = sandbox.config.replace("tests", server={"max_connections": "25"})

    async def story() -> None:
        async with running(config) as service:
            await filled(service)
            await ready(service)
            address = (await lent(service)).address
            await ready(service)
            held = []
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    held.append(psycopg.connect(dsn(address)))
            try:
                # what makes databases is connected already
                leases = [await lent(service) for _ in range(4)]
                assert len({one.address.database for one in leases} | {address.database}) == 5
            finally:
                for connection in held:
                    connection.close()
            assert await names(await lent(service)) == ["one", "two"]

    asyncio.run(story())
    Sandbox(config, sandbox.binaries).close()
