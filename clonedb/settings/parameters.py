"""PostgreSQL's own parameters for the embedded server: which a project may set, and how each is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from clonedb.errors import ConfigError

__all__ = ["check_parameters"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)?")

# where the server is, who may enter, and how clonedb learns what became of it
_OWN = frozenset(
    {
        "archive_cleanup_command",
        "archive_command",
        "authentication_timeout",
        "cluster_name",
        "config_file",
        "data_directory",
        "dynamic_shared_memory_type",
        "external_pid_file",
        "hba_file",
        "ident_file",
        "listen_addresses",
        "log_destination",
        "log_directory",
        "log_filename",
        "logging_collector",
        "password_encryption",
        "port",
        "recovery_end_command",
        "restore_command",
        "scram_iterations",
        "ssl_passphrase_command",
        "unix_socket_directories",
        "unix_socket_group",
        "unix_socket_permissions",
    }
)


def check_parameters(value: Mapping[Any, Any], source: str) -> Mapping[str, str]:
    """The parameters as `postgres -c NAME=VALUE` takes them: true is `on`, a list is joined by commas.

    Raises ConfigError for a name that PostgreSQL could not have, and for what clonedb sets
    itself. Whether there is a parameter of that name, and what it takes, PostgreSQL says when
    it starts.
    """
    checked: dict[str, str] = {}
    for name, item in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"{source}: server.{name} is not a name of a PostgreSQL parameter"
            )

        # PostgreSQL takes a name in any case
        if name.lower() in _OWN:
            raise ConfigError(f"{source}: server.{name} is clonedb's own to set; take it away")
        if isinstance(
            item, Mapping
        ):  # TOML reads an unquoted auto_explain.log_min_duration as a table in a table
            nested = {f"{name}.{key}": part for key, part in item.items()}
            checked.update(check_parameters(nested, source))
            continue

        checked[name.lower()] = _written(item, f"{source}: server.{name}")

    return MappingProxyType(checked)


def _written(item: Any, what: str) -> str:
    if isinstance(item, bool):
        return "on" if item else "off"
    if isinstance(item, (list, tuple)) and all(isinstance(part, str) for part in item):
        return ", ".join(item)
    # they go as arguments to postgres, which end at a NUL
    if not isinstance(item, (str, int, float)) or "\0" in str(item):
        raise ConfigError(
            f"{what} is {item!r}; a parameter takes a string, a number, true, false, or a list of strings"
        )
    return str(item)
