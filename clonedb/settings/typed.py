"""The settings as types: a type checker finds a misspelt keyword before the program runs.

The table in `clonedb.settings.keys` decides what a setting takes; a test compares these types
with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, TypedDict

__all__ = ["Isolation", "Settings", "Strings", "TemplateSettings"]

Isolation: TypeAlias = Literal[
    "auto", "clone", "rollback", "truncate", "migrate", "worker", "readonly"
]

# not Sequence[str]: a text is one, and the settings refuse a text where they take a list
Strings: TypeAlias = list[str] | tuple[str, ...]


class TemplateSettings(TypedDict, total=False):
    """What a named template may say of its own: the values of `templates`."""

    alembic_ini: str | None
    alembic_section: str
    alembic: Mapping[str, object]
    x: Strings
    prepare: str | None
    target: str
    metadata: str | Strings
    schema: Strings
    migrate: str | Strings
    seed: Strings
    extensions: Strings
    roles: Strings
    locale: str | None
    watch: Strings
    watch_env: Strings
    salt: str
    base: str | None


class Settings(TemplateSettings, total=False):
    """The keys of `[tool.clonedb]`, as `clonedb.template()` and `Config.replace()` take them."""

    url: str | Strings | None
    servers: int | Literal["auto"]
    maintenance_database: str
    connect_timeout: float
    postgres_bin: str | None
    state_dir: str | None
    data: Literal["auto", "memory", "disk"]
    server: Mapping[str, object]
    idle_timeout: float
    prefix: str
    template: str
    templates: Mapping[str, TemplateSettings]
    driver: str | None
    role: str | None
    role_password: str | None
    route: Strings | Mapping[str, str]
    autouse: bool
    isolation: Isolation
    strategy: Literal["auto", "file_copy", "wal_log"]
    lock_timeout: float
    lease_timeout: float
    migrate_timeout: float
    keep: Literal["failed", "all", "none"]
    keep_count: int
    keep_templates: int
    keep_days: float
    keep_bytes: int | str
    max_clones: int
    rebuild: bool
    frozen: bool
    echo: bool
    report: bool
    verify: bool
    off: bool
