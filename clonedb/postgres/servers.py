"""The servers that this process has open: each of them once, however many templates are on it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from clonedb.errors import ServerError
from clonedb.postgres.access import embedded_access, external_access
from clonedb.postgres.server import Server
from clonedb.settings.config import Config

if TYPE_CHECKING:
    from clonedb.embedded.binaries import Binaries

__all__ = ["Servers", "open_server"]


class Servers:
    """Opens a server when it is first asked for, and shares it until the last of those who asked has closed it.

    Two configurations mean one server if all of their settings are the same that do not make a
    template.
    """

    def __init__(self) -> None:
        self._opened: list[Server] = []

    def open(
        self,
        config: Config,
        extensions: Collection[str] = (),
        *,
        progress: Callable[[str], None] | None = None,
    ) -> Server:
        """The server that a configuration means; each caller calls `close()` once.

        That is the one of `url`, else the embedded one: of several installed PostgreSQLs the
        first that has all of `extensions` is run. `progress` is told of waiting by a server
        that is opened now. Raises ServerError.
        """
        from clonedb.embedded import binaries

        config = config.of_server()
        chosen = None if config.url is not None else binaries.choose(config, extensions)
        # closed by all who had it
        self._opened = [server for server in self._opened if server.is_open]
        for server in self._opened:
            if server.config == config and server.binaries == chosen and _answers(server):
                server.require_extensions(extensions)
                return server.share()

        server = (
            _external(config, extensions, progress)
            if chosen is None
            else _embedded(config, chosen, progress)
        )
        self._opened.append(server)
        return server


def _answers(server: Server) -> bool:
    """Whether a server that was opened earlier is still there; another one is opened in place of one that is not."""
    import psycopg

    try:
        server.rows("select")
    except (psycopg.Error, ServerError):
        return False
    return True


def _external(
    config: Config, extensions: Collection[str], progress: Callable[[str], None] | None
) -> Server:
    server = Server(config, external_access(config), say=progress)
    try:
        server.require_extensions(extensions)
    except BaseException:
        server.close()
        raise
    return server


def _embedded(
    config: Config, binaries: Binaries, progress: Callable[[str], None] | None
) -> Server:
    from clonedb.embedded import leases

    lease = leases.lease(config, binaries, progress=progress)
    try:
        return Server(config, embedded_access(config, lease), lease, binaries, progress)
    except BaseException:
        lease.close()
        raise


def open_server(
    config: Config,
    extensions: Collection[str] = (),
    *,
    progress: Callable[[str], None] | None = None,
) -> Server:
    """A server that is not shared; otherwise as `Servers.open`."""
    return Servers().open(config, extensions, progress=progress)
