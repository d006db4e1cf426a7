"""A crash of the server empties unlogged tables: of templates, which are built anew, and of what is built upon them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import pytest

import clonedb
from clonedb.api import Template, open_template
from clonedb.errors import BuildError, ServerError
from clonedb.postgres.sql import databases
from clonedb.progress import Warnings
from clonedb.settings.config import Config
from tests.clones.conftest import eventually, pool_of
from tests.embedded.sandbox import Sandbox
from tests.projects import Project, one

CACHE = """
op.execute("create unlogged table cache (id int generated always as identity, value text)")
op.execute("insert into cache (value) values ('a'), ('b')")
op.execute("create unlogged table nothing (id int)")
"""


class Said(Warnings):
    """Remembers all that is said."""

    def say(self, message: str) -> None:
        """One more."""
        self.messages.append(message)


Open = Callable[..., tuple[Template, list[str]]]


@pytest.fixture
def cache(alone: Project) -> Project:
    """A project with a server of its own and an unlogged table with two rows."""
    alone.revision("three", CACHE)
    return alone


@pytest.fixture
def opened(cache: Project, sandbox: Sandbox) -> Open:
    """A function that opens the project's template, and gives what was said."""

    def make(**settings: object) -> tuple[Template, list[str]]:
        said = Said()
        base = sandbox.config
        names = ("state_dir", "postgres_bin", "idle_timeout")
        values = {name: getattr(base, name) for name in names} | {
            "salt": "unlogged",
            **settings,
        }
        config = Config(rootdir=cache.directory).replace("the test", **values)
        return open_template(config, progress=said), said.messages

    return make


def crash(template: clonedb.Template) -> None:
    """Kill a session, after which the server ends all others and recovers.

    A clone was made before, which flushed the WAL: with synchronous_commit off the template's name might be lost, too.
    """
    with contextlib.closing(template.server.connect("postgres")) as victim:
        before = template.server.crashes
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        eventually(lambda: template.server.crashes > before)


def rows(template: clonedb.Template) -> tuple[object, ...]:
    """Count the rows of a new clone's unlogged table."""
    with template.clone() as clone:
        return one(clone, "select count(*) from cache")


@pytest.mark.campaign("kills")
def test_a_template_that_lost_rows_is_built_anew(opened: Open) -> None:
    """Once, with a line that says why; an unlogged table that never had rows is not missed, and no copy is left."""
    template, _ = opened()
    with template:
        assert ["public", "cache"] in template.record.metadata.unlogged
        assert ["public", "nothing"] not in template.record.metadata.unlogged
        assert rows(template) == (2,)
        crash(template)
        again, said = opened()
        with again:
            assert again.record.built
            assert any(
                "has lost the rows of its unlogged relation 'public.cache'" in line
                for line in said
            )
            assert rows(again) == (2,)
            third, said = opened()
            with third:
                assert not third.record.built
                found = third.server.run(databases, third.server.config.prefix)
                assert [database.name for database in found] == [third.name]


@pytest.mark.campaign("kills")
def test_a_crash_in_a_run_gives_no_empty_tables(opened: Open) -> None:
    """A clone made after it is refused, and the error says what to do."""
    template, _ = opened()
    with template:
        assert rows(template) == (2,)
        crash(template)
        with pytest.raises(
            ServerError,
            match=r"has lost the rows of its unlogged relation 'public.cache', as .* again",
        ):
            template.clone()


@pytest.mark.campaign("kills")
def test_no_clone_that_lost_rows_is_handed_on(opened: Open) -> None:
    """Neither one that was brought back before the crash, in whatever way, nor one that was made ahead."""
    template, _ = opened()
    lost = r"has lost the rows of its unlogged relation 'public.cache', as .* again"
    with (
        template,
        contextlib.closing(pool_of(template)) as pool,
        contextlib.closing(template.supply()) as supply,
    ):
        modes = [supply.isolation(name) for name in ("truncate", "rollback", "auto")]
        for mode in modes:
            mode.release(mode.acquire())
        used = [pool.take(ahead=1) for _ in range(3)]
        eventually(lambda: len(pool._ready) == 1)
        crash(template)
        for mode in modes:
            with pytest.raises(ServerError, match=lost):
                mode.acquire()
            mode.close()
        with pytest.raises(ServerError, match=lost):
            pool.take(ahead=1)
        for clone in used:
            clone.drop()


@pytest.mark.campaign("kills")
def test_nothing_is_built_upon_what_lost_rows(opened: Open, cache: Project) -> None:
    """A later revision begins from zero then; a frozen run says what is wrong with the template."""
    template, _ = opened()
    with template:
        assert rows(template) == (2,)
        crash(template)
        with pytest.raises(
            BuildError, match=r"has lost the rows of .* in a crash of .* because frozen is set"
        ):
            opened(frozen=True)
        cache.revision("four", "pass")
        later, said = opened()
        with later:
            assert not any(" upon " in line for line in said)
            assert rows(later) == (2,)
