"""What tests changed of the whole server: undone, or told in words, with the statements that undo it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

from clonedb.postgres.properties import set_as_stored
from clonedb.rewind.server_state import Change, ServerState

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composable, Composed

__all__ = ["Left", "steps", "undo"]

_ATTEMPTS = 3  # two processes that alter one role at the same moment: one fails, "tuple concurrently updated"


class Left(NamedTuple):
    """What stays changed: in words (`made role 'x'`), the statement that undoes it, and why clonedb could not."""

    what: str
    statement: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Step:
    """One change undone: in words, or None for what goes with a role that was made; as statements.

    `setting` are those that the statements cannot say, each with its name and stored value:
    `whose` then sets them.
    """

    what: str | None
    statements: Sequence[Composed]
    shown: str
    whose: Composed | None = None
    setting: Sequence[tuple[str, str]] = ()

    def apply(self, connection: Connection[Any]) -> None:
        """Undo it, in a transaction of its own."""
        # one transaction a step: what cannot be undone does not hinder the rest
        with connection.transaction():
            connection.execute(
                "set local lock_timeout = '2s'; set local statement_timeout = '10s'"
            )
            for statement in self.statements:
                connection.execute(statement)
            for name, value in self.setting:
                assert self.whose is not None  # noqa: S101 - they come together
                set_as_stored(connection, self.whose, name, value)


def undo(
    connection: Connection[Any],
    changes: Sequence[Change],
    before: ServerState,
    now: ServerState,
) -> list[Left]:
    """Undo them as a superuser, on an autocommit connection: what could not be, and why."""
    left = []
    for step in _steps(changes, before, now):
        why = _applied(connection, step) if step.statements else ""
        if why is not None and step.what:
            left.append(Left(step.what, step.shown, why))
    return left


def _applied(connection: Connection[Any], step: _Step) -> str | None:
    """Undo one of them: None, or why it could not be. Raises psycopg's error when the session ended."""
    import psycopg

    why = None
    for _ in range(_ATTEMPTS):
        try:
            step.apply(connection)
        except psycopg.Error as error:
            if connection.closed:
                raise
            # of a role that owns something: `owner of table x`, one line for each object
            detail = (error.diag.message_detail or "").partition("\n")[0]
            why = ": ".join(filter(None, [error.diag.message_primary, detail]))
            # XX000: `tuple concurrently updated`
            if not isinstance(error, psycopg.errors.InternalError_):
                return why
        else:
            return None

    return why


def steps(changes: Sequence[Change], before: ServerState, now: ServerState) -> list[Left]:
    """What they are in words, and how each is undone."""
    return [Left(step.what, step.shown) for step in _steps(changes, before, now) if step.what]


def _steps(changes: Sequence[Change], before: ServerState, now: ServerState) -> Iterator[_Step]:
    """In an order that works: old roles first, what refers to roles by their old names, and new roles last."""
    # 0 is PUBLIC in privileges, and all roles in settings. The old names win: old roles are
    # renamed back before these statements run.
    names = {**now.role_names, **before.role_names, "0": "public"}
    made = {
        change.now["oid"]
        for change in changes
        if change.kind == "role" and not change.before and change.now
    }
    first = [change for change in changes if change.kind == "role" and change.before]
    last = [change for change in changes if change.kind == "role" and not change.before]
    for change in first:
        yield _old_role(change)
    # DROP ROLE comes last, as nothing may refer to a role by then
    for kind, step in _REFERRING.items():
        of_kind = [change for change in changes if change.kind == kind]
        for change in sorted(
            of_kind, key=lambda one: one.before is not None
        ):  # what was made goes first
            yield step(change, names, made)

    for change in last:
        yield _new_role(change)


def _new_role(change: Change) -> _Step:
    name = (change.now or {})["rolname"]
    statement = _composed("drop role {}", name)
    return _Step(f"made role {name!r}", [statement], _shown(statement))


