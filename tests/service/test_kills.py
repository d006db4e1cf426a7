"""kill -9 of the service at each step: the next one goes on with what callers have been told, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from clonedb.clones.gc import collect
from clonedb.postgres.servers import open_server
from clonedb.service.cloning import Service
from clonedb.service.contract import AlreadyInitializedError, Lease, NoSuchTemplateError
from clonedb.settings.config import Config
from tests.service.stories import (
    databases,
    dsn,
    filled,
    lent,
    names,
    running,
    state,
    until,
)

ROOT = Path(__file__).parents[2]

# the function, whether before or after it, and the how manieth call
STEPS = {
    "a template's database without its comment": ("clonedb.postgres.sql:comment", "before", 1),
    "a template that is not written down": ("clonedb.service.filling:begin", "after", 1),
    "a template before its address was told": (
        "clonedb.service.ledger:Ledger.put_template",
        "after",
        1,
    ),
    "a template that is closed, and not sealed": ("clonedb.postgres.sql:seal", "before", 1),
    "a template that is sealed, which is not written down": (
        "clonedb.postgres.sql:seal",
        "after",
        1,
    ),
    "before a template is prepared": (
        "clonedb.service.filling:prepare_database",
        "before",
        1,
    ),
    "before the prepared copy takes its place": ("clonedb.service.filling:_swap", "before", 1),
    "after the prepared copy took its place": ("clonedb.service.filling:_swap", "after", 1),
    "a database without its comment": ("clonedb.service.worker:create", "after", 1),
    "a database that is made": ("clonedb.service.worker:Worker.make", "after", 1),
    "a lease that is not written down": ("clonedb.service.ledger:Ledger.lend", "before", 1),
    "a lease that was not told": ("clonedb.service.ledger:Ledger.lend", "after", 2),
    "a return that is not written down": (
        "clonedb.service.ledger:Ledger.give_back",
        "before",
        1,
    ),
    "a return that was not told": ("clonedb.service.ledger:Ledger.give_back", "after", 1),
    "before a database is rewound": ("clonedb.service.worker:Worker.reset", "before", 1),
    "after a database was rewound": ("clonedb.service.worker:Worker.reset", "after", 1),
    "before a template is taken out": (
        "clonedb.service.ledger:Ledger.remove_template",
        "before",
        1,
    ),
    "a template that was taken out": (
        "clonedb.service.ledger:Ledger.remove_template",
        "after",
        1,
    ),
    "a template that was dropped": ("clonedb.service.filling:drop", "after", 2),
    "nothing in particular": ("clonedb.service.cloning:Service.close", "before", 1),
}
QUICK = (
    "a template that is sealed, which is not written down",
    "before the prepared copy takes its place",
    "a lease that was not told",
    "after a database was rewound",
)


def killed(config: Config, *step: Any) -> list[dict[str, Any]]:
    """Run the program until it is killed: the replies that its callers have had."""
    settings = {
        name: getattr(config, name)
        for name in ("state_dir", "postgres_bin", "prefix", "salt", "idle_timeout")
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.service.program", json.dumps([settings, *step])],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == -9 or told[-1]["said"] == "stopped", run.stderr
    return told


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, marks=() if step in QUICK else pytest.mark.campaign("kills"))
        for step in STEPS
    ],
)
def test_a_killed_service(service_config: Config, admin_dsn: str, step: str) -> None:
    """Leases stay with what is in them, nothing is lent twice, templates are there, and all that is left is used."""
    told = killed(service_config, *STEPS[step])
    returned = {one["lease"] for one in told if one["said"] == "returns"}
    out = {
        one["lease"]: one
        for one in told
        if one["said"] == "lent" and one["lease"] not in returned
    }
    said = [one["said"] for one in told]

    async def story() -> None:
        async with running(service_config, lease_timeout=2.0) as service:
            adopted = {lease.lease: lease for lease in service.leases()}
            for lease, one in out.items():
                assert adopted[lease].id == one["id"]
                assert adopted[lease].address.database == one["database"]
            if out:
                # what the first of them wrote is still there
                assert "mine" in await names(adopted[next(iter(out))])

            await usable(service, finalized="finalized" in said)
            new: list[Lease] = []
            # a slow machine takes longer than the lease's time
            with contextlib.ExitStack() as clients:
                for _ in range(4):
                    new.append(await lent(service))
                    client: psycopg.Connection[Any] = await asyncio.to_thread(
                        psycopg.connect, dsn(new[-1].address)
                    )
                    clients.enter_context(contextlib.closing(client))
                taken = {lease.address.database for lease in new}
                assert len(taken) == 4
                assert not taken & {lease.address.database for lease in adopted.values()}
                # whose time is up meanwhile, of those that were adopted, leaves its number to the next
                numbers = [lease.id for lease in service.leases()]
                assert len(numbers) == len({*numbers})
                for lease in new:
                    assert await names(lease) == ["one", "two"]

            for lease in service.leases():
                await service.release(lease.lease)
            if "discarded" in said:
                with pytest.raises(NoSuchTemplateError):
                    await lent(service, "gone")
            await service.discard_all()

    asyncio.run(story())
    asyncio.run(_nothing_left(service_config, admin_dsn))


async def usable(service: Service, *, finalized: bool) -> None:
    """The template is ready if a caller was told so; else it can be begun anew, at the latest after its lease."""
    if finalized:
        return
    with contextlib.suppress(AlreadyInitializedError):
        await filled(service)
        return
    if state(service).state != "building":
        return

    async def begun() -> bool:
        try:
            await filled(service)
        except AlreadyInitializedError:
            return False
        return True

    while not await begun():  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.1)


async def _nothing_left(config: Config, admin_dsn: str) -> None:
    async with running(config):
        await until(
            lambda: databases(admin_dsn, config.prefix) == [],
            f"left: {databases(admin_dsn, config.prefix)}",
        )


def test_collectors_leave_what_a_killed_service_has_lent(
    service_config: Config, admin_dsn: str
) -> None:
    """pytest's own collection does not touch leases and templates of the service, whether it lives or not."""
    out = [one for one in killed(service_config) if one["said"] == "lent"]
    server = open_server(service_config)
    try:
        collect(server)
        left = databases(admin_dsn, service_config.prefix)
        assert {one["database"] for one in out} <= set(left)
        assert any("_t_" in name for name in left)

        async def story() -> None:
            async with running(service_config) as service:
                before = {lease.address.database for lease in service.leases()}
                new = await lent(service)
                # also all that belongs to no living process
                await asyncio.to_thread(collect, server, everything=True)
                for lease in service.leases():
                    assert await names(lease)
                assert new.address.database not in before
                assert state(service).state in ("preparing", "ready")
                assert await names(await lent(service)) == ["one", "two"]

        asyncio.run(story())
    finally:
        server.close()
