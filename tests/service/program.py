"""A process with a service that tells each reply that its callers have had, and is killed at a given step."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clonedb.service.cloning import Service, Sizes
from clonedb.settings.config import Config
from tests.service.stories import ITEMS, filled, lent, ready, run_sql

MINE = "insert into item values (100, 'mine')"


def tell(**what: Any) -> None:
    """A reply has reached its caller."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def die() -> None:
    """kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(place: str, when: str, number: int) -> None:
    """Die before or after a call, the how manieth, of the function `module:name` or `module:Class.name`."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, name)
    left = [number]

    def due(moment: str) -> bool:
        if moment == when:
            left[0] -= 1
        return moment == when and left[0] == 0

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if due("before"):
            die()
        result = function(*arguments, **named)
        if due("after"):
            die()
        return result

    @functools.wraps(function)
    async def call_async(*arguments: Any, **named: Any) -> Any:
        if due("before"):
            die()
        result = await function(*arguments, **named)
        if due("after"):
            die()
        return result

    setattr(owner, name, call_async if inspect.iscoroutinefunction(function) else call)


async def story(config: Config) -> None:
    """Each kind of call, once or more."""
    service = Service(config, sizes=Sizes(2, 10), lease_timeout=30.0)
    await service.start()
    tell(said="started")
    await filled(service, "abc")
    tell(said="finalized")
    await ready(service, "abc", 2)
    kept = await lent(service)
    run_sql(kept.address, MINE)
    tell(said="lent", lease=kept.lease, id=kept.id, database=kept.address.database)
    other = await lent(service)
    run_sql(other.address, MINE)
    tell(said="lent", lease=other.lease, id=other.id, database=other.address.database)
    # from here on its caller does not use it any more
    tell(said="returns", lease=other.lease)
    await service.give_back("abc", other.id)
    again = await lent(service)
    tell(said="lent", lease=again.lease, id=again.id, database=again.address.database)
    await filled(service, "gone", *ITEMS)
    await ready(service, "gone", 1)
    await service.discard("gone")
    tell(said="discarded")


def main() -> None:
    """`program SETTINGS [PLACE WHEN NUMBER]`, all as JSON."""
    settings, *step = json.loads(sys.argv[1])
    if step:
        kill_at(*step)
    asyncio.run(story(Config(rootdir=Path.cwd()).replace("tests", **settings)))
    tell(said="stopped")


if __name__ == "__main__":
    main()