def _old_role(change: Change) -> _Step:
    from psycopg import sql

    before, now = change.before or {}, change.now
    name = before["rolname"]
    if now is None:
        create = _composed("create role {}", name)
        options = [_option(column, before[column]) for column in _COLUMNS if column in before]
        shown = [
            _option(column, before[column], hidden=True)
            for column in _COLUMNS
            if column in before
        ]
        return _Step(
            f"dropped role {name!r}",
            [sql.SQL(" ").join([create, *options])],
            _shown(sql.SQL(" ").join([create, *shown])),
        )

    different = [column for column in _COLUMNS if before.get(column) != now.get(column)]
    statements = []
    if now["rolname"] != name:
        statements.append(_composed("alter role {} rename to {}", now["rolname"], name))
    # what is shown has no password in it
    visible = list(statements)
    if different:
        alter = _composed("alter role {}", name)
        statements.append(
            sql.SQL(" ").join(
                [alter, *(_option(column, before[column]) for column in different)]
            )
        )
        options = [_option(column, before[column], hidden=True) for column in different]
        visible.append(sql.SQL(" ").join([alter, *options]))

    about = [f"renamed to {now['rolname']!r}"] if now["rolname"] != name else []
    about += [_COLUMNS[column].lower() for column in different]
    return _Step(
        f"changed role {name!r} ({', '.join(about)})",
        statements,
        "; ".join(map(_shown, visible)),
    )


def _option(column: str, value: Any, *, hidden: bool = False) -> Composable:
    """An option of CREATE ROLE and ALTER ROLE; a password is the verifier that the server had stored."""
    from psycopg import sql

    word = _COLUMNS[column]
    if isinstance(value, bool):
        return _keyword(word if value else "NO" + word)
    if column == "rolvaliduntil":
        value = value or "infinity"
    if column == "rolpassword" and value is not None and hidden:
        return _keyword(word) + sql.SQL(" ...")
    return _keyword(word) + sql.SQL(" ") + sql.Literal(value)


def _keyword(word: str) -> Composed:
    from psycopg import sql

    return sql.Composed([sql.SQL(word)])


def _membership(change: Change, names: Mapping[str, str], made: set[str]) -> _Step:
    from psycopg import sql

    row = change.now or change.before or {}
    role, member = names[row["roleid"]], names[row["member"]]
    # since 16 a membership may be granted by several roles, each by itself
    by = (
        _composed(" granted by {}", names[row["grantor"]])
        if "set_option" in row
        else _keyword("")
    )  # since 16
    # a membership of a role that a test made goes with that role: no line of its own
    within = bool(made & {row["roleid"], row["member"]})
    if change.before is None:
        statement = _composed("revoke {} from {}", role, member) + by + sql.SQL(" cascade")
        what = f"made role {member!r} a member of {role!r}"
        return _Step(None if within else what, [statement], _shown(statement))

    before = change.before
    options = [
        _composed(f"{word} {'true' if before[column] else 'false'}")
        for column, word in (
            ("admin_option", "admin"),
            ("inherit_option", "inherit"),
            ("set_option", "set"),
        )
        if column in before
    ]
    statement = _composed("grant {} to {}", role, member)
    # 16 and newer say each option; before, GRANT without ADMIN OPTION did not take one away
    if "set_option" in before:
        statements = [statement + sql.SQL(" with ") + sql.SQL(", ").join(options) + by]
    elif before["admin_option"]:
        statements = [statement + sql.SQL(" with admin option")]
    else:
        statements = [statement, _composed("revoke admin option for {} from {}", role, member)]

    word = "changed" if change.now else "ended"
    return _Step(
        f"{word} the membership of role {member!r} in {role!r}",
        statements,
        "; ".join(map(_shown, statements)),
    )


def _setting(change: Change, names: Mapping[str, str], made: set[str]) -> _Step:
    from psycopg import sql

    row = change.now or change.before or {}
    before, now = _settings(change.before), _settings(change.now)
    role, database = row["setrole"], row["database"]
    if role == "0" and database:
        whose, about = _composed("alter database {}", database), f"database {database!r}"
    else:
        whose = (
            _composed("alter role all")
            if role == "0"
            else _composed("alter role {}", names[role])
        )
        about = "all roles" if role == "0" else f"role {names[role]!r}"
        if database:
            whose += _composed(" in database {}", database)
            about += f" in database {database!r}"

    different = sorted(
        name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
    )
    # only those that differ are shown; undone are all, by RESET ALL and what was set before
    shown = [
        whose
        + (
            sql.SQL(" set {} to {}").format(sql.Identifier(name), sql.Literal(before[name]))
            if name in before
            else sql.SQL(" reset {}").format(sql.Identifier(name))
        )
        for name in different
    ]
    return _Step(
        None if role in made else f"changed settings of {about} ({', '.join(different)})",
        # RESET takes away what was added, then `setting` sets what was there
        [whose + sql.SQL(" reset all")],
        "; ".join(map(_shown, shown)),
        whose,
        list(before.items()),
    )


