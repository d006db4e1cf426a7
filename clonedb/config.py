"""What clonedb was told: one frozen Config, in which every value remembers where it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clonedb.keys import KEYS, check, shown

__all__ = ["Config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything a project can choose, passed whole from the first step to the last.

    `rootdir` is the project's directory: relative paths start there. `sources` names, for each key that was set, the
    place it was set at; a key that is not in it has its default.
    """

    rootdir: Path
    url: str | None = KEYS["url"].default
    maintenance_database: str = KEYS["maintenance_database"].default
    connect_timeout: float = KEYS["connect_timeout"].default
    postgres_bin: str | None = KEYS["postgres_bin"].default
    state_dir: str | None = KEYS["state_dir"].default
    data: str = KEYS["data"].default
    idle_timeout: float = KEYS["idle_timeout"].default
    prefix: str = KEYS["prefix"].default
    alembic_ini: str | None = KEYS["alembic_ini"].default
    alembic_section: str = KEYS["alembic_section"].default
    alembic: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    x: tuple[str, ...] = KEYS["x"].default
    target: str = KEYS["target"].default
    seed: tuple[str, ...] = KEYS["seed"].default
    extensions: tuple[str, ...] = KEYS["extensions"].default
    roles: tuple[str, ...] = KEYS["roles"].default
    watch: tuple[str, ...] = KEYS["watch"].default
    salt: str = KEYS["salt"].default
    driver: str | None = KEYS["driver"].default
    route: tuple[str, ...] = KEYS["route"].default
    isolation: str = KEYS["isolation"].default
    strategy: str = KEYS["strategy"].default
    lock_timeout: float = KEYS["lock_timeout"].default
    keep: str = KEYS["keep"].default
    keep_count: int = KEYS["keep_count"].default
    keep_templates: int = KEYS["keep_templates"].default
    rebuild: bool = KEYS["rebuild"].default
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def __repr__(self) -> str:
        """The values that were set, without any password."""
        values = ", ".join(f"{name}={self.shown(name)}" for name in KEYS if name in self.sources)
        return f"Config(rootdir={str(self.rootdir)!r}{', ' if values else ''}{values})"

    def source(self, name: str) -> str:
        """Where the value of a key came from: a file and table, a variable, an option, or 'default'."""
        return self.sources.get(name, "default")

    def shown(self, name: str) -> str:
        """The value of a key as text that may be shown to anybody: a URL without its password."""
        return shown(getattr(self, name))

    def replace(self, source: str, /, **values: Any) -> Config:
        """A copy with some keys set, after checking them.

        `source` is what `clonedb config` shows as their place of origin.

        Raises ConfigError for an unknown key (with the nearest right one), a wrong type, or a value out of range.
        """
        checked = {name: check(name, value, source) for name, value in values.items()}
        sources = MappingProxyType({**self.sources, **dict.fromkeys(checked, source)})
        return dataclasses.replace(self, **checked, sources=sources)

    def path(self, value: str) -> Path:
        """A path from the configuration: `~` expanded, relative ones from the project's directory."""
        return self.rootdir / Path(value).expanduser()
