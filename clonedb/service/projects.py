"""The templates of projects of this host, by their directories: the very ones that pytest uses there."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clonedb.api import Template, open_template
from clonedb.errors import ConfigError
from clonedb.service.apart import apart
from clonedb.service.backend import Backend, address_of
from clonedb.service.contract import Address, TemplateState, UnavailableError
from clonedb.service.events import in_a_line
from clonedb.service.pool import Pool
from clonedb.service.sessions import Sessions
from clonedb.service.worker import Worker
from clonedb.settings.load import load

__all__ = ["ProjectTemplate", "Projects"]

_FRESH = 1.0  # seconds for which a project's files are not looked at again


@dataclass(slots=True, eq=False)
class ProjectTemplate:
    """A project's template as the service has it open."""

    directory: str
    template: Template
    sessions: Sessions
    pool: Pool
    checked: float


class Projects:
    """All of them, by their names, and which of them is a directory's at the moment."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._by_name: dict[str, ProjectTemplate] = {}
        self._current: dict[str, ProjectTemplate] = {}
        self._opening: dict[str, asyncio.Task[ProjectTemplate]] = {}
        self._given_up = 0  # how often all of them were
        self._stopping = asyncio.Event()

    def __iter__(self) -> Iterator[ProjectTemplate]:
        return iter([*self._by_name.values()])

    async def get(self, directory: str, deadline: float) -> ProjectTemplate:
        """The template of a project, built if it is not there; `deadline` is the loop's time.

        Raises the errors of a build, and UnavailableError when it takes longer, while the build
        goes on.
        """
        loop = asyncio.get_running_loop()
        directory = os.path.realpath(directory)  # noqa: ASYNC240 - it asks for nothing but names
        found = self._current.get(directory)
        if found is not None and loop.time() - found.checked < _FRESH:
            return found

        if directory not in self._opening:
            task = self._backend.background(self._open(directory))
            self._opening[directory] = task
            task.add_done_callback(lambda _: self._opening.pop(directory, None))
        task = self._opening[directory]
        stopping = loop.create_task(self._stopping.wait())
        try:
            await asyncio.wait(
                [task, stopping],
                timeout=max(0.0, deadline - loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            stopping.cancel()
        if not task.done():
            if self._stopping.is_set():
                raise UnavailableError("the service is stopping")
            raise UnavailableError(
                f"the template of {directory!r} is still being built; ask again"
            )
        return await task

    async def _open(self, directory: str) -> ProjectTemplate:
        backend, loop, given_up = self._backend, asyncio.get_running_loop(), self._given_up
        template, address = await apart(self._open_template, directory)
        if given_up != self._given_up:  # the server was started again, or the service stops
            await loop.run_in_executor(None, template.close)
            if self._stopping.is_set():
                raise UnavailableError("the service is stopping")
            return await self._open(directory)

        earlier = self._by_name.get(template.name)
        if earlier is not None and earlier.template.server is template.server:
            found = earlier
        else:
            found = self._add(directory, template, address)
            if earlier is not None:
                self._take_out(earlier)
                backend.background(self._close(earlier))
        found.checked = loop.time()
        self._current[directory] = found
        backend.events.changed()
        if found.template is not template:
            await loop.run_in_executor(None, template.close)
        return found

    def _open_template(self, directory: str) -> tuple[Template, Address]:
        import psycopg

        _require_own(directory)
        template = open_template(load(Path(directory)), servers=self._backend.servers)
        try:
            address = address_of(template.server)
            self._require_same_server(template, address)
        except BaseException as error:
            template.close()
            if isinstance(error, psycopg.Error):
                raise UnavailableError(in_a_line(error)) from error
            raise
        return template, address

    def _add(self, directory: str, template: Template, address: Address) -> ProjectTemplate:
        backend, sessions, name = self._backend, Sessions(template.server), template.name

        def lost(why: str) -> None:
            backend.background(self._forget(pool, why))

        pool = backend.new_pool(name, lost)
        pool.state = "ready"
        # as the service's own callers: the server is the same
        pool.open(
            Worker(template.server, template.record, sessions), backend.address or address
        )
        found = ProjectTemplate(directory, template, sessions, pool, 0.0)
        self._by_name[name] = found
        backend.events.add("built" if template.record.built else "adopted", name, directory)
        return found

    def _require_same_server(self, template: Template, address: Address) -> None:
        """The service finds its databases again on its own server, and by its own prefix."""
        ours, backend = self._backend.address, self._backend
        theirs, prefix = template.server.config.prefix, backend.config.prefix
        if ours is None or (address.host, address.port) != (ours.host, ours.port):
            raise UnavailableError(
                f"template {template.name!r} is on {template.server.about}, and the service works on"
                f" {backend.server.about}: start it in the project's directory, or with the same url (CLONEDB_URL)"
            )

        if theirs != prefix:
            raise UnavailableError(
                f"template {template.name!r} has prefix {theirs!r}, and the service {prefix!r}: start it in the"
                " project's directory, or with the same prefix (CLONEDB_PREFIX)"
            )

    async def _forget(self, pool: Pool, why: str) -> None:
        """It is opened again, and built again, when it is asked for."""
        found = self._by_name.get(pool.name)
        if found is None or found.pool is not pool:
            return
        del self._by_name[pool.name]
        self._take_out(found)
        self._backend.events.add("discarded", pool.name, why)
        pool.discard()
        await self._close(found)

    def _take_out(self, found: ProjectTemplate) -> None:
        for directory in [key for key, value in self._current.items() if value is found]:
            del self._current[directory]

    async def _close(self, found: ProjectTemplate) -> None:
        await found.pool.close()
        found.sessions.close()
        await asyncio.get_running_loop().run_in_executor(None, found.template.close)

    async def close_retired(self) -> None:
        """Give up those of files that were edited since, none of whose databases is lent any more."""
        current = [*self._current.values()]
        for found in [*self._by_name.values()]:
            if found not in current:
                found.pool.yields = True
                found.pool.release_spares()
                if found.pool.is_idle:
                    del self._by_name[found.template.name]
                    await self._close(found)

    async def close(self) -> None:
        """Give them up for good. A build that goes on is ended with the process, and what it leaves is collected."""
        self._stopping.set()
        await self.give_up()

    async def give_up(self) -> None:
        """Close them; what is lent stays. They are opened again on need, those that are just being opened too."""
        self._given_up += 1
        found = [*self._by_name.values()]
        self._by_name.clear()
        self._current.clear()
        await asyncio.gather(*(self._close(one) for one in found))

    def states(self) -> Iterator[TemplateState]:
        """What there is to say of each."""
        for found in self:
            metadata, pool = found.template.record.metadata, found.pool
            yield TemplateState(
                hash=found.template.name,
                state=pool.state,
                project=found.directory,
                heads=metadata.heads,
                bytes=metadata.size,
                built_by=metadata.by,
                built=_time(metadata.made),
                used=pool.used,
                ready=pool.ready,
                leased=pool.leased,
                waiting=pool.waiting,
            )


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _require_own(directory: str) -> None:
    """Raises ConfigError for a directory of another account's: its migrations would run as this one's.

    Every account of the machine can ask a service on loopback for a project.
    """
    try:
        found = Path(directory).stat()
    except OSError as error:
        raise ConfigError(f"project {directory!r} cannot be read: {error.strerror}") from error

    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o002:
        raise ConfigError(
            f"project {directory!r} belongs to another account, or every account may write there: its migrations would"
            " run as the account of the service; start `clonedb serve` as the account that the project belongs to"
        )
