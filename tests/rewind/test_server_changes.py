"""What sessions with a clone change of the whole server: told from what others change, and undone to the letter."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from clonedb.clones.clone import Clone, create
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.rewind.rewinder import Pristine, Rewinder, why_not
from clonedb.rewind.server_changes import find_changes
from clonedb.rewind.server_state import read_state
from clonedb.templates.ensure import TemplateRecord
from tests.embedded.sandbox import make_sandbox
from tests.rewind.shapes import make_template
from tests.rewind.test_shapes import write

ROLES = """
create role one login password 'first' valid until '2040-01-01' connection limit 3;
create role two createdb;
create role three;
grant one to two with admin option;
grant three to two;
alter role one set search_path = "$user", '';
alter role one set work_mem = '5MB';
alter role one in database postgres set work_mem = '6MB';
grant set on parameter work_mem to three;
"""

# a name, and what a session with the clone does
CHANGES = {
    "a role with all that it may have": "create role made superuser login; create role other in role made role one; alter role made set work_mem = '9MB'; alter role made in database postgres set work_mem = '9MB'; grant set on parameter work_mem to made with grant option; grant three to made with admin option",
    "what it owns": "create role made; create table t_of_made (); alter table t_of_made owner to made; grant select on t to made; alter default privileges for role made grant select on tables to one",
    "in a savepoint": "begin; savepoint a; create role made; savepoint b; alter role one set work_mem = '1MB'; release b; release a; commit",
    "attributes": "alter role one nologin createrole superuser inherit replication bypassrls connection limit 9 valid until '2030-01-01' password 'second'; alter role two nocreatedb noinherit valid until 'infinity'",
    "no password": "alter role one password null",
    "another name": "alter role one rename to eins; grant eins to three; alter role eins set jit = off; alter role eins nologin",
    "settings": "alter role one set search_path = three; alter role one reset work_mem; alter role two set work_mem = '3MB'; alter role all set jit = off; alter role one in database postgres reset all; alter database postgres set jit = off; alter role postgres set custom.setting = 'a=b'",
    "memberships": "revoke three from two; grant two to three; revoke admin option for one from two",
    "memberships upon one another": "grant one to three with admin option; set role three; grant one to pg_monitor; reset role",
    "privileges on parameters": "revoke set on parameter work_mem from three; grant alter system on parameter jit to one; grant set on parameter jit to public",
    "roles that are gone": "drop owned by one, three; drop role one; drop role three",
    "nothing in the end": "create role made; alter role made login; drop role made; begin; alter role one nologin; rollback",
}


@pytest.fixture(scope="module")
def own(postgres_bin: str | None) -> Iterator[Server]:
    """A server of the module's own, on which nobody else makes roles."""
    sandbox = make_sandbox(postgres_bin)
    server = open_server(sandbox.config)
    assert why_not(server) is None
    for statement in ROLES.strip().splitlines():
        server.run(_execute, statement)
    yield server
    server.close()
    sandbox.close()


@pytest.fixture(scope="module")
def template(own: Server) -> TemplateRecord:
    """The template: a table."""
    return make_template(own, "create table t (n int)", secrets.token_hex(32))


@pytest.fixture(scope="module")
def pristine(own: Server, template: TemplateRecord) -> Iterator[Pristine]:
    """What it holds."""
    with contextlib.closing(Pristine(own, template)) as found:
        yield found


@pytest.fixture
def clone(own: Server, template: TemplateRecord) -> Iterator[Clone]:
    """A fresh clone."""
    with create(own, template) as made:
        yield made


@pytest.fixture
def rewinder(clone: Clone, pristine: Pristine) -> Iterator[Rewinder]:
    """Watches the clone."""
    made = Rewinder(clone, pristine)
    yield made
    made.close()


# by names, as numbers are others after a role was made again
STATE = """
select json_build_array(
    array(select (to_jsonb(a) - 'oid' || jsonb_build_object('rolvaliduntil', coalesce(rolvaliduntil, 'infinity')))::text from pg_authid a order by rolname),
    array(select concat(pg_get_userbyid(roleid), ' ', pg_get_userbyid(member), ' ', pg_get_userbyid(grantor), ' ',
                        to_jsonb(m) - '{oid,roleid,member,grantor}'::text[]) from pg_auth_members m order by 1),
    array(select concat(setdatabase, ' ', case setrole when 0 then '' else pg_get_userbyid(setrole) end, ' ',
                        (select array_agg(c order by c) from unnest(setconfig) c))
          from pg_db_role_setting order by 1),
    array(select concat(parname, ' ', case grantee when 0 then '' else pg_get_userbyid(grantee) end, ' ',
                        privilege_type, ' ', is_grantable)
          from pg_parameter_acl, aclexplode(paracl) order by 1)
)::text
"""


def state(server: Server) -> Any:
    """All that there is of these."""
    return server.run(lambda connection: connection.execute(STATE).fetchone())


def ran(server: Server, statements: str) -> None:
    """Run statements in the maintenance database, as anybody may."""
    server.run(lambda connection: connection.execute(statements.encode()))


