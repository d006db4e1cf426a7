"""Recipes: a way to make a schema that clonedb does not know is a class, and nothing in the templates' room."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest

from clonedb.api import Template
from clonedb.errors import BuildError, ConfigError, MigrationError
from clonedb.migrate.recipes import require_revisions
from clonedb.postgres.servers import open_server
from clonedb.progress import Progress
from clonedb.project.inputs import Reading, Sources, digest_of
from clonedb.project.recipe import Built, NoHistoryError, Recipe, Words
from clonedb.settings.config import Config
from clonedb.templates.catalog import templates
from clonedb.templates.ensure import ensure, sources_of
from clonedb.url import DatabaseURL
from tests.projects import Project
from tests.templates.conftest import Heard

Configured = Callable[..., Config]


@dataclasses.dataclass(frozen=True)
class Files:
    """SQL files make the schema, one after the other; with `layered` each is a step that another template goes on from."""

    config: Config
    names: tuple[str, ...]
    layered: bool = False

    words = Words(maker="schema.sql", step="file")
    name = key = "files"

    @property
    def rootdir(self) -> Path:
        return self.config.rootdir

    def with_config(self, config: Config) -> Files:
        return dataclasses.replace(self, config=config)

    def inputs(self, index_dir: Path | None) -> Sources:
        reading = Reading(
            self.config, rootdir=self.rootdir, import_roots=(), index_dir=index_dir, key="files"
        )
        for name in self.names:
            reading.file("revision", str(self.rootdir / name), name)
        return reading.finish()

    def builder(
        self,
        url: DatabaseURL,
        *,
        remedy: Callable[[], str],
        waiting: Callable[[], None] | None = None,
    ) -> Runs:
        return Runs(self, url.replace(driver=None).render())


@dataclasses.dataclass
class Runs:
    """Runs the files in one database."""

    recipe: Files
    dsn: str

    def start(self) -> None: ...

    def close(self) -> None: ...

    def history(
        self,
        on_database: Callable[[], AbstractContextManager[None]],
    ) -> Sequence[tuple[str, str]]:
        if not self.recipe.layered:
            raise NoHistoryError("SQL files are run as a whole")
        return [
            (name, digest_of((self.recipe.rootdir / name).read_text()))
            for name in self.recipe.names
        ]

    def build(self, *, upon: Sequence[Sequence[str]], progress: Progress) -> Built:
        config = self.recipe.config
        there = {name for kind, name, _ in upon if kind == "revision"}
        wanted = [name for name in self.recipe.names if name not in there]
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for number, name in enumerate(wanted, 1):
                progress.step("file", number, len(wanted), name)
                try:
                    connection.execute((config.rootdir / name).read_bytes())
                except psycopg.Error as error:
                    raise MigrationError(f"file {name!r} failed: {error}") from error
            for seed in config.seed:
                connection.execute(config.path(seed).read_bytes())
        return Built(heads=None, steps=tuple(wanted))


class Steps(Heard):
    """Remembers the steps of a build, too."""

    def step(self, what: str, number: int, total: int, name: str) -> None:
        self.lines.append(f"{what} {number} of {total} ({name})")


@contextlib.contextmanager
def opened(recipe: Recipe) -> Iterator[tuple[Template, Steps]]:
    """The template that a recipe makes; what was said on the way."""
    heard, sources = Steps(), sources_of(recipe)
    with contextlib.ExitStack() as stack:
        server = open_server(recipe.config, sources.extensions)
        stack.callback(server.close)
        record = ensure(server, recipe, sources, run="the run", progress=heard)
        yield stack.enter_context(Template(server, record, recipe)), heard


def names_in(template: Template) -> list[str]:
    """The rows of its one table."""
    with template.clone() as clone, clone.connect() as connection:
        return [name for (name,) in connection.execute("select name from item order by name")]


@pytest.fixture
def files(project: Project, configured: Configured) -> Callable[..., Files]:
    """A function that gives the recipe of the project's two files; keywords are settings."""
    project.write("one.sql", "create table item (name text); insert into item values ('one')")
    project.write("two.sql", "insert into item values ('two')")

    def make(*more: str, layered: bool = False, **settings: object) -> Files:
        return Files(configured(**settings), ("one.sql", "two.sql", *more), layered=layered)

    return make


