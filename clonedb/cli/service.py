"""`clonedb serve`: databases over HTTP."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from clonedb.cli.configuration import Context
from clonedb.errors import ConfigError
from clonedb.url import DatabaseURL

if TYPE_CHECKING:
    from clonedb.service.pool import Sizes
    from clonedb.service.serve import LogFormat

__all__ = ["COMMANDS"]

_NEEDED = ("httptools", "jinja2", "prometheus_client", "starlette", "uvicorn", "uvloop")


@click.command()
@click.option(
    "--host",
    envvar="INTEGRESQL_ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on.",
)
@click.option(
    "--port",
    envvar="INTEGRESQL_PORT",
    default=5000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0: a free one.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the token that clients have to show. Any address but loopback needs one.",
)
@click.option(
    "--log-format",
    type=click.Choice(["lines", "json"]),
    default="lines",
    show_default=True,
    help="Of the log, on stderr.",
)
@click.pass_obj
def serve(
    context: Context, *, host: str, port: int, token_file: Path | None, log_format: str
) -> None:
    """Hand out databases over HTTP: IntegreSQL's protocol, and more.

    On the project's configured server or the embedded one; no project is needed. The variables
    of IntegreSQL are understood: INTEGRESQL_ADDRESS, INTEGRESQL_PORT, INTEGRESQL_PGHOST (PGPORT,
    PGUSER, PGPASSWORD), INTEGRESQL_TEST_INITIAL_POOL_SIZE, INTEGRESQL_TEST_MAX_POOL_SIZE.
    """
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"clonedb serve needs {', '.join(missing)}: install clonedb[service] (pip install 'clonedb[service]')"
        )
    from clonedb.service.serve import read_token, serve as run

    url = _url()
    config = context.config(**({"url": url} if url and not context.options.get("url") else {}))
    token = read_token(token_file) if token_file is not None else None
    run(
        config,
        host="" if host == "*" else host,
        port=port,
        token=token,
        sizes=_sizes(config.max_clones),
        log_format=cast("LogFormat", log_format),
    )


def _url() -> str | None:
    """The server that IntegreSQL's variables name."""
    host = os.environ.get("INTEGRESQL_PGHOST")
    if not host:
        return None

    parts: dict[str, Any] = {
        "user": os.environ.get("INTEGRESQL_PGUSER"),
        "password": os.environ.get("INTEGRESQL_PGPASSWORD"),
    }
    port = _number("INTEGRESQL_PGPORT", 5432)
    return (
        DatabaseURL.parse("postgresql:///postgres")
        .replace(host=host, port=port, **parts)
        .render()
    )


def _sizes(most: int) -> Sizes:
    from clonedb.service.pool import Sizes

    default = Sizes.default(most)
    maximum = _number("INTEGRESQL_TEST_MAX_POOL_SIZE", default.maximum)
    initial = _number("INTEGRESQL_TEST_INITIAL_POOL_SIZE", min(default.initial, maximum))
    if not 0 <= initial <= maximum or maximum < 1:
        raise ConfigError(
            f"INTEGRESQL_TEST_INITIAL_POOL_SIZE is {initial} and INTEGRESQL_TEST_MAX_POOL_SIZE {maximum}:"
            " the first goes up to the second, which is 1 at least"
        )
    return Sizes(initial, maximum)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    if not value:
        return default
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"{name} is {value!r}, which is no whole number") from None


COMMANDS = (serve,)
