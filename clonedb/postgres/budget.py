"""How many sessions a run will open on a server of the user's, and whether that has so many left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["SESSIONS", "shortage"]

SESSIONS = 7
"""Sessions of one worker under `auto`: with the maintenance database, the witness, the rewinder, and the test's.

One more reads the template's rows where tests update or delete some; where tests cost new clones
one is the pool's, and one is open in a clone that is made ahead.
"""

_OF_MAINTENANCE = 3  # of these are with the maintenance database: the pool's, too

# What runs on this host already are this run's own workers, for the most part. A superuser may
# take the reserved connections, too. Of another role's sessions an ordinary one sees little
# more than that they are there.
_LEFT = """
    with others as (
        select datname, usename from pg_stat_activity
        where datname is not null and coalesce(backend_type, 'client backend') = 'client backend'
              and pid <> pg_backend_pid()
              and not (coalesce(application_name, '') like 'clonedb%'
                       and client_addr is not distinct from inet_client_addr())
    ), us as (select rolname, rolsuper, rolconnlimit from pg_roles where rolname = current_user),
    reserved as (select coalesce(sum(setting::int), 0) as number from pg_settings
                 where name in ('superuser_reserved_connections', 'reserved_connections'))
    select current_setting('max_connections')::int,
           current_setting('max_connections')::int - (select count(*) from others)
               - case when rolsuper then 0 else (select number from reserved) end,
           rolname, case when rolsuper then -1 else rolconnlimit end,
           rolconnlimit - (select count(*) from others where usename = rolname),
           datname, case when rolsuper then -1 else datconnlimit end,
           datconnlimit - (select count(*) from others where datname = d.datname)
    from us, pg_database d where d.datname = current_database()
"""


def shortage(connection: Connection[Any], workers: int) -> str | None:
    """What to say, before a session is refused, of a server on which so many workers find no room; None if they do."""
    row = connection.execute(_LEFT.encode()).fetchone()
    assert row is not None  # noqa: S101 - our role and database are there
    most, left, role, of_role, left_of_role, database, of_database, left_of_database = row
    needed, with_maintenance = workers * SESSIONS, workers * _OF_MAINTENANCE
    limits = [(left, needed, f"max_connections = {most}", "raise max_connections")]
    if of_role >= 0:
        remedy = f'run `ALTER ROLE "{role}" CONNECTION LIMIT {of_role + needed - left_of_role}`'
        limits.append((left_of_role, needed, f"the {of_role} of role {role!r}", remedy))
    if of_database >= 0:
        limit = of_database + with_maintenance - left_of_database
        remedy = f'run `ALTER DATABASE "{database}" CONNECTION LIMIT {limit}`'
        about = f"the {of_database} of database {database!r}"
        limits.append((left_of_database, with_maintenance, about, remedy))

    found = [
        f"{max(0, free)} of {about} are left, {wanted} are needed: {remedy}"
        for free, wanted, about, remedy in limits
        if free < wanted
    ]
    if not found:
        return None
    return (
        f"a run of {workers} {'worker' if workers == 1 else 'workers'} opens up to {SESSIONS} sessions for each;"
        f" {'; '.join(found)}, or run fewer workers (-n)"
    )
