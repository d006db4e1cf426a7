"""URLs of PostgreSQL databases: read, changed in one part only, shown without their password.

SQLAlchemy has a URL class, but importing it costs 130 ms, and a test that only uses psycopg
never needs it.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from clonedb.errors import ConfigError

__all__ = ["DatabaseURL", "Hidden", "redact", "redact_url"]

# People do not escape every @ of a password, so it ends at the last one before a space. Reports
# that shorten long values with three dots (pydantic's) cut URLs in the middle of the password.
# The bounds keep long lines of output from costing seconds. All expressions here are compiled
# on first use, which most runs have none of: together they cost 2 ms.
_CREDENTIALS = r"(?<=://)([^\s:\[]{0,200}):\S{0,2000}@"
_BEGINNING = r"(?<=://)([^\s:\[]{0,200}):[^\s@]{0,200}?\.{3}"
_END = r"(?<!\.)\.{3}[^\s@]{0,200}@"

# what a parameter or variable with a password is called, and what may follow its value
_NAME = r"\w*pass(?:word|wd|file)?"
_STOP = r"(?=['\"]?[\])},;.]*(?:\s|$))"
_IN_QUERY = rf"(?i)([?&]{_NAME}=)(?:[^\s&]+?{_STOP}|[^\s&]+)"
_QUOTED = r"""\\*'(?:[^'\\]|\\+[^\\]|'')*'|\\*"(?:[^"\\]|\\+[^\\])*"|\\*['"].*"""
# a traceback's line with SQLAlchemy's hide_password=False tells no password
_SHOWN = r"(?!hide_password\s*=)"
_PARAMETER = (
    rf"(?i)(?<![?&\w]){_SHOWN}({_NAME})"
    rf"(?:(\\*['\"]?\s*[=:]\s*)(?:{_QUOTED})|(\s*=\s*)(?:\\+[^\\]|\S)+?{_STOP})"
)
# of SQL: `PASSWORD '...'`
_LITERAL = rf"(?i)\b({_NAME}\s+)\\*'(?:[^']|'\\*')*'"

# up to the last @: all between the user and that is the password
_WHOLE = r"(?s)\A((?:[\w+.=-]*://)?[^:/?]*):.*@"
_REST = r"""(?sx)
    (?: (?P<user>[^:/?]*) (?: :(?P<password> (?: [^?] | \?(?!\w+=) )* ) )? @ )?  # an @ after ?name= is a parameter's
    (?P<hosts>[^/?]*) (?: /(?P<database>[^?]*) )? (?: \?(?P<query>.*) )?
    """
_HOST = r"(?:\[(?P<address>[^\[\]]+)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]*))?"
_HOST_AND_PORT = r"[a-zA-Z0-9.-]*:[0-9]+"
_PARTS = frozenset({"host", "port", "user", "password", "dbname", "database"})


def redact(text: str) -> str:
    """The text with the password of every URL and connection string in it replaced by `***`.

    Where it cannot know the end of a password it hides too much rather than too little.
    """
    # whole URLs first; what is left are those that were cut: their beginnings, and their ends
    text = re.sub(
        _END,
        "...***@",
        re.sub(_BEGINNING, r"\1:***...", re.sub(_CREDENTIALS, r"\1:***@", text)),
    )
    # parameters in a URL, then in other texts, then in SQL
    return re.sub(
        _LITERAL, r"\1***", re.sub(_PARAMETER, r"\1\2\3***", re.sub(_IN_QUERY, r"\1***", text))
    )


def redact_url(text: str) -> str:
    """A text that is one URL, or was meant as one, without its password, which may hold any character."""
    return re.sub(_WHOLE, r"\1:***@", redact(text))


