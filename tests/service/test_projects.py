"""Databases of projects' templates: those that pytest uses, built if they are not there."""

from __future__ import annotations

import asyncio
import os
import signal
from unittest.mock import AsyncMock

import pytest

import clonedb
from clonedb.errors import CloneDBError
from clonedb.postgres import sql
from clonedb.service.cloning import Service
from clonedb.service.contract import Lease, UnavailableError
from clonedb.settings.config import Config
from tests.embedded.sandbox import Sandbox
from tests.projects import Project
from tests.service.stories import WAIT, run_sql, running, server_is_back, state, until

pytestmark = pytest.mark.usefixtures("variables")


async def lent(service: Service, project: Project) -> Lease:
    """A database of the project's template."""
    return await service.acquire("", "playwright", wait=WAIT, project=str(project.directory))


async def rows(lease: Lease) -> list[tuple[object, ...]]:
    """The rows of the project's table."""
    return await asyncio.to_thread(run_sql, lease.address, "select name from item")


def test_a_projects_template_is_pytests(service_config: Config, shop: Project) -> None:
    """It is built by whoever comes first; its databases are rewound, and listed with the project and its heads."""

    async def story() -> None:
        async with running(service_config) as service:
            leases = await asyncio.gather(*(lent(service, shop) for _ in range(5)))
            assert len({lease.address.database for lease in leases}) == 5
            with await asyncio.to_thread(clonedb.template, shop.directory) as template:
                assert {lease.template for lease in leases} == {template.name}
                heads = template.heads
            found = state(service, leases[0].template)
            assert found.project == str(shop.directory)
            assert tuple(found.heads) == heads
            assert found.leased == 5
            for lease in leases:
                before = await rows(lease)
                assert before
                await asyncio.to_thread(run_sql, lease.address, "delete from item")
                await service.give_back(lease.template, lease.id)
            again = await lent(service, shop)
            assert await rows(again) == before

    asyncio.run(story())


