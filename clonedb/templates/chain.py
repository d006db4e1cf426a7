"""A template and those that it is built upon, one below the other: their recipes, and the fingerprint of the first."""

from __future__ import annotations

from typing import NamedTuple

from clonedb.migrate.recipes import find_recipe
from clonedb.names import template_name
from clonedb.postgres.server import Server
from clonedb.project.fingerprint import Fingerprint, Sources
from clonedb.project.recipe import Recipe
from clonedb.settings.config import Config
from clonedb.templates.catalog import find, note_use
from clonedb.templates.crash_losses import what_is_lost
from clonedb.templates.ensure import fingerprint_on, sources_of
from clonedb.templates.metadata import TemplateRecord

__all__ = ["Chain"]


class Chain(NamedTuple):
    """The recipe of a template, its inputs, and the same of what it is built upon (None: from nothing)."""

    recipe: Recipe
    sources: Sources
    below: Chain | None

    @classmethod
    def of(cls, config: Config) -> Chain:
        """That of the template that a configuration means; raises ConfigError or NoMigrationsError."""
        recipe, base = find_recipe(config), config.of_base()
        return cls(recipe, sources_of(recipe), None if base is None else cls.of(base))

    @property
    def extensions(self) -> frozenset[str]:
        """Every extension that any of them names: one server has to have them all."""
        below = self.below.extensions if self.below is not None else frozenset[str]()
        return self.sources.extensions | below

    def fingerprint(self, server: Server) -> Fingerprint:
        """That of the first template; each has that of the one below in it."""
        base = None if self.below is None else self.below.fingerprint(server).digest
        return fingerprint_on(server, self.recipe.config, self.sources, base=base)

    def find(self, server: Server) -> TemplateRecord | None:
        """The first template, if it is there and whole, whether or not those are that it was built upon."""
        found = find(
            server, template_name(server.config.prefix, self.fingerprint(server).digest)
        )
        if (
            found is None
            or what_is_lost(server, found) is not None
            or not server.use(found.name)
        ):
            return None
        note_use(server, found)
        return found