@pytest.mark.parametrize("name", CHANGES)
def test_it_is_undone(name: str, own: Server, rewinder: Rewinder, clone: Clone) -> None:
    """What others make at the same time stays."""
    before = state(own)
    write(clone, CHANGES[name])
    ran(own, "create role another; alter role another set jit = off")
    rewinder.rewind()
    found = rewinder.changes_of_server()
    clone.drop()
    if name == "nothing in the end":
        assert found is None
    else:
        assert found is not None
        assert found.undo(own) == []
    ran(own, "drop role another")
    assert state(own) == before


def test_what_others_do_is_theirs(
    own: Server, rewinder: Rewinder, clone: Clone, template: TemplateRecord
) -> None:
    """Whether in the maintenance database or in another clone; a row that both changed is the last one's."""
    with create(own, template) as another:
        write(
            another,
            "create role of_another; alter role one set work_mem = '7MB'; grant one to of_another",
        )
        ran(own, "create role of_nobody; alter role two nocreatedb")
        write(
            clone,
            "create role made; alter role one connection limit 8; alter role two createrole",
        )
        ran(own, "alter role two nocreaterole createdb")
        rewinder.rewind()
        found = rewinder.changes_of_server()
        assert found is not None
        assert sorted(left.what for left in found.undo_by_hand()) == [
            "changed role 'one' (connection limit)",
            "made role 'made'",
        ]
        assert found.undo(own) == []
        write(another, "alter role one set work_mem = '5MB'; drop role of_another, of_nobody")


def test_nothing_is_asked_when_nobody_wrote_there(
    rewinder: Rewinder, clone: Clone, own: Server
) -> None:
    """Databases come and go all the time, and the WAL says which catalogs were written."""
    before = rewinder._server_state
    write(clone, "insert into t values (1)")
    ran(own, "create database of_nobody")
    ran(own, "drop database of_nobody")
    assert rewinder.rewind().kind == "rewound"
    assert rewinder.changes_of_server() is None
    assert rewinder._server_state is before


def test_a_catalog_that_was_written_anew(rewinder: Rewinder, clone: Clone, own: Server) -> None:
    """VACUUM FULL gives a catalog another file, which is read like the one before."""
    ran(own, "vacuum full pg_authid")
    for name in ("made", "more"):
        write(clone, f"insert into t values (1); create role {name}")
        assert rewinder.rewind().kind == "rewound"
        found = rewinder.changes_of_server()
        assert found is not None
        assert [left.what for left in found.undo_by_hand()] == [f"made role {name!r}"]
        assert found.undo(own) == []


def test_a_role_that_others_gave_something(
    rewinder: Rewinder, clone: Clone, own: Server
) -> None:
    """It stays with what it has, and the server's reason is told."""
    write(clone, "create role made")
    ran(own, "create schema of_made authorization made")
    rewinder.rewind()
    found = rewinder.changes_of_server()
    assert found is not None
    ((what, statement, why),) = found.undo(own)
    assert (what, statement) == ("made role 'made'", 'drop role "made"')
    assert (
        why
        == 'role "made" cannot be dropped because some objects depend on it: owner of schema of_made'
    )
    ran(own, "drop schema of_made; drop role made")


def test_a_tablespace(rewinder: Rewinder, clone: Clone, own: Server) -> None:
    """It is told only: files in it may be anybody's."""
    with psycopg.connect(clone.dsn, autocommit=True) as connection:
        connection.execute("set allow_in_place_tablespaces = on")
        connection.execute("create tablespace made location ''")
    rewinder.rewind()
    found = rewinder.changes_of_server()
    assert found is not None
    assert found.undo(own) == [("made tablespace 'made'", 'drop tablespace "made"', "")]
    ran(own, "drop tablespace made")


def test_no_password_is_told(rewinder: Rewinder, clone: Clone, own: Server) -> None:
    """The statement that a person is told has dots in its place."""
    write(clone, "alter role one password 'SECRET' nologin")
    rewinder.rewind()
    found = rewinder.changes_of_server()
    assert found is not None
    (left,) = found.undo_by_hand()
    assert left == (
        "changed role 'one' (login, password)",
        'alter role "one" LOGIN PASSWORD ...',
        "",
    )
    assert found.undo(own) == []


def test_records_that_go_over_a_page(clone: Clone, own: Server) -> None:
    """Of 1,500 commits some have a page's header in the middle of what is read of them."""
    before = own.run(read_state)
    with psycopg.connect(clone.dsn, autocommit=True) as connection:
        connection.execute(
            "do $$ begin for i in 1..1500 loop execute 'create role many_' || i; commit; end loop; end $$"
        )
    found = find_changes(own, clone.oid or 0, before, before.position)
    assert found is not None
    assert len(found.changes) == 1500
    across = own.run(
        lambda connection: connection.execute(
            "select count(*) from pg_get_wal_records_info(%s, pg_current_wal_flush_lsn()) where record_type = 'COMMIT'"
            " and (pg_walfile_name_offset(start_lsn)).file_offset %% 8192 > 8192 - 40",
            [before.position],
        ).fetchone()
    )
    assert across is not None
    assert across[0] > 0
    own.run(
        lambda connection: connection.execute(
            "do $$ begin for i in 1..1500 loop execute 'drop role many_' || i; end loop; end $$"
        )
    )


def _execute(connection: psycopg.Connection[Any], statement: str) -> None:
    connection.execute(statement.encode())
