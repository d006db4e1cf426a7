"""`role`: what tests and the application connect as, so that grants and row-level security are tested for what they are."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from clonedb.url import DatabaseURL
from tests.campaigns import VARIANT
from tests.projects import Project

REVISION = """
role = context_role = os.environ["APP_ROLE"]
op.execute(f'''
    create table item (id serial primary key, owner text default current_user);
    create table hidden (id int);
    insert into item (owner) values ('somebody'), ('{role}');
    grant select, insert on item to {role};
    grant usage on sequence item_id_seq to {role};
    alter table item enable row level security;
    create policy own on item using (owner = current_user) with check (owner = current_user);
    alter default privileges in schema public grant select on tables to {role};
    create table later (id int);
    create extension if not exists citext;
''')
op.execute(f"do $$ begin execute format('alter database %I set app.name = ''the shop''', current_database()); end $$")
"""

TESTS = """
import os, psycopg, pytest, sqlalchemy as sa

role = os.environ["APP_ROLE"]

@pytest.mark.parametrize("number", range(2))
def test_row_level_security_holds(clonedb_session, number):
    assert clonedb_session.scalar(sa.text("select current_user")) == role
    assert clonedb_session.scalars(sa.text("select owner from item")).all() == [role]
    clonedb_session.execute(sa.text("insert into item default values"))
    clonedb_session.commit()
    assert clonedb_session.scalar(sa.text("select count(*) from item")) == 2
    with pytest.raises(sa.exc.ProgrammingError, match="row-level security policy"):
        clonedb_session.execute(sa.text("insert into item (owner) values ('somebody')"))

def test_grants_hold(clonedb_connection):
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table hidden"):
        clonedb_connection.execute("select * from hidden")
    clonedb_connection.rollback()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        clonedb_connection.execute("delete from item")

def test_default_privileges_and_database_settings_hold(clonedb_dsn):
    with psycopg.connect(clonedb_dsn) as connection:
        assert connection.execute("select count(*) from later").fetchone() == (0,)
        assert connection.execute("select current_setting('app.name')").fetchone() == ("the shop",)
        assert connection.execute("select 'A'::citext = 'a'").fetchone() == (True,)
        assert connection.info.user == role
"""


@pytest.fixture
def roled(project: Project, prefix: str) -> Project:
    """A project whose migrations grant to the application's role."""
    role = f"{prefix}_app"
    project.environment |= {
        "APP_ROLE": role,
        "CLONEDB_ROLE": role,
        "CLONEDB_PREFIX": f"{prefix}_r",
    }
    project.revision("one", REVISION)
    project.write("test_it.py", TESTS)
    return project


@pytest.mark.parametrize("isolation", ["auto", "clone", "truncate", "worker"])
@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["alone", "xdist"]
)
def test_what_the_role_may_not_is_refused(
    roled: Project, arguments: tuple[str, ...], isolation: str
) -> None:
    """On the embedded server the role is created and may log in; extensions and resets are the maintenance role's."""
    if isolation == "worker":
        roled.write("test_it.py", TESTS.replace("range(2)", "range(1)"))
    outcome = roled.pytest(
        f"--clonedb-isolation={isolation}", "-p", "no:randomly", *arguments
    ).demand()
    assert "passed" in outcome.out


def test_on_a_server_of_ones_own(roled: Project, server_url: str, admin_dsn: str) -> None:
    """A role that may not log in is told of with the command; with a password of its own it is used."""
    role = roled.environment["CLONEDB_ROLE"] + "_own"
    roled.environment |= {"APP_ROLE": role, "CLONEDB_ROLE": role, "CLONEDB_URL": server_url}
    roled.environment["CLONEDB_PREFIX"] += "u"
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(SQL("create role {}").format(Identifier(role)))
        outcome = roled.pytest().demand(1)
        assert (
            f"role '{role}' may not log in, but CLONEDB_ROLE says that tests connect as it"
            in outcome.out
        )
        connection.execute(
            SQL("alter role {} login password 'SECRET of the role'").format(Identifier(role))
        )
        outcome = roled.pytest(CLONEDB_ROLE_PASSWORD="SECRET of the role").demand()
        assert "passed" in outcome.out
        shown = roled.clonedb("config", CLONEDB_ROLE_PASSWORD="SECRET of the role").demand()
        assert "SECRET" not in shown.text
        roled.clonedb("drop", "--all").demand()


def test_urls_from_the_shell_are_the_roles(roled: Project) -> None:
    """`clonedb run` gives its command what a test would get."""
    role = roled.environment["CLONEDB_ROLE"]
    program = "import os; print(os.environ['DATABASE_URL'])"
    url = roled.clonedb("run", "python3", "-c", program).demand().out.strip()
    assert DatabaseURL.parse(url).user == role


def test_a_password_has_no_place_on_a_command_line(roled: Project) -> None:
    """Whoever lists processes would read it there: it is a variable's, or the file's."""
    shown = roled.pytest("--help").demand().out
    assert "--clonedb-role=" in shown
    assert "role-password" not in shown