def test_a_made_up_recipe_is_built_once_in_its_own_words(files: Callable[..., Files]) -> None:
    """Built and sealed, found the next time; it has files and no revisions, and nothing says that it has some."""
    with opened(files()) as (template, heard):
        assert template.record.built
        assert names_in(template) == ["one", "two"]
        assert (template.heads, template.record.metadata.state) == ((), "made by schema.sql")
        steps, (*_, last) = heard.lines[1:3], heard.lines
        assert steps == ["file 1 of 2 (one.sql)", "file 2 of 2 (two.sql)"]
        assert " is ready: 2 files in " in last
        with template.database("auto") as one, one.connect() as connection:
            connection.execute("insert into item values ('three')")
        assert names_in(template) == ["one", "two"]
    with opened(files()) as (again, heard):
        assert (again.name, again.record.built, heard.lines) == (template.name, False, [])


def test_an_edit_makes_another_template_and_says_why_it_begins_with_nothing(
    files: Callable[..., Files], project: Project
) -> None:
    """A recipe without a history gives its reason."""
    with opened(files()) as (before, _):
        project.write("two.sql", "insert into item values ('zwei')")
        with opened(files()) as (after, heard):
            assert (names_in(before), names_in(after)) == (["one", "two"], ["one", "zwei"])
    why = f"from nothing because {before.name!r} is no beginning for another template: SQL files are run as a whole"
    assert heard.lines[0].endswith(why)


def test_seeds_are_built_upon_the_schema(files: Callable[..., Files], project: Project) -> None:
    """The recipe is told what the copy holds, and runs no file again; a changed seed costs the seed."""
    project.write("seed.sql", "insert into item values ('seed')")
    with opened(files(seed=["seed.sql"])) as (seeded, heard):
        assert names_in(seeded) == ["one", "seed", "two"]
        assert sum(line.startswith("file ") for line in heard.lines) == 2
        assert " is ready: 0 files in " in heard.lines[-1]
    project.write("seed.sql", "insert into item values ('another')")
    with opened(files(seed=["seed.sql"])) as (changed, heard):
        assert names_in(changed) == ["another", "one", "two"]
        assert not any(line.startswith("file ") for line in heard.lines)


def test_a_recipe_with_a_history_is_built_upon_a_layer(
    files: Callable[..., Files], project: Project
) -> None:
    """What is still true of it is not run again."""
    project.write("three.sql", "insert into item values ('three')")
    with opened(files(layered=True)) as (below, _):
        assert below.record.metadata.depth == 2
    with opened(files("three.sql", layered=True)) as (above, heard):
        assert names_in(above) == ["one", "three", "two"]
    assert heard.lines[0].endswith(f"upon {below.name!r}: 1 of 3 files")
    assert "file 1 of 1 (three.sql)" in heard.lines


def test_what_a_recipe_raises_is_the_error_and_nothing_is_left(
    files: Callable[..., Files], project: Project
) -> None:
    """It is raised as it is."""
    project.write("two.sql", "insert into nowhere values ('two')")
    with (
        pytest.raises(
            BuildError, match=r"file 'two.sql' failed: relation \"nowhere\" does not exist"
        ),
        opened(files()),
    ):
        pass
    server = open_server(files().config)
    with contextlib.closing(server):
        assert templates(server) == []
        assert (
            server.rows(
                "select datname from pg_database where starts_with(datname, %s)",
                [server.config.prefix],
            )
            == []
        )


@pytest.mark.parametrize("what", ["isolation 'migrate'", "clonedb_at()"])
def test_what_needs_revisions_says_so(files: Callable[..., Files], what: str) -> None:
    """There is no way up and down for a recipe that has none."""
    with pytest.raises(
        ConfigError, match=r"needs Alembic's revisions, and the template is made by schema\.sql"
    ):
        require_revisions(files(), what)


def test_isolation_by_migrating_needs_revisions(files: Callable[..., Files]) -> None:
    """Said before a database is made for it."""
    with (
        opened(files()) as (template, _),
        pytest.raises(ConfigError, match="isolation 'migrate' needs Alembic's"),
    ):
        template.database("migrate").__enter__()
