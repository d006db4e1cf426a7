"""Roles and databases that migrations create and drop: they belong to the server, on which many templates are built."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["share_server", "shared"]

_STRINGS = r"""(?:[^;'"$]|'(?:[^']|'')*'|"(?:[^"]|"")*")+"""
_COMMENTS = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
# one statement about roles and no more; CREATE USER MAPPING is something else
_STATEMENT = re.compile(
    rf"(?is){_COMMENTS}(?P<verb>create|drop)\s+(?:role|user|group)\s+(?!mapping\b)(?P<rest>{_STRINGS});?\s*"
)
_DATABASE = re.compile(rf"(?is){_COMMENTS}(?:create|drop)\s+database\b{_STRINGS};?\s*")
_NOTHING = "do $clonedb$ begin null; end $clonedb$"
_NAME = re.compile(r'"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>[^\s,"]+)')

_CREATE = """do $clonedb$ begin
    {statement};
exception when duplicate_object then
    null;
end $clonedb$"""

# What depends on a role in this database, or is a privilege on it, is this history's own
# business.
_DROP = """do $clonedb$ begin
    {statement};
exception when dependent_objects_still_exist then
    if exists (
        select from pg_shdepend d, pg_database b, pg_roles r
        where b.datname = current_database() and r.rolname in ({names}) and d.refobjid = r.oid
              and d.refclassid = 'pg_authid'::regclass
              and (d.dbid = b.oid or (d.classid = 'pg_database'::regclass and d.objid = b.oid))
    ) then
        raise;
    end if;
end $clonedb$"""


def shared(statement: str, created: set[str]) -> str:
    """A statement that creates or drops roles or databases as it is to be on a server that others use.

    No database is made or dropped: env.py makes the application's, in whose place is the one
    being built. A role that is there already, from the last build, is not created again, and
    one that other databases still need stays. `created` has the roles that this history made:
    making one twice is its own mistake.
    """
    if _DATABASE.fullmatch(statement):
        return _NOTHING
    found = _STATEMENT.fullmatch(statement)
    if found is None:
        return statement
    bare = statement[found.start("verb") :].strip().rstrip(";")
    names = [_folded(name) for name in _NAME.finditer(found["rest"])]
    if found["verb"].lower() == "create":
        # the second time is the history's own mistake, which PostgreSQL is to say
        if names[0] in created:
            return statement
        created.add(names[0])
        return _CREATE.format(statement=bare)

    # what was dropped may be created once more
    created.difference_update(names)
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    return _DROP.format(statement=bare, names=quoted)


def share_server(created: set[str]) -> None:
    """Let every SQLAlchemy engine of this process share the server; `created` as in `shared`."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "before_cursor_execute", retval=True)
    def _share(
        connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> tuple[str, Any]:
        if connection.dialect.name == "postgresql":
            statement = shared(statement, created)
        return statement, parameters


def _folded(name: re.Match[str]) -> str:
    return (
        name["quoted"].replace('""', '"')
        if name["quoted"] is not None
        else name["plain"].lower()
    )
