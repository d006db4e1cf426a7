"""The settings clonedb has: the one table that options, variables, checks and `clonedb config` are made from.

pytest loads this in every run there is, so it imports next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from clonedb.quantities import bytes_of
from clonedb.settings.key import Key, parts, words
from clonedb.settings.urls import split_urls

__all__ = ["ISOLATIONS", "KEYS", "MAKERS", "TEMPLATE_KEYS"]


ISOLATIONS = ("auto", "clone", "rollback", "truncate", "migrate", "worker", "readonly")

# the settings that make the schema, of which a template has one at most
MAKERS = ("alembic_ini", "metadata", "schema", "migrate")

# what a named template may say of its own; anything else is the project's
TEMPLATE_KEYS = frozenset(
    {
        *(
            "alembic_ini",
            "alembic_section",
            "alembic",
            "x",
            "prepare",
            "target",
            "metadata",
            "schema",
            "migrate",
            "seed",
            "extensions",
            "roles",
            "locale",
            "watch",
            "watch_env",
            "salt",
        ),
        "base",
    }
)

_ALL = (
    Key(
        "url",
        tuple,
        None,
        "URL of the PostgreSQL server to use, or several; without one, an embedded server is run",
        split=split_urls,
    ),
    Key(
        "servers",
        int,
        1,
        "how many embedded servers the workers share; 'auto' is one for each 8 workers",
        minimum=1,
        word="auto",
    ),
    Key(
        "maintenance_database",
        str,
        "postgres",
        "database for administrative statements and locks",
    ),
    Key("connect_timeout", float, 5.0, "seconds to wait for a connection", minimum=0.1),
    Key(
        "postgres_bin",
        str,
        None,
        "directory with the binaries of the embedded server (postgres, initdb)",
    ),
    Key("state_dir", str, None, "directory for the embedded server, locks and indexes"),
    Key(
        "data",
        str,
        "auto",
        "where the embedded server's data are; in memory they take half of it at most",
        choices=("auto", "memory", "disk"),
    ),
    Key(
        "server",
        dict,
        {},
        "PostgreSQL's parameters for the embedded server: another table is another server",
    ),
    Key(
        "idle_timeout",
        float,
        10.0,
        "seconds the embedded server lives on after its last user",
        minimum=0.1,
    ),
    Key(
        "prefix",
        str,
        "clonedb",
        "what the name of every database that clonedb makes begins with",
    ),
    Key(
        "alembic_ini",
        str,
        None,
        "path of alembic.ini or pyproject.toml; found in the project if not given",
    ),
    Key("alembic_section", str, "alembic", "section of alembic.ini (alembic's -n)"),
    Key(
        "alembic",
        dict,
        {},
        "Alembic's main options, set or overridden; {url} stands for the URL",
    ),
    Key("x", tuple, (), "arguments for env.py (alembic's -x)"),
    Key(
        "prepare",
        str,
        None,
        "package.module:function that is called with Alembic's Config before env.py runs",
    ),
    Key("target", str, "heads", "revision to migrate the template to"),
    Key(
        "metadata",
        tuple,
        (),
        "package.module:Base.metadata, whose tables are the schema, in place of migrations",
        split=parts,
    ),
    Key(
        "schema", tuple, (), "SQL files that make the schema, for a project without migrations"
    ),
    Key(
        "migrate",
        tuple,
        (),
        "command that makes the schema: `python manage.py migrate`; run without a shell",
        split=words,
    ),
    Key(
        "seed",
        tuple,
        (),
        "SQL files, dumps, CSV files and package.module:function callables that fill the template",
    ),
    Key("extensions", tuple, (), "extensions to create before the migrations run"),
    Key("roles", tuple, (), "roles to create when the server lacks them"),
    Key(
        "locale",
        str,
        None,
        "locale of the template: en_US.UTF-8, icu:en-US, builtin:C.UTF-8; else the server's",
    ),
    Key("watch", tuple, (), "globs of further files that the template depends on"),
    Key(
        "watch_env",
        tuple,
        (),
        "environment variables that the template depends on: another value is another template",
    ),
    Key("salt", str, "", "any text; a different one gives a different template"),
    Key("base", str, None, "named template that this one is built upon"),
    Key("template", str, "default", "named template that tests get"),
    Key(
        "templates",
        dict,
        {},
        "named templates, each a table of settings that differ from the project's",
    ),
    Key("driver", str, None, "driver in the URLs handed out (psycopg, psycopg2, asyncpg, ...)"),
    Key(
        "role",
        str,
        None,
        "role that tests and the application connect as; without it, the one of the server's URL",
    ),
    Key(
        "role_password", str, None, "password of that role on a server of your own", secret=True
    ),
    Key(
        "route",
        tuple,
        (),
        "variables that hold the application's database URL, such URLs, or '*' for all of them;"
        " or a table of these, each with the name of a template",
    ),
    Key("autouse", bool, False, "give every test a database without being asked"),
    Key("isolation", str, "auto", "what a test gets", choices=ISOLATIONS),
    Key(
        "strategy",
        str,
        "auto",
        "how CREATE DATABASE copies",
        choices=("auto", "file_copy", "wal_log"),
    ),
    Key("lock_timeout", float, 600.0, "seconds to wait for somebody else's build", minimum=0),
    Key(
        "lease_timeout",
        float,
        20.0,
        "seconds after which a host that is cut off has lost what it locked on the url's server",
        minimum=2,
    ),
    Key("migrate_timeout", float, 600.0, "seconds that `migrate` may take", minimum=0.1),
    Key(
        "keep",
        str,
        "failed",
        "whose clones are kept after the test",
        choices=("failed", "all", "none"),
    ),
    Key("keep_count", int, 3, "how many kept clones a project has at most", minimum=0),
    Key(
        "keep_templates",
        int,
        5,
        "how many templates a project keeps for each host, by last use",
        minimum=1,
    ),
    Key("keep_days", float, 30.0, "days without a use after which a template goes", minimum=0),
    Key(
        "keep_bytes",
        int,
        10 * 1024**3,
        "how large a project's templates are together at most (20GB)",
        minimum=0,
        count=bytes_of,
    ),
    Key(
        "max_clones",
        int,
        100,
        "how many clones a server has at most, of all processes; others wait",
        minimum=1,
    ),
    Key("rebuild", bool, False, "build the template anew, once for the run"),
    Key(
        "frozen",
        bool,
        False,
        "never build a template: fail if it is not there, and say which command builds it",
    ),
    Key("echo", bool, False, "print every SQL statement of SQLAlchemy's engines"),
    Key(
        "report",
        bool,
        False,
        "say at the end what became of the databases after their tests, and why",
    ),
    Key(
        "verify",
        bool,
        False,
        "compare each rewound database with a new clone: slow, for anybody who doubts",
    ),
    Key("off", bool, False, "skip the tests that need a database"),
)

KEYS: Mapping[str, Key] = MappingProxyType({key.name: key for key in _ALL})
