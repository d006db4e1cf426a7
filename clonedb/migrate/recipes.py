"""The recipe of a project: found by what its configuration and its files say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clonedb.errors import ConfigError, NoMigrationsError
from clonedb.migrate.alembic_recipe import AlembicRecipe
from clonedb.project.find import find_project
from clonedb.settings.keys import MAKERS

if TYPE_CHECKING:
    from clonedb.project.launchers import Launcher
    from clonedb.project.recipe import Recipe
    from clonedb.settings.config import Config

__all__ = ["find_launcher", "find_recipe", "require_revisions"]


def find_recipe(config: Config) -> Recipe:
    """What makes the schema of a configuration's template. Raises NoMigrationsError or ConfigError."""
    made_by = [name for name in MAKERS if getattr(config, name)]
    if len(made_by) > 1:
        listed = " and ".join(f"{name} ({config.source(name)})" for name in made_by)
        raise ConfigError(
            f"{listed} are set together, and one of them makes the schema; take the others away"
        )

    if config.migrate:
        from clonedb.migrate.command_recipe import CommandRecipe

        return CommandRecipe(config)

    if config.schema:
        from clonedb.migrate.sql_recipe import SqlRecipe

        return SqlRecipe(config)

    if config.metadata:
        from clonedb.migrate.metadata_recipe import MetadataRecipe

        return MetadataRecipe(config)

    try:
        return AlembicRecipe(config, find_project(config))
    except NoMigrationsError as error:
        # the project says that it is Alembic's, so that nothing is guessed in its place
        if {"alembic_ini", "alembic"} & set(config.sources):
            raise
        return find_recipe(_detected(config, error))


def _detected(config: Config, nothing: NoMigrationsError) -> Config:
    """The configuration with what the project's files say; raises the error when they say nothing, or too much."""
    from clonedb.project.detect import FOUND, as_lines, detect

    found = detect(config)
    if not found:
        raise nothing
    if len(found) > 1:
        listed = "\n".join(f"  {'; '.join(as_lines(settings))}" for settings in found)
        raise NoMigrationsError(
            f"{nothing}\nthere is more than one in the project; write one of these:\n{listed}"
        )

    return config.replace(FOUND, **found[0])


def find_launcher(recipe: Recipe) -> Launcher | None:
    """What env.py expects to be run by, if that is not the alembic command; None for a recipe that has none."""
    from clonedb.project.launchers import launcher_of

    if not isinstance(recipe, AlembicRecipe) or not recipe.project.env_py.is_file():
        return None
    return launcher_of(recipe.project.env_py, recipe.rootdir)


def require_revisions(recipe: Recipe, what: str) -> AlembicRecipe:
    """The recipe, if it has revisions: ConfigError says that `what` needs them."""
    if isinstance(recipe, AlembicRecipe):
        return recipe
    raise ConfigError(
        f"{what} needs Alembic's revisions, and the template is made by {recipe.words.maker}, which has"
        f" none{_about_alembic(recipe)}"
    )


def _about_alembic(recipe: Recipe) -> str:
    """Where Alembic's are, if the project has some that a command runs."""
    from clonedb.project.survey import survey

    found = survey(recipe.rootdir).environments if recipe.config.migrate else ()
    return (
        f"; {found[0]!r} has some of Alembic's, which is used if `migrate` is not set"
        if found
        else ""
    )
