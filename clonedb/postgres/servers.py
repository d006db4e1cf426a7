"""The servers that this process has open: each of them once, however many templates are on it; one of several."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from clonedb.errors import ServerDownError, ServerError
from clonedb.postgres.access import embedded_access, external_access
from clonedb.postgres.connector import Connector
from clonedb.postgres.server import Server
from clonedb.settings.config import Config

if TYPE_CHECKING:
    from clonedb.embedded.binaries import Binaries

__all__ = ["Servers", "each_server", "open_server"]


class Servers:
    """Opens a server when it is first asked for, and shares it until the last of those who asked has closed it.

    Two configurations mean one server if all of their settings are the same that do not make a
    template. Of several servers the process uses one, by its number among the `workers` of the
    run: `worker`, from 0.
    """

    def __init__(self, worker: int = 0, workers: int = 1) -> None:
        self._worker = worker
        self._workers = workers
        self._opened: list[Server] = []
        self._numbers: dict[tuple[str, ...], int] = {}

    def placed(self, config: Config, warn: Callable[[str], None]) -> Config:
        """The configuration of the one server that this process uses, where there are several.

        A server of `url` that does not answer is left out, and `warn` is told: its workers are
        spread over the others, each by its number. Raises ServerDownError when that is the
        first such server and `frozen` is set, ServerError when none is left.
        """
        count = config.server_count(self._workers)
        if count == 1 or config.number is not None:
            return config
        if config.url is None:
            return config.on_server(self._worker % count)
        if config.urls not in self._numbers:
            self._numbers[config.urls] = self._answering(config, warn)
        return config.on_server(self._numbers[config.urls])

    def others(self, config: Config) -> list[Config]:
        """The configurations of the other servers, if that of `config` is one of several."""
        if config.number is None:
            return []
        numbers = range(config.server_count(self._workers))
        return [config.on_server(number) for number in numbers if number != config.number]

    def _answering(self, config: Config, warn: Callable[[str], None]) -> int:
        """The number of the server of `url` that is this worker's."""
        left, worker = list(range(len(config.urls))), self._worker
        errors = list[str]()
        while left:
            number = left[worker % len(left)]
            try:
                _require_answer(config.on_server(number), warn)
            except ServerDownError as error:
                if config.frozen:
                    raise ServerDownError(
                        f"{error}; none of several servers is left out, because frozen is set"
                        f" ({config.source('frozen')})"
                    ) from None
                errors.append(str(error))
            else:
                return number
            # the workers of this server go to the others in turn
            worker //= len(left)
            left.remove(number)
            if left:
                warn(f"a server is left out, and its workers use the others: {errors[-1]}")

        raise ServerError(
            f"none of the servers of url answers ({config.shown('url')} from {config.source('url')}):"
            + "".join(f"\n  {error}" for error in errors)
        )

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


def _require_answer(config: Config, say: Callable[[str], None]) -> None:
    """Raises ServerDownError unless the server of the url accepts connections."""
    access = external_access(config)
    connector = Connector(access.own, config, access.about, say, ending=None)
    connector.connect(config.maintenance_database).close()


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


def each_server(config: Config) -> list[Config]:
    """The configuration of each server that a run's workers may use.

    With `servers = "auto"` these are the ones that there have been.
    """
    count = config.server_count()
    if config.url is None and config.servers == "auto":
        from clonedb.embedded.places import ServerDirectory

        count = max([1, *(place.number for place in ServerDirectory.all(config))])
    return [config] if count == 1 else [config.on_server(number) for number in range(count)]
