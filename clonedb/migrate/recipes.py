"""The recipe of a project: found by what its configuration and its files say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clonedb.errors import ConfigError
from clonedb.migrate.alembic_recipe import AlembicRecipe
from clonedb.project.find import find_project

if TYPE_CHECKING:
    from clonedb.project.recipe import Recipe
    from clonedb.settings.config import Config

__all__ = ["find_recipe", "require_revisions"]


def find_recipe(config: Config) -> Recipe:
    """What makes the schema of a configuration's template. Raises NoMigrationsError or ConfigError."""
    made_by = [name for name in ("alembic_ini", "metadata", "schema") if getattr(config, name)]
    if len(made_by) > 1:
        listed = " and ".join(f"{name} ({config.source(name)})" for name in made_by)
        raise ConfigError(
            f"{listed} are set together, and one of them makes the schema; take the others away"
        )

    if config.schema:
        from clonedb.migrate.sql_recipe import SqlRecipe

        return SqlRecipe(config)

    if config.metadata:
        from clonedb.migrate.metadata_recipe import MetadataRecipe

        return MetadataRecipe(config)

    return AlembicRecipe(config, find_project(config))


def require_revisions(recipe: Recipe, what: str) -> AlembicRecipe:
    """The recipe, if it has revisions: ConfigError says that `what` needs them."""
    if isinstance(recipe, AlembicRecipe):
        return recipe
    raise ConfigError(
        f"{what} needs Alembic's revisions, and the template is made by {recipe.words.maker}, which has none"
    )