def test_an_edited_migration_is_another_template(
    service_config: Config, shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next caller gets it, as the next pytest run would; leases of the one before go on."""
    monkeypatch.setattr("clonedb.service.projects._FRESH", 0.0)

    async def story() -> None:
        async with running(service_config) as service:
            old = await lent(service, shop)
            shop.revision("three", 'op.execute("create table more (id int)")')
            new = await lent(service, shop)
            assert new.template != old.template
            assert await asyncio.to_thread(run_sql, new.address, "select from more") == []
            assert await rows(old)
            await service.release(old.lease)
            await service.release(new.lease)

    asyncio.run(story())


def test_a_broken_project_says_why(service_config: Config, shop: Project) -> None:
    """Each caller gets the error of the build; a directory without a project, that of the configuration."""
    shop.revision("bad", 'raise RuntimeError("no such luck")')

    async def story() -> None:
        async with running(service_config) as service:
            for _ in range(2):
                with pytest.raises(CloneDBError, match="no such luck"):
                    await lent(service, shop)
            with pytest.raises(CloneDBError, match="nowhere"):
                await service.acquire("", "me", wait=WAIT, project="/nowhere/at/all")

    asyncio.run(story())


def test_a_project_with_another_prefix(
    service_config: Config, shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is refused: the service would not find its databases again."""
    monkeypatch.setenv("CLONEDB_PREFIX", f"{service_config.prefix}_p")

    async def story() -> None:
        async with running(service_config) as service:
            with pytest.raises(UnavailableError, match="CLONEDB_PREFIX"):
                await lent(service, shop)

    asyncio.run(story())
    with clonedb.template(shop.directory) as template:
        name = template.name
        template.server.run(sql.unseal, name)
        template.server.run(sql.drop_database, name)


@pytest.mark.campaign("long")
def test_a_long_build_is_asked_for_again(service_config: Config, shop: Project) -> None:
    """The first caller's time is up, and the build goes on for the second."""
    shop.revision("slow", "time.sleep(2)")

    async def story() -> None:
        async with running(service_config) as service:
            with pytest.raises(UnavailableError, match="still being built"):
                await service.acquire("", "hasty", wait=0.2, project=str(shop.directory))
            assert await rows(await lent(service, shop))

    asyncio.run(story())


@pytest.mark.campaign("long")
def test_the_server_is_killed_under_a_project(
    sandbox: Sandbox, shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its leases stay, and its template is opened again."""
    monkeypatch.setenv("CLONEDB_STATE_DIR", str(sandbox.config.state_dir))
    monkeypatch.setenv("CLONEDB_PREFIX", "clonedb")

    async def story() -> None:
        async with running(sandbox.config) as service:
            old = await lent(service, shop)
            os.kill(sandbox.running().pid, signal.SIGKILL)
            await server_is_back(service)
            new = await lent(service, shop)
            assert new.template == old.template
            assert new.address.database != old.address.database
            assert await rows(new)
            (adopted,) = [one for one in service.leases() if one.lease == old.lease]
            assert await rows(adopted)
            await service.release(old.lease)
            await service.release(new.lease)
            assert await rows(await lent(service, shop))

    asyncio.run(story())


def test_those_who_wait_while_the_server_is_started_again(
    sandbox: Sandbox, shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both who waits for a database by then, and who asks meanwhile, get one."""
    monkeypatch.setenv("CLONEDB_STATE_DIR", str(sandbox.config.state_dir))
    monkeypatch.setenv("CLONEDB_PREFIX", "clonedb")

    async def use(service: Service) -> None:
        lease = await lent(service, shop)
        assert await rows(lease)
        await service.release(lease.lease)

    async def story() -> None:
        async with running(sandbox.config, initial=1, maximum=1) as service:
            old = await lent(service, shop)
            waiting = asyncio.create_task(use(service))
            await until(lambda: state(service, old.template).waiting == 1, "it does not wait")
            os.kill(sandbox.running().pid, signal.SIGKILL)
            await until(lambda: not service._backend.answers.is_set(), "it was not noticed")
            await asyncio.gather(waiting, use(service))

    asyncio.run(story())


def test_a_server_that_does_not_come_back(
    service_config: Config, shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks waits as long as it said, and is told why."""

    async def story() -> None:
        async with running(service_config) as service:
            monkeypatch.setattr(
                service._backend.ledger, "ping", AsyncMock(side_effect=UnavailableError("gone"))
            )
            monkeypatch.setattr(
                service._backend, "open", AsyncMock(side_effect=UnavailableError("it is away"))
            )
            await until(lambda: service._backend.why_not == "it is away", "it was not noticed")
            with pytest.raises(UnavailableError, match="tried again and again: it is away"):
                await service.acquire("", "me", wait=0.2, project=str(shop.directory))

    asyncio.run(story())


def test_leases_on_projects_outlive_the_service(service_config: Config, shop: Project) -> None:
    """They are adopted as all others are."""

    async def first() -> Lease:
        async with running(service_config) as service:
            return await lent(service, shop)

    async def second(lease: Lease) -> None:
        async with running(service_config) as service:
            (adopted,) = service.leases()
            assert adopted.lease == lease.lease
            assert adopted.id == lease.id
            new = await lent(service, shop)
            assert new.address.database != lease.address.database
            assert new.id != lease.id
            await service.give_back(lease.template, lease.id)
            await until(lambda: len(service.leases()) == 1, "it was not given back")

    asyncio.run(second(asyncio.run(first())))


@pytest.mark.parametrize("theirs", ["owner", "mode"])
def test_a_project_of_another_account(
    service_config: Config, shop: Project, theirs: str
) -> None:
    """Any account can ask for one on loopback; its files are not run as the service's account."""
    if theirs == "owner":
        if os.geteuid() != 0:
            pytest.skip("needs root for a directory of another account's")
        os.chown(shop.directory, 12345, -1)
    else:
        shop.directory.chmod(0o777)
    mark = shop.directory / "was_run"
    env = shop.directory / "migrations" / "env.py"
    env.write_text(f"open({str(mark)!r}, 'w').close()\n{env.read_text()}")

    async def story() -> None:
        async with running(service_config) as service:
            with pytest.raises(CloneDBError, match="would run as the account of the service"):
                await lent(service, shop)

    asyncio.run(story())
    assert not mark.exists()
