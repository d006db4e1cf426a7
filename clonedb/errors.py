"""The errors clonedb raises, one tree for users to catch.

CloneDBError
 +-- ConfigError                a setting is unknown, of the wrong type, or out of range
 |    +-- NoMigrationsError     no Alembic configuration was found
 +-- ServerError                PostgreSQL could not be found, reached or used
 |    +-- ServerNotFoundError   no PostgreSQL binaries, and no URL
 |    +-- ServerDownError       the server of the URL does not answer
 |    +-- MissingExtensionError no server at hand has an extension that the migrations need
 |    +-- PermissionDeniedError the role may not do what clonedb needs
 +-- BuildError                 the template could not be built
 |    +-- MigrationError        a revision or env.py raised
 |    +-- VerificationError     migrating ended, but the database is not at the target
 |    +-- SeedError             a seed raised
 +-- LeaseLostError             the network was cut, or the process suspended, for longer than lease_timeout
 +-- LockTimeoutError           another process's build, or a wait for room, took longer than lock_timeout
 +-- TemplateInUseError         sessions on the template kept it from being cloned
 +-- NotOursError               a database was named that clonedb did not make
 +-- BoundsError                a test under `rollback` left its one transaction
 +-- RoutingError             an application's connection could not be sent to a clone
 +-- RewindError              a rewound clone differs from a new one (asked for by `verify`)
 +-- EndedTestError           what a test was handed was used after the test's end

A message says what happened, shows the value by its repr, and says what to do. No message holds
a password.
"""

from __future__ import annotations

__all__ = [
    "BoundsError",
    "BuildError",
    "CloneDBError",
    "ConfigError",
    "EndedTestError",
    "LeaseLostError",
    "LockTimeoutError",
    "MigrationError",
    "MissingExtensionError",
    "NoMigrationsError",
    "NotOursError",
    "PermissionDeniedError",
    "RewindError",
    "RoutingError",
    "SeedError",
    "ServerDownError",
    "ServerError",
    "ServerNotFoundError",
    "TemplateInUseError",
    "VerificationError",
]


class CloneDBError(Exception):
    """The base of every error that clonedb raises on purpose."""


class ConfigError(CloneDBError):
    """A setting is unknown, of the wrong type, or out of range."""


class NoMigrationsError(ConfigError):
    """No Alembic configuration was found where clonedb looks for one."""


class ServerError(CloneDBError):
    """PostgreSQL could not be found, reached or used."""


class ServerNotFoundError(ServerError):
    """There is no URL of a server and there are no PostgreSQL binaries to run one."""


class ServerDownError(ServerError):
    """The server of the URL does not answer, or accepts no connections."""


class MissingExtensionError(ServerError):
    """No server at hand has an extension that the migrations need (SQLSTATE 0A000)."""


class PermissionDeniedError(ServerError):
    """The role may not do what clonedb needs (SQLSTATE 42501)."""


class BuildError(CloneDBError):
    """The template could not be built; nothing of it is left on the server."""


class MigrationError(BuildError):
    """A revision or env.py raised while the template was being migrated."""


class VerificationError(BuildError):
    """Migrating ended without an error, but the database is not at the target."""


class SeedError(BuildError):
    """A seed raised while the template was being filled."""


class LeaseLostError(CloneDBError):
    """The server gave away what this process had locked, as it did not hear of it for longer than lease_timeout."""


class LockTimeoutError(CloneDBError):
    """Another process kept building the same template, or max_clones lived on, for longer than lock_timeout."""


class TemplateInUseError(CloneDBError):
    """Sessions on the template kept it from being cloned (SQLSTATE 55006)."""


class NotOursError(CloneDBError):
    """A database was named that clonedb did not make, so it is left alone."""


class BoundsError(CloneDBError):
    """A test under isolation `rollback` wanted a second connection, or ended the transaction that holds it."""


class RewindError(CloneDBError):
    """A clone that was rewound differs from a new one."""


class RoutingError(CloneDBError):
    """A connection to the application's database was refused, because there is no clone to send it to."""


class EndedTestError(CloneDBError):
    """A test has ended, and a URL, engine, session or connection that it was handed was used after that."""
