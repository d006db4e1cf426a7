"""What a worker of pytest-xdist that has neither the controller's files nor its environment is told by it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from clonedb.errors import ConfigError

if TYPE_CHECKING:
    from clonedb.settings.config import Config

__all__ = ["KEY", "OF_HOST", "TOLD", "as_told", "network", "notice_cut", "take"]

KEY = "clonedb"
"""Where it is in xdist's `workerinput`."""
TOLD = pytest.StashKey[dict[str, Any]]()
OF_HOST = ("state_dir", "postgres_bin")
"""The settings that each host has for itself."""


def take(config: pytest.Config) -> None:
    """On a worker: take what it was told out of the sight of other plugins, as there may be a password in it."""
    told = getattr(config, "workerinput", {}).pop(KEY, None)
    if told is None:
        return
    config.stash[TOLD] = told
    for plugin in config.pluginmanager.get_plugins():
        if (gateway := getattr(getattr(plugin, "channel", None), "gateway", None)) is not None:
            notice_cut(gateway, told)
    for name, value in told.get("variables", {}).items():
        _set_until_end(config, name, value)


def _set_until_end(config: pytest.Config, name: str, value: str | None) -> None:
    before = os.environ.get(name)
    _set(name, value)
    config.add_cleanup(lambda: _set(name, before))


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def notice_cut(gateway: Any, told: Mapping[str, Any]) -> None:
    """Have a process find out that the network to the other one is cut: execnet would wait for it without a limit."""
    from clonedb.postgres.keepalives import keep_socket_alive

    connection = getattr(getattr(gateway, "_io", None), "sock", None)
    if isinstance(connection, socket.socket) and "lease_timeout" in told:
        keep_socket_alive(connection, told["lease_timeout"])


def network() -> str:
    """A name for where a loopback address means the same."""
    from clonedb.embedded.machine import boot_id

    try:
        namespace = os.readlink("/proc/self/ns/net")  # noqa: PTH115 - a name, no path
    except OSError:
        namespace = ""
    return f"{boot_id() or socket.gethostname()} {namespace}"


def as_told(found: Config, pytest_config: pytest.Config) -> Config:
    """The configuration of a worker: what the controller has, but for what each host has for itself.

    Raises ConfigError for what the controller could not read, and for a URL that means another
    server on this host.
    """
    told = pytest_config.stash.get(TOLD, None)
    if told is None or not hasattr(pytest_config, "workerinput"):
        return found
    if "error" in told:
        raise ConfigError(f"on host {told['host']}, which began this run: {told['error']}")

    config = type(found)(rootdir=found.rootdir)
    for name in found.sources:
        if name in OF_HOST:
            config = config.replace(found.source(name), **{name: getattr(found, name)})
    for name, value in told["values"].items():
        config = config.replace(told["sources"][name], **{name: value})
    _require_reach(config, told)
    return config


def _require_reach(config: Config, told: Mapping[str, Any]) -> None:
    """Raises ConfigError for a URL of the controller's own host when this worker runs on another one."""
    from clonedb.url import DatabaseURL, redact_url

    if told["network"] == network():
        return
    for text in config.urls:
        url = DatabaseURL.parse(text, config.source("url"))
        if "service" in dict(url.query):
            continue
        hosts = (url.host or os.environ.get("PGHOST") or "").split(",")
        if any(map(_is_local, hosts)):
            raise ConfigError(
                f"{config.source('url')}: {redact_url(text)!r} is a server of host {told['host']} alone, as"
                f" {', '.join(map(repr, hosts)) if any(hosts) else 'a socket of that host'} says, and this worker runs"
                f" on {socket.gethostname()}: write a host name that both reach, and let the server listen there"
                " (listen_addresses, pg_hba.conf); without a url each host runs an embedded server of its own"
            )


def _is_local(host: str) -> bool:
    return (
        not host
        or host.startswith(("/", "@", "127."))
        or host in ("localhost", "::1", "localhost.localdomain")
    )
