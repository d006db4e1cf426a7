"""Where a connection goes: read from the arguments of connect(), and changed in them, in the words of each driver."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from clonedb.errors import ConfigError
from clonedb.postgres.libpq_variables import ASYNCPG, of_service

if TYPE_CHECKING:
    from clonedb.url import DatabaseURL

__all__ = [
    "ADDRESS",
    "NO_DATABASE",
    "NO_DIRECTORY",
    "NO_HOST",
    "Address",
    "aimed_at",
    "current_database",
    "reached",
    "redirect",
]

ADDRESS = frozenset(
    {
        *(
            "host",
            "hostaddr",
            "port",
            "user",
            "password",
            "passfile",
            "dbname",
            "database",
            "service",
            "dsn",
        ),
        *(
            "unix_sock",
            "target_session_attrs",
            "load_balance_hosts",
            "channel_binding",
            "requirepeer",
            "require_auth",
        ),
        *(
            "gssencmode",
            "krbsrvname",
            "ssl",
            "ssl_context",
            "direct_tls",
            "sslmode",
            "sslnegotiation",
            "sslcert",
        ),
        *(
            "sslkey",
            "sslpassword",
            "sslrootcert",
            "sslcrl",
            "sslcrldir",
            "sslcertmode",
            "conninfo",
            "servicefile",
        ),
    }
)
"""What says where a connection goes and who connects; `options` (search_path, timeouts) is the caller's and stays."""

NO_HOST = "no-database-in-this-test.use-a-clonedb-fixture.invalid"
"""The host of a server that does not exist (RFC 6761): drivers and psql show it when they cannot connect."""

NO_DIRECTORY = "/no-database-in-this-test/use-a-clonedb-fixture"
"""The directory of its socket."""

NO_DATABASE = "no_database_in_this_test__use_a_clonedb_fixture"

_TEXTS = (
    "dsn",
    "conninfo",
)  # asyncpg's and psycopg2's name of a connection string, and psycopg's
_ASYNCPG_TAKES = ("sslmode", "target_session_attrs")  # beyond the address and the user
_ASYNCPG_SENDS = (
    "application_name",
    "options",
)  # what asyncpg takes from a connection string as a server's setting


@dataclass(frozen=True, slots=True)
class Address:
    """A database and the addresses it may be reached at; all ways to this machine are one address."""

    addresses: frozenset[tuple[str, str]]
    database: str

    @classmethod
    def of(cls, keywords: Mapping[str, Any], defaults: Mapping[str, str]) -> Address:
        """The place that a driver's keywords lead to, libpq's defaults filled in.

        A list of hosts or ports (asyncpg's) and one text with commas (libpq's) are the same.
        """
        given = {name: value for name, value in keywords.items() if value not in (None, "", [])}
        # libpq connects to hostaddr where both are given
        named = given.get("hostaddr") or given.get("host") or given.get("unix_sock")
        hosts = _parts(named or defaults.get("hostaddr") or defaults.get("host") or "")
        ports = _parts(given.get("port") or defaults.get("port") or "5432")
        # libpq: a single port is that of every host
        if len(ports) != len(hosts):
            ports = [ports[0]] * len(hosts)
        # libpq calls a database as the user, whom PGUSER names where the keywords do not
        user = given.get("user") or defaults.get("user") or ""
        database = given.get("dbname") or defaults.get("dbname") or user
        return cls(
            frozenset((_host(host), port) for host, port in zip(hosts, ports, strict=True)),
            str(database),
        )

    @property
    def is_nowhere(self) -> bool:
        """Whether that is the place that variables name while no test has a clone."""
        return self.database == NO_DATABASE or any(
            host.endswith(NO_HOST) or host.startswith(NO_DIRECTORY)
            for host, _ in self.addresses
        )

    @property
    def hosts(self) -> frozenset[str]:
        """The names of its hosts; `localhost` for all of this machine."""
        return frozenset(host for host, _ in self.addresses)

    def is_at(self, other: Address) -> bool:
        """Whether both may be the same database."""
        if self.database != other.database:
            return False
        return not self.addresses.isdisjoint(
            other.addresses
        ) or not self._known_as().isdisjoint(other._known_as())

    def _known_as(self) -> set[tuple[str, str]]:
        """The addresses with all that their hosts' names stand for: this machine has several of both."""
        return {(name, port) for host, port in self.addresses for name in _names(host)}

    def __str__(self) -> str:
        if self.is_nowhere:
            return repr(self.database)
        return f"{self.database!r} at {','.join(sorted(f'{host}:{port}' for host, port in self.addresses))}"


@cache
def _names(host: str) -> frozenset[str]:
    """A host's own name and its addresses; `localhost` if one of them is this machine's."""
    import _socket  # `socket.getaddrinfo` may be pytest-socket's, or a mock

    found = {host}
    with contextlib.suppress(OSError, UnicodeError):  # a name that is not known, or no name
        for family, _, _, _, address in _socket.getaddrinfo(host, 0, 0, _socket.SOCK_DGRAM):
            found.add(str(address[0]))
            with contextlib.suppress(OSError):
                probe = _socket.socket(family, _socket.SOCK_DGRAM)
                try:
                    probe.bind(
                        (address[0], 0)
                    )  # which the kernel allows for this machine's addresses only
                    found.add("localhost")
                finally:
                    probe.close()

    return frozenset(found)


def _parts(value: Any) -> list[str]:
    return (
        [str(part) for part in value]
        if isinstance(value, (list, tuple))
        else str(value).split(",")
    )


