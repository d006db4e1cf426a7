"""`Recipe`: what makes the schema of a template, and all that the rest of clonedb asks of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clonedb.progress import Progress
from clonedb.project.inputs import Sources
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL

__all__ = ["Builder", "Built", "NoHistoryError", "Recipe", "Words"]


@dataclass(frozen=True, slots=True)
class Words:
    """How messages speak of a recipe.

    `maker` is what makes the schema, such as `Alembic`; `step` is one of the things that it
    does, such as `revision`.
    """

    maker: str
    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a recipe did to a database.

    `heads` are the revisions that the database is at, None for a recipe that has no revisions.
    `steps` names what was run, in order, and `files` is where each of that is. `read` are other
    files of the project that were read meanwhile, and `variables` those of the environment that
    its code asked for. `version_tables` are those in which the
    recipe notes how far it came, each with its schema or None. `left_behind` are settings that
    one step left to the next in their session. `warnings` are what a person should know.
    """

    heads: tuple[str, ...] | None
    steps: tuple[str, ...]
    files: tuple[Path, ...] = ()
    read: tuple[Path, ...] = ()
    variables: tuple[str, ...] = ()
    version_tables: tuple[tuple[str, str | None], ...] = ()
    left_behind: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class NoHistoryError(Exception):
    """The steps of a recipe are not known beforehand, so that no template is the beginning of another; says why."""


class Builder(Protocol):
    """Fills one database. It may be in use with an interpreter of its own, which ends with `close()`."""

    def start(self) -> None:
        """Get ready while the caller does something else; need not be called."""

    def history(
        self, on_database: Callable[[], AbstractContextManager[None]]
    ) -> Sequence[tuple[str, str]]:
        """The steps that make the schema from nothing, in order, each with the digest of all that it depends on.

        They must be those that `build` names in `Built.steps`. The database is not there yet;
        `on_database()` is a context in which it is, empty, for a recipe that needs one to find
        out. Raises NoHistoryError, which a recipe does that has no steps to go on from.
        """

    def build(self, *, upon: Sequence[Sequence[str]], progress: Progress) -> Built:
        """Make the schema in the database, and run the seeds of the configuration.

        `upon` are the inputs (kind, name, abbreviated digest) of the template that the database
        is a copy of; none for an empty database. Raises BuildError, MissingExtensionError,
        PermissionDeniedError or ConfigError.
        """

    def close(self) -> None:
        """End what is still running; may be called again."""


class Recipe(Protocol):
    """What makes the schema of one template, found by `clonedb.migrate.recipes.find_recipe`.

    It is made in every run, also in one that finds its template ready: making it and `inputs`
    read files, and import nothing heavy.
    """

    @property
    def config(self) -> Config:
        """The configuration of the template."""

    @property
    def words(self) -> Words:
        """How messages speak of it."""

    @property
    def rootdir(self) -> Path:
        """The project's directory, from which the names of inputs start."""

    @property
    def name(self) -> str:
        """The project's name."""

    @property
    def key(self) -> str:
        """What tells the project from others on a server, and its checkouts from none."""

    def with_config(self, config: Config) -> Recipe:
        """The same recipe under a configuration of the project, such as one without seeds.

        What it remembers of files is looked at anew: the build asks whether they were edited.
        """

    def inputs(self, index_dir: Path | None) -> Sources:
        """Everything that the template depends on apart from the server: the fingerprint covers it.

        `index_dir` is where is remembered what unchanged files hold. An input that is left out
        is a wrong template. Of a recipe that has a history, the inputs of its steps are of the
        kinds in `fingerprint.OF_STEPS`, and no others are. Raises ConfigError.
        """

    def builder(
        self,
        url: DatabaseURL,
        *,
        remedy: Callable[[], str],
        waiting: Callable[[], None] | None = None,
    ) -> Builder:
        """What fills the database at `url`.

        `remedy` says what helps against an extension that the server lacks. `waiting` is called
        about every second in which nothing is heard of the build, and may raise.
        """
