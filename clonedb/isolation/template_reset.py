"""A clone's lasting connections between two tests: reset, as far as the template's functions let that be enough."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from clonedb.clones.clone import Clone
from clonedb.errors import ServerError
from clonedb.postgres.statements import custom_settings, named_settings, sets
from clonedb.sessions.reset import Renewal, SessionReset

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["TemplateReset", "find_reset"]

# Functions, views, policies, defaults, constraints and triggers that may set or read settings,
# and whether each is an extension's. An expression that does so has a call of current_setting
# or set_config in its tree.
# The numbers are those functions' oids, in pg_proc of every version.
_TEXTS = r"""
with calls (pattern) as (select ':funcid (2077|3294|2078)\M'),
library (class, object) as (select classid, objid from pg_depend where deptype = 'e')
select p.prosrc, exists (select from library where class = 'pg_proc'::regclass and object = p.oid)
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname not in ('pg_catalog', 'information_schema') and p.prosrc ~* 'set|load|discard|deallocate|execute'
union all select pg_get_function_sqlbody(p.oid), false from pg_proc p, calls where p.prosqlbody::text ~ pattern
union all select 'set ' || c, true from pg_proc p, unnest(p.proconfig) c where split_part(c, '=', 1) ~ '[.]'
union all select concat(pg_get_expr(p.polqual, p.polrelid), ' ', pg_get_expr(p.polwithcheck, p.polrelid)), false
          from pg_policy p, calls where concat(p.polqual, p.polwithcheck) ~ pattern
union all select pg_get_expr(d.adbin, d.adrelid), false from pg_attrdef d, calls where d.adbin::text ~ pattern
union all select pg_get_constraintdef(c.oid), false from pg_constraint c, calls where c.conbin::text ~ pattern
union all select pg_get_triggerdef(t.oid), false from pg_trigger t, calls where t.tgqual::text ~ pattern
union all select case r.rulename when '_RETURN' then pg_get_viewdef(r.ev_class) else pg_get_ruledef(r.oid) end, false
          from pg_rewrite r join pg_class c on c.oid = r.ev_class join pg_namespace n on n.oid = c.relnamespace, calls
          where n.nspname not in ('pg_catalog', 'information_schema') and concat(r.ev_qual, r.ev_action) ~ pattern
"""

# in other languages a session has an interpreter with variables of its own, and in C anything
_OTHER_LANGUAGES = """
select exists (
    select from pg_proc p join pg_language l on l.oid = p.prolang
    where l.lanname not in ('internal', 'c', 'sql', 'plpgsql')
          or (l.lanname = 'c' and p.oid >= 16384 and not exists (
              select from pg_depend d where d.deptype = 'e' and d.classid = 'pg_proc'::regclass and d.objid = p.oid)))
"""

# What these give, or what literals in functions that they call mean, is kept in plans. Each
# search_path has its own.
_IN_PLANS = """
select exists (
    select from pg_proc p join pg_language l on l.oid = p.prolang
    where p.oid >= 16384 and not exists (
              select from pg_depend d where d.deptype = 'e' and d.classid = 'pg_proc'::regclass and d.objid = p.oid)
          and (p.provolatile = 'i' and l.lanname not in ('internal', 'c')
               or exists (select from unnest(p.proconfig) c where split_part(c, '=', 1) <> 'search_path')))
"""

_EXTENSIONS = "select e.extname, n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace"
# what these hold in a session until it ends, as a condition
_STATES = (
    ("dblink", "{}.dblink_get_connections() is not null"),
    ("hypopg", "exists (select from {}.hypopg())"),
    ("postgres_fdw", "exists (select from {}.postgres_fdw_get_connections())"),
)
_UNASKED = (
    "orafce",
    "pg_variables",
    "pgtt",
    "session_variable",
)  # which hold something, too, and have no function that shows it

# those that this database or the sessions' role sets come back by RESET, as does what the
# server's configuration sets; another database's do not
_UNSET = """
select name from unnest(%s::text[]) name
where current_setting(name, true) is null and not split_part(name, '.', 1) = any(%s) and not exists (
    select from pg_db_role_setting s, unnest(s.setconfig) c where lower(split_part(c, '=', 1)) = name
        and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
        and s.setrole in (0, (select oid from pg_roles where rolname = coalesce(%s, session_user))))
order by name
"""


class TemplateReset:
    """Resets what stays connected to the clones of one template from test to test.

    `plans` says that plans are discarded in any case, for a caller that does not see functions
    that came and went.
    """

    def __init__(self, *, plans: bool = False) -> None:
        self._plans = plans
        self._reset: SessionReset | None = None
        self._asked = False

    def begin(self, clone: Clone) -> Renewal:
        """Begin to reset the connections that stay open until the next test; what cannot stay is closed."""
        if not self._asked:
            with (
                contextlib.suppress(ServerError),
                contextlib.closing(clone.server.connect(clone.name)) as connection,
            ):
                role = clone.server.config.role
                self._reset = find_reset(connection, role, plans=self._plans)
                self._asked = True
        if self._reset is None:  # also if the test dropped the database, or closed it
            clone.lasting.close()
        return clone.lasting.renew(self._reset or SessionReset())


def find_reset(
    connection: Connection[Any], role: str | None = None, *, plans: bool = False
) -> SessionReset | None:
    """What resets sessions with a database; None if functions in it may leave what no query of a session shows.

    `role` is the one that the sessions have, if it is not the connection's.
    """
    from psycopg.sql import SQL, Identifier, Literal

    row = connection.execute(_OTHER_LANGUAGES).fetchone()
    extensions = dict(connection.execute(_EXTENSIONS).fetchall())
    if row is None or row[0] or any(name in _UNASKED for name in extensions):
        return None
    (in_plans,) = connection.execute(_IN_PLANS).fetchone() or (True,)
    plans = plans or in_plans
    # names of settings that the template's functions may set or read
    settings: set[str] = set()
    for text, of_library in connection.execute(_TEXTS):
        plans = plans or sets(text)
        names = named_settings(text) if of_library else custom_settings(text)
        if names is None:
            return None
        settings |= names

    asked = [sorted(settings), ["plpgsql", *extensions], role]
    unset = connection.execute(_UNSET, asked).fetchall()
    states = [
        SQL(state).format(Identifier(extensions[name]))
        for name, state in _STATES
        if name in extensions
    ]
    states += [
        SQL("pg_catalog.current_setting({}, true) is not null").format(Literal(name))
        for (name,) in unset
    ]
    return SessionReset(tuple(state.as_string(connection) for state in states), plans=plans)