def _host(name: str) -> str:
    name = name.lower()
    # what no test may reach is not this machine's, although it looks like a socket's directory
    if name.startswith(NO_DIRECTORY):
        return name
    # a directory and a name in Linux's abstract namespace (@) are Unix sockets
    local = name in ("", "localhost", "::1", "0.0.0.0") or name.startswith(("/", "@", "127."))  # noqa: S104 - compared
    return "localhost" if local else name


def aimed_at(
    positional: list[Any], keywords: Mapping[str, Any], defaults: Mapping[str, str]
) -> Address:
    """The place that the arguments of a driver's connect() lead to; a keyword wins over a connection string."""
    found: dict[str, Any] = {}
    for text in _connection_strings(positional, keywords):
        found |= _parsed(text)
    given = {
        name: value for name, value in keywords.items() if name in ADDRESS and value is not None
    }
    if "database" in given:  # asyncpg's word for dbname, and psycopg2's second one
        given["dbname"] = given.pop("database")
    found |= given
    if found.get("service"):  # what that says wins over the environment
        defaults = of_service(str(found["service"]), found.get("servicefile"))
    return Address.of(found, defaults)


def redirect(
    url: DatabaseURL, driver: str, positional: list[Any], keywords: dict[str, Any]
) -> None:
    """Change the arguments of a driver's connect() so that they lead to a URL, and nothing else about them."""
    rest: dict[str, str] = {}
    for text in _connection_strings(positional, keywords):
        rest |= {name: value for name, value in _parsed(text).items() if name not in ADDRESS}
    # what the connection strings said beside the address is in `rest`
    positional[:] = [part for part in positional if not isinstance(part, str)]
    for name in ADDRESS.intersection(keywords):
        del keywords[name]
    if driver.startswith("psycopg"):
        # a keyword wins over a connection string, as it does in the driver
        keywords |= {**rest, **keywords}
    elif driver == "asyncpg" and rest:
        # asyncpg has no keywords for these: it sends them as settings of the session
        settings = {name: rest[name] for name in _ASYNCPG_SENDS if name in rest}
        keywords["server_settings"] = {**settings, **(keywords.get("server_settings") or {})}

    directions = _directions(url, driver)
    if "options" in keywords:  # the caller's win over those that take PGOPTIONS away
        directions.pop("options", None)
    keywords.update(directions)


def _connection_strings(positional: list[Any], keywords: Mapping[str, Any]) -> Iterator[str]:
    for text in (*positional, *(keywords.get(name) for name in _TEXTS)):
        if isinstance(text, str) and text.strip():
            yield text


def _parsed(text: str) -> dict[str, str]:
    """A connection string's parameters; none if it is not one, of which the driver will complain."""
    from psycopg import ProgrammingError, conninfo

    from clonedb.url import DatabaseURL

    try:
        if "://" in text:
            return DatabaseURL.parse(text).conninfo()
        return {
            name: str(value)
            for name, value in conninfo.conninfo_to_dict(text).items()
            if value is not None
        }
    except (ConfigError, ProgrammingError):
        return {}


def _directions(url: DatabaseURL, driver: str) -> dict[str, Any]:
    """The parameters of connect() that lead to a URL, in the words of a driver."""
    keywords: dict[str, Any] = dict(url.conninfo())
    if driver.startswith("psycopg"):
        return keywords
    plain: dict[str, Any] = {
        n: keywords[n] for n in ("host", "port", "user", "password") if n in keywords
    }
    plain["database"] = url.database
    for name, kind in (("host", str), ("port", int)):
        if name in plain:  # asyncpg takes several as lists
            several = [kind(part) for part in plain[name].split(",")]
            plain[name] = several[0] if len(several) == 1 else several

    if driver == "asyncpg":
        plain |= {
            ASYNCPG[name]: keywords[name] for name in _ASYNCPG_TAKES if keywords.get(name)
        }

    return plain


def reached(dbapi_connection: Any, defaults: Mapping[str, str]) -> Address | None:
    """The place that an open connection reached, as far as its driver knows; None for another database system's.

    Nothing is sent to the server for psycopg, psycopg2 and asyncpg, which has it in private
    attributes only.
    """
    connection = getattr(dbapi_connection, "driver_connection", dbapi_connection)
    package = type(connection).__module__.partition(".")[0]
    if package in ("psycopg", "psycopg2"):
        info = connection.info
        return Address.of(
            {"host": info.host, "port": info.port, "dbname": info.dbname}, defaults
        )

    if package == "asyncpg":
        database = getattr(getattr(connection, "_params", None), "database", None)
        address = getattr(connection, "_addr", None)
        # the path of a Unix socket is no tuple
        host, port = address if isinstance(address, tuple) else (address, None)
        return (
            Address.of({"host": host, "port": port, "dbname": database}, defaults)
            if database
            else None
        )

    if package == "pg8000" and (name := current_database(dbapi_connection)) is not None:
        return Address.of({"dbname": name}, defaults)
    return None


def current_database(dbapi_connection: Any) -> str | None:
    """The database a fresh DBAPI connection reached; None for one that is not PostgreSQL's."""
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute("select current_database()")
        return str(cursor.fetchone()[0])
    except Exception:  # noqa: BLE001 - another database system's complaint, of whatever driver
        return None
    finally:
        cursor.close()
        # the query may have begun a transaction
        dbapi_connection.rollback()