class Hidden(str):
    """A password, or a URL with one, that is not shown to who asks what there is in a variable.

    pytest's `--showlocals` shows the variables of a failure: when an engine cannot connect,
    SQLAlchemy's, in one of which is all that is said to the driver. So it goes into
    `connect_args`, which win over the engine's URL.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class DatabaseURL(NamedTuple):
    """A URL as SQLAlchemy writes it: `postgresql+driver://user:password@host:port/database?query`.

    Parts that are not given are None and stay out of the text, so that libpq's environment
    variables and service files fill them in. Parts that were given as parameters
    (`?host=/tmp&user=me`, which libpq and SQLAlchemy let win) stand where they belong: a
    `dbname` left in the query would lead a changed URL to the old database. `host` is a
    directory for a unix socket, or several names with commas; their ports, if they differ, are
    the parameter `port`.
    """

    driver: str | None = None
    user: str | None = None
    password: str | None = None
    host: str | None = None
    port: int | None = None
    database: str | None = None
    query: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str, source: str = "url") -> DatabaseURL:
        """Read a URL; raises ConfigError when it is not one of a PostgreSQL database."""
        scheme, colon, rest = text.strip().partition("://")
        dialect, _, driver = scheme.partition("+")
        if not colon or dialect not in ("postgresql", "postgres"):
            raise ConfigError(
                f"{source}: {redact_url(text)!r} is not the URL of a PostgreSQL server; write postgresql://host/name"
            )

        match = re.fullmatch(_REST, rest)
        assert match is not None  # noqa: S101 - every part may be empty
        user, password, database = (
            match[part] and unquote(match[part]) for part in ("user", "password", "database")
        )
        # `?password=` is an empty password, and not none
        pairs = parse_qsl(match["query"] or "", keep_blank_values=True)
        named = dict(pairs)
        host, ports = _host_and_ports(match["hosts"], pairs, source)
        query = [(name, value) for name, value in pairs if name not in _PARTS]
        # one port is a part of its own; several belong to hosts in their order
        if len(set(ports)) > 1:
            query.append(("port", ",".join(ports)))
        return cls(
            driver=driver or None,
            user=named.get("user", user) or None,
            password=named.get("password", password),
            host=host,
            port=int(ports[0]) if len(set(ports)) == 1 and ports[0] else None,
            database=named.get("dbname", named.get("database", database)) or None,
            query=tuple(query),
        )

    def replace(self, **parts: object) -> DatabaseURL:
        """A copy with some parts changed."""
        return self._replace(**parts)  # type: ignore[arg-type]

    def render(self) -> str:
        """The URL as text, password included: for programs, never for people."""
        scheme = f"postgresql+{self.driver}" if self.driver else "postgresql"
        user = quote(self.user, safe="") if self.user is not None else ""
        password = f":{quote(self.password, safe='')}" if self.password is not None else ""
        at = "@" if user or password else ""
        host, port, query = self.host or "", self.port, self.query
        if (
            "/" in host or "," in host
        ):  # SQLAlchemy does not unescape a host, and reads several as parameters only
            query = (("host", host), *((("port", str(port)),) if port else ()), *query)
            host, port = "", None

        host = f"[{host}]" if ":" in host else quote(host, safe="")
        place = f"{host}:{port}" if port else host
        database = (
            f"/{quote(self.database, safe='')}" if self.database else "/" if query else ""
        )

        # libpq reads a + as a plus, SQLAlchemy as a space; %20 is a space for both
        parameters = "?" + urlencode(query, safe="/,:", quote_via=quote) if query else ""
        return f"{scheme}://{user}{password}{at}{place}{database}{parameters}"

    def conninfo(self) -> dict[str, str]:
        """The keywords libpq understands; parameters that only a driver knows (asyncpg's) are left out."""
        from psycopg import pq

        known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
        parts = {
            "user": self.user,
            "password": self.password,
            "host": self.host,
            "port": self.port,
        }
        keywords = {name: value for name, value in self.query if name in known}
        # `ssl` is asyncpg's, with values of libpq's sslmode or true and false
        if "sslmode" not in keywords and (ssl := dict(self.query).get("ssl")):
            keywords["sslmode"] = {"true": "require", "false": "disable"}.get(ssl.lower(), ssl)
        keywords |= {name: str(value) for name, value in parts.items() if value is not None}
        if self.database:
            keywords["dbname"] = self.database
        return keywords

    def __str__(self) -> str:
        return redact(self.render())

    def __repr__(self) -> str:
        return f"DatabaseURL({str(self)!r})"


def _host_and_ports(
    authority: str, parameters: list[tuple[str, str]], source: str
) -> tuple[str | None, tuple[str, ...]]:
    """The host, or several with commas, and a port for each; parameters win over the place before the path.

    libpq writes `h1:1,h2:2` or `?host=h1,h2&port=1,2`, SQLAlchemy `?host=h1:1&host=h2:2`.
    """
    named = dict(parameters)
    hosts = [value for name, value in parameters if name == "host"]
    with_ports = len(hosts) > 1 or (
        hosts and "port" not in named and re.fullmatch(_HOST_AND_PORT, hosts[0])
    )
    names, ports = [], []
    for place in hosts if with_ports else authority.split(","):
        match = re.fullmatch(_HOST, place)
        if not match:
            raise _bad_port(place, source)
        names.append(match["address"] or match["name"])
        ports.append(match["port"] or "")

    # before the path a socket's directory is written with %2F
    host = ",".join(names) if with_ports else hosts[0] if hosts else unquote(",".join(names))
    if "port" in named:
        ports = named["port"].split(",")
    for port in ports:
        if port and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
            raise _bad_port(host, source)

    return host or None, tuple(ports)


def _bad_port(place: str, source: str) -> ConfigError:
    # what stands after the colon may be the password of a URL whose author forgot the host
    name = place.partition(":")[0]
    return ConfigError(
        f"{source}: the port after {name!r} is not a number from 1 to 65535; an IPv6 address stands in brackets"
    )