def _settings(row: Mapping[str, Any] | None) -> dict[str, str]:
    # `name=value`, and a value may have further equals signs
    pairs = (text.partition("=") for text in (row or {}).get("setconfig") or ())
    return {name: value for name, _, value in pairs}


def _privilege(change: Change, names: Mapping[str, str], made: set[str]) -> _Step:
    from psycopg import sql

    parameter = str((change.now or change.before or {})["parameter"])
    before, now = _grants(change.before), _grants(change.now)
    statements = []
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) == now.get(key):
            continue
        grantee, privilege = key
        who = sql.SQL("public") if grantee == "0" else sql.Identifier(names[grantee])
        # an extension's parameter has a dot in its name, and both parts are identifiers
        what = [_keyword(_PRIVILEGES[privilege]), sql.Identifier(*parameter.split(".")), who]
        # REVOKE also where GRANT follows: it takes the grant option away
        if key in now:
            statements.append(
                sql.SQL("revoke {} on parameter {} from {} cascade").format(*what)
            )

        if key in before:
            grant = sql.SQL("grant {} on parameter {} to {}").format(*what)
            statements.append(grant + sql.SQL(" with grant option") if before[key] else grant)

    of_old = any(grantee not in made for grantee, _ in dict(before.items() ^ now.items()))
    return _Step(
        f"changed the privileges on parameter {parameter!r}" if of_old else None,
        statements,
        "; ".join(map(_shown, statements)),
    )


def _grants(row: Mapping[str, Any] | None) -> dict[tuple[str, str], bool]:
    """Whether it may be granted to others, by who has it and what it is."""
    grants = (row or {}).get("grants") or ()
    return {
        (grant["grantee"], grant["privilege_type"]): grant["is_grantable"] for grant in grants
    }


def _tablespace(change: Change, names: Mapping[str, str], made: set[str]) -> _Step:
    """Nothing is done about those: their files may belong to other programs by now."""
    del names, made
    name = (change.before or change.now or {})["spcname"]
    if change.before is None:
        return _Step(
            f"made tablespace {name!r}", [], _shown(_composed("drop tablespace {}", name))
        )
    return _Step(f"{'changed' if change.now else 'dropped'} tablespace {name!r}", [], "by hand")


def _composed(statement: LiteralString, *identifiers: str) -> Composed:
    from psycopg import sql

    return sql.SQL(statement).format(*map(sql.Identifier, identifiers))


def _shown(statement: Composable) -> str:
    return statement.as_string(None)


_COLUMNS: Mapping[str, LiteralString] = MappingProxyType(
    {
        "rolsuper": "SUPERUSER",
        "rolinherit": "INHERIT",
        "rolcreaterole": "CREATEROLE",
        "rolcreatedb": "CREATEDB",
        "rolcanlogin": "LOGIN",
        "rolreplication": "REPLICATION",
        "rolbypassrls": "BYPASSRLS",
        "rolconnlimit": "CONNECTION LIMIT",
        "rolvaliduntil": "VALID UNTIL",
        "rolpassword": "PASSWORD",
    }
)

_PRIVILEGES: Mapping[str, LiteralString] = MappingProxyType(
    {"SET": "set", "ALTER SYSTEM": "alter system"}
)

_REFERRING: Mapping[str, Callable[[Change, Mapping[str, str], set[str]], _Step]] = (
    MappingProxyType(
        {
            "membership": _membership,
            "setting": _setting,
            "privilege": _privilege,
            "tablespace": _tablespace,
        }
    )
)
