"""What clonedb was told: one frozen Config, in which every value remembers where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from clonedb.errors import ConfigError
from clonedb.settings.checks import check
from clonedb.settings.key import nearest, shown
from clonedb.settings.keys import KEYS, MAKERS, TEMPLATE_KEYS

if TYPE_CHECKING:
    from clonedb.settings.typed import Settings

__all__ = ["Config"]

_EMPTY: Mapping[str, Any] = MappingProxyType({})


class Config(NamedTuple):
    """Everything a project can choose, passed whole from the first step to the last.

    `rootdir` is the project's directory: relative paths start there. `sources` names, for each
    key that was set, the place it was set at; a key that is not in it has its default.
    `project_wide` is what a named template's was made of, None for the project's own. Where
    `url` lists several servers they are `urls`, and `url` is one of them: the first, or the one
    that `on_server` chose. `number` is the number of the chosen one, from 0.
    """

    rootdir: Path
    url: str | None = KEYS["url"].default
    servers: int | str = KEYS["servers"].default
    maintenance_database: str = KEYS["maintenance_database"].default
    connect_timeout: float = KEYS["connect_timeout"].default
    postgres_bin: str | None = KEYS["postgres_bin"].default
    state_dir: str | None = KEYS["state_dir"].default
    data: str = KEYS["data"].default
    server: Mapping[str, str] = _EMPTY
    idle_timeout: float = KEYS["idle_timeout"].default
    prefix: str = KEYS["prefix"].default
    alembic_ini: str | None = KEYS["alembic_ini"].default
    alembic_section: str = KEYS["alembic_section"].default
    alembic: Mapping[str, str | tuple[str, ...]] = _EMPTY
    x: tuple[str, ...] = KEYS["x"].default
    prepare: str | None = KEYS["prepare"].default
    target: str = KEYS["target"].default
    metadata: tuple[str, ...] = KEYS["metadata"].default
    schema: tuple[str, ...] = KEYS["schema"].default
    migrate: tuple[str, ...] = KEYS["migrate"].default
    seed: tuple[str, ...] = KEYS["seed"].default
    extensions: tuple[str, ...] = KEYS["extensions"].default
    roles: tuple[str, ...] = KEYS["roles"].default
    locale: str | None = KEYS["locale"].default
    watch: tuple[str, ...] = KEYS["watch"].default
    watch_env: tuple[str, ...] = KEYS["watch_env"].default
    salt: str = KEYS["salt"].default
    base: str | None = KEYS["base"].default
    template: str = KEYS["template"].default
    templates: Mapping[str, Mapping[str, Any]] = _EMPTY
    driver: str | None = KEYS["driver"].default
    role: str | None = KEYS["role"].default
    role_password: str | None = KEYS["role_password"].default
    route: tuple[str, ...] | Mapping[str, str] = KEYS["route"].default
    autouse: bool = KEYS["autouse"].default
    isolation: str = KEYS["isolation"].default
    strategy: str = KEYS["strategy"].default
    lock_timeout: float = KEYS["lock_timeout"].default
    lease_timeout: float = KEYS["lease_timeout"].default
    migrate_timeout: float = KEYS["migrate_timeout"].default
    keep: str = KEYS["keep"].default
    keep_count: int = KEYS["keep_count"].default
    keep_templates: int = KEYS["keep_templates"].default
    keep_days: float = KEYS["keep_days"].default
    keep_bytes: int = KEYS["keep_bytes"].default
    max_clones: int = KEYS["max_clones"].default
    rebuild: bool = KEYS["rebuild"].default
    frozen: bool = KEYS["frozen"].default
    echo: bool = KEYS["echo"].default
    report: bool = KEYS["report"].default
    verify: bool = KEYS["verify"].default
    off: bool = KEYS["off"].default
    sources: Mapping[str, str] = _EMPTY
    project_wide: Config | None = None
    urls: tuple[str, ...] = ()
    number: int | None = None

    def __repr__(self) -> str:
        """The values that were set, without any password."""
        values = ", ".join(
            f"{name}={self.shown(name)}" for name in KEYS if name in self.sources
        )
        return f"Config(rootdir={str(self.rootdir)!r}{', ' if values else ''}{values})"

    def source(self, name: str) -> str:
        """Where the value of a key came from: a file and table, a variable, an option, or 'default'."""
        return self.sources.get(name, "default")

    def shown(self, name: str) -> str:
        """The value of a key as text that may be printed: a URL without its password."""
        value = getattr(self, name)
        if name == "url" and len(self.urls) > 1 and self.number is None:
            value = self.urls
        return repr("***") if KEYS[name].secret and value else shown(value)

    def replace(self, source: str, /, **values: Unpack[Settings]) -> Config:
        """A copy with some keys set, after checking them.

        `source` is what `clonedb config` shows as their place of origin.

        Raises ConfigError for an unknown key (with the nearest right one), a wrong type, or a
        value out of range.
        """
        checked = {name: check(name, value, source) for name, value in values.items()}
        sources = MappingProxyType({**self.sources, **dict.fromkeys(checked, source)})
        if "url" in checked:
            urls = checked["url"] or ()
            checked |= {"url": urls[0] if urls else None, "urls": urls, "number": None}
        return self._replace(**checked, sources=sources)

    def server_count(self, workers: int = 1) -> int:
        """How many servers the workers of a run share: those of `url`, else `servers` embedded ones."""
        if self.url is not None:
            return max(1, len(self.urls))
        # auto: one for each 8 workers
        return self.servers if isinstance(self.servers, int) else max(1, -(-workers // 8))

    def on_server(self, number: int) -> Config:
        """The configuration of one of several servers, counted from 0."""
        whole = None if self.project_wide is None else self.project_wide.on_server(number)
        url = self.urls[number] if self.urls else self.url
        return self._replace(url=url, number=number, project_wide=whole)

    def of_template(self, name: str, source: str) -> Config:
        """The configuration of a named template: what its table says, and else the project's.

        The seeds of the project belong to its own template: one with a `base` begins with what
        that holds. What the project's template is built upon is not built upon itself: it has
        no base but its own. Raises ConfigError when there is no such template (with the nearest
        name), or its bases lead round in a circle.
        """
        whole = self.project_wide or self
        if name == "default":  # `template` may name another for the whole run
            return whole if whole.template == name else whole._replace(template=name)
        if name not in whole.templates:
            listed = ", ".join(["default", *whole.templates])
            hint = nearest(name, {"default": None, **whole.templates})
            raise ConfigError(
                f"{source}: template {name!r} is not configured{hint}; there is {listed}. A table"
                f" [tool.clonedb.templates.{name}] in pyproject.toml makes one"
            )

        # what its own table says comes last and wins
        values = {"base": whole._base_of(name), **whole.templates[name]}  # noqa: SLF001 - one of this class's own
        if values["base"]:
            # what is in the base already is not seeded twice
            values.setdefault("seed", ())
        if any(name in values for name in MAKERS):
            # its own stands in place of the project's
            values = {**{name: KEYS[name].default for name in MAKERS}, **values}
        place = f"{whole.source('templates')}.templates.{name}"
        whole._require_no_circle(name)  # noqa: SLF001
        return whole.replace(place, **{"template": name, **values})._replace(project_wide=whole)

    def of_revision(self, revision: str, source: str) -> Config:
        """The configuration of a template that stops at a revision: without seeds, which want what comes later."""
        found = self.replace(source, target=revision, seed=(), template="revision")
        return found._replace(project_wide=self.project_wide or self)

    def with_seeds(self, seeds: Sequence[str], source: str) -> Config:
        """The configuration of a template that is this one with further seeds: nothing of this one is done again."""
        found = self.replace(
            source, base=self.template, seed=tuple(seeds), template=f"{self.template}+seeds"
        )
        return found._replace(project_wide=self.project_wide or self)

    def of_server(self) -> Config:
        """The configuration without what makes a template: that of a server, for all templates that are on it."""
        names = {*TEMPLATE_KEYS, "template", "templates"}
        # the defaults of a NamedTuple's fields
        values = {name: self._field_defaults[name] for name in names}
        sources = {name: place for name, place in self.sources.items() if name not in names}
        return self._replace(**values, sources=MappingProxyType(sources), project_wide=None)

    def of_schema(self) -> Config | None:
        """The configuration of the template without seeds that one with seeds is built upon; None if there is no need.

        Migrating rows that seeds made is not what seeding after migrating is, so seeds are a
        layer of their own.
        """
        if self.base is not None or not self.seed:
            return None
        found = self.replace(self.source("seed"), seed=(), template="schema")
        return found._replace(project_wide=self.project_wide or self)

    def of_base(self) -> Config | None:
        """The configuration of the template that this one is built upon; None if it is built from nothing."""
        return (
            None
            if self.base is None
            else self.of_template(self.base, f"{self.source('base')}: base")
        )

    def _base_of(self, name: str) -> str | None:
        """The base of a named template: what its table says, or else the project's."""
        # a template that is the project's base would be its own
        inherited = None if name == self.base else self.base
        base: str | None = self.templates[name].get("base", inherited)
        return base or None

    def _require_no_circle(self, name: str) -> None:
        bases = {"default": self.base, **{key: self._base_of(key) for key in self.templates}}
        seen = [name]
        while (base := bases.get(seen[-1])) is not None:
            if base in seen:
                circle = " -> ".join([*seen, base])
                raise ConfigError(
                    f"{self.source('templates')}: base leads round in a circle: {circle}; take one away"
                )
            seen.append(base)

    def path(self, value: str) -> Path:
        """A path from the configuration: `~` expanded, relative ones from the project's directory."""
        return self.rootdir / Path(value).expanduser()
