"""A fresh, fully migrated PostgreSQL database for every test: migrate once, clone in milliseconds."""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clonedb.api import Template, template
    from clonedb.clones.clone import Clone
    from clonedb.clones.database import Database
    from clonedb.errors import (
        BoundsError,
        BuildError,
        CloneDBError,
        ConfigError,
        EndedTestError,
        LeaseLostError,
        LockTimeoutError,
        MigrationError,
        MissingExtensionError,
        NoMigrationsError,
        NotOursError,
        PermissionDeniedError,
        RewindError,
        RoutingError,
        SeedError,
        ServerDownError,
        ServerError,
        ServerNotFoundError,
        TemplateInUseError,
        VerificationError,
    )
    from clonedb.pytest_plugin.scopes import fixture
    from clonedb.sessions.leaks import (
        LeakedConnectionWarning,
        ReadonlyWarning,
        ServerChangedWarning,
    )
    from clonedb.settings.config import Config
    from clonedb.settings.typed import Settings, TemplateSettings

    __version__: str

__all__ = [
    "BoundsError",
    "BuildError",
    "Clone",
    "CloneDBError",
    "Config",
    "ConfigError",
    "Database",
    "EndedTestError",
    "LeakedConnectionWarning",
    "LeaseLostError",
    "LockTimeoutError",
    "MigrationError",
    "MissingExtensionError",
    "NoMigrationsError",
    "NotOursError",
    "PermissionDeniedError",
    "ReadonlyWarning",
    "RewindError",
    "RoutingError",
    "SeedError",
    "ServerChangedWarning",
    "ServerDownError",
    "ServerError",
    "ServerNotFoundError",
    "Settings",
    "Template",
    "TemplateInUseError",
    "TemplateSettings",
    "VerificationError",
    "fixture",
    "template",
]

_HOMES = MappingProxyType(
    {
        "Clone": "clones.clone",
        "Config": "settings.config",
        "Database": "clones.database",
        "LeakedConnectionWarning": "sessions.leaks",
        "Settings": "settings.typed",
        "Template": "api",
        "TemplateSettings": "settings.typed",
        "ReadonlyWarning": "sessions.leaks",
        "ServerChangedWarning": "sessions.leaks",
        "fixture": "pytest_plugin.scopes",
        "template": "api",
    }
)


if not TYPE_CHECKING:  # a type checker that sees it takes every wrong name for a right one

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used: every pytest run imports this package (PEP 562)."""
        if name == "__version__":
            from importlib.metadata import version

            return version("clonedb")
        if name in __all__:
            return getattr(
                importlib.import_module(f"clonedb.{_HOMES.get(name, 'errors')}"), name
            )
        raise AttributeError(f"module 'clonedb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
