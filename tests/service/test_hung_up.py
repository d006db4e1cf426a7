"""Clients that hang up while they wait for a database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket

import pytest

from clonedb.service.cloning import Service
from clonedb.service.contract import TemplateState
from clonedb.settings.config import Config
from tests.embedded.sandbox import wait_until
from tests.service.site import Site
from tests.service.stories import WAIT, filled, lent, names, ready, state, until

PLACES = 3
CLIENTS = 150
GET = b"GET /templates/abc/tests HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = json.dumps({"hash": "abc"}).encode()
POST = b"POST /v1/leases HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


async def looked(service: Service) -> TemplateState:
    """What the list says of the template, in the service's loop."""
    return state(service)


@pytest.mark.parametrize("request_", [GET, POST], ids=["integresql", "v1"])
def test_a_client_that_hangs_up_gets_none(service_config: Config, request_: bytes) -> None:
    """Its place in the queue goes to the next one, long before a lease of its own would have ended."""
    with Site(service_config, maximum=1, lease_timeout=10 * WAIT) as site:
        site.run(filled(site.service))
        site.run(ready(site.service))
        first = site.run(lent(site.service))
        with socket.create_connection(("127.0.0.1", site.port)) as client:
            client.sendall(request_)
            wait_until(lambda: site.run(looked(site.service)).waiting == 1, WAIT)
        wait_until(lambda: site.run(looked(site.service)).waiting == 0, WAIT)
        site.run(site.service.release(first.lease))
        answer = site.ask("POST", "/v1/leases", {"hash": "abc", "wait": WAIT / 2})
        assert answer.status == 201
        assert answer.json["id"] == first.id
        metrics = site.ask("GET", "/metrics").body
        assert b'clonedb_gets_total{result="disconnected"} 1.0' in metrics


def test_what_was_lent_to_a_client_that_has_gone_comes_back(service_config: Config) -> None:
    """It hangs up in the moment in which the database that it waits for is handed to it."""
    with Site(service_config, maximum=1, lease_timeout=10 * WAIT) as site:
        site.run(filled(site.service))
        site.run(ready(site.service))
        first = site.run(lent(site.service))

        async def hang_up_at_the_return(client: socket.socket) -> None:
            """Both are there before the service looks at either."""
            client.close()
            await site.service.release(first.lease)

        client = socket.create_connection(("127.0.0.1", site.port))
        client.sendall(GET)
        wait_until(lambda: site.run(looked(site.service)).waiting == 1, WAIT)
        site.run(hang_up_at_the_return(client))
        answer = site.ask("POST", "/v1/leases", {"hash": "abc", "wait": WAIT / 2})
        assert answer.status == 201


@pytest.mark.campaign("long")
def test_no_place_is_lost(service_config: Config) -> None:
    """Many clients, most of which hang up at some moment: afterwards there is each place of the pool, and nobody waits."""
    chance = random.Random(15)

    async def call(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(chance.choice([GET, POST]))
        with contextlib.suppress(ConnectionError):
            if chance.random() < 0.8:
                await asyncio.sleep(chance.random() / 10)
            else:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.split()[1] in {b"200", b"201"}
        writer.close()

    async def crowd(port: int) -> None:
        await asyncio.gather(*(call(port) for _ in range(CLIENTS)))

    async def settled(service: Service) -> None:
        await until(
            lambda: state(service).waiting == state(service).leased == 0, "one is lent still"
        )
        # what is lent from now on does not end by its time, however slow the machine is
        service._backend.lease_timeout = 10 * WAIT
        # all at the same time: `lent` would not get the last one if one place were missing
        leases = await asyncio.gather(*(lent(service) for _ in range(PLACES)))
        assert len({one.address.database for one in leases}) == PLACES
        for one in leases:
            assert await names(one) == ["one", "two"]
        assert state(service).leased == PLACES
        for one in leases:
            await service.release(one.lease)

    # those to whom the reply was on its way have a lease, which ends by its time
    with Site(service_config, maximum=PLACES, lease_timeout=0.5) as site:
        site.run(filled(site.service))
        site.run(ready(site.service))
        asyncio.run(crowd(site.port))
        site.run(settled(site.service))
