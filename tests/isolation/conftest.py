"""What the tests of isolation share: a project whose database has triggers, sequences, cycles and rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clonedb.embedded import leases
from clonedb.settings.config import Config
from tests.projects import Project, databases, shared_prefix

SHOP = """
op.execute('''
    create schema "Odd Names";
    create table item (id serial primary key, name text not null unique, twice text generated always as (name || name) stored);
    create table "Odd Names"."a table" (id int generated always as identity primary key, item int references item);
    create table log (what text);
    create table hen (id int primary key, egg int);
    create table egg (id int primary key, hen int references hen);
    alter table hen add foreign key (egg) references egg deferrable initially deferred;
    create table part (id int, kind text) partition by list (kind);
    create table part_a partition of part for values in ('a');
    create function note() returns trigger language plpgsql as $$ begin insert into log values (tg_op); return new; end $$;
    create trigger noted after insert or update on item for each row execute function note();
    create sequence own_numbers start 100 increment 5;
    insert into item (name) values ('seeded'), ('also');
    insert into "Odd Names"."a table" (item) values (1);
    begin; insert into hen values (1, 1); insert into egg values (1, 1); commit;
    insert into part values (1, 'a');
    select nextval('own_numbers');
'''.replace("begin; ", "").replace("commit;", ""))
"""


@pytest.fixture
def prefix(run_id: str, admin_dsn: str) -> Iterator[str]:
    """The worker's, for all tests of this directory."""
    with shared_prefix(f"i{run_id[:5]}_{os.getpid():x}", admin_dsn) as shared:
        yield shared


@pytest.fixture
def shop(project: Project) -> Project:
    """The project."""
    project.revision(
        "one",
        SHOP,
        'op.execute("drop schema \\"Odd Names\\" cascade; drop table item, log, part cascade; drop table hen, egg cascade; drop function note; drop sequence own_numbers")',
    )
    return project


@pytest.fixture
def own_server(project: Project, config: Config, state_dir: Path) -> Iterator[None]:
    """The project has a server of its own, on which nobody else writes.

    WAL is all databases' together: after 16 MB of it, other tests' for the most part, a clone is replaced.
    """
    own = state_dir / f"own-{os.getpid()}"
    project.environment["CLONEDB_STATE_DIR"] = str(own)
    yield
    leases.stop(config.replace("tests", state_dir=str(own)))


@pytest.fixture
def clones(admin_dsn: str, prefix: str) -> Callable[[], list[str]]:
    """A function that lists the clones on the server."""
    return lambda: databases(admin_dsn, f"{prefix}_c_")
