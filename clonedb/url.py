"""URLs of PostgreSQL databases: read, changed in one part only, shown without their password.

SQLAlchemy has a URL class, but importing it costs 130 ms, and a test that only uses psycopg never needs it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from clonedb.errors import ConfigError

__all__ = ["DatabaseURL", "redact"]

_CREDENTIALS = re.compile(r"(?<=://)([^:@/?#\s'\"]*):([^\s'\"]*)@")
_PARAMETER = re.compile(r"(?i)\b((?:ssl)?pass(?:word|file)?)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&'\"]+)")


def redact(text: str) -> str:
    """The text with the password of every URL and connection string in it replaced by `***`."""
    return _PARAMETER.sub(r"\1\2***", _CREDENTIALS.sub(r"\1:***@", text))


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """A URL as SQLAlchemy writes it: `postgresql+driver://user:password@host:port/database?query`.

    Parts that are not given are None and stay out of the text, so that libpq's environment variables and service
    files fill them in.
    """

    driver: str | None = None
    user: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    database: str | None = None
    query: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)

    @classmethod
    def parse(cls, text: str, source: str = "url") -> DatabaseURL:
        """Read a URL; raises ConfigError when it is not one of a PostgreSQL database."""
        scheme, colon, rest = text.partition("://")
        dialect, _, driver = scheme.partition("+")
        if not colon or dialect not in ("postgresql", "postgres"):
            shown = redact(text)
            raise ConfigError(
                f"{source}: {shown!r} is not the URL of a PostgreSQL server; write postgresql://host/name"
            )
        # a password may hold any character that its author did not escape, so the last @ before the path divides
        authority, slash, tail = rest.partition("?")[0], "", rest.partition("?")[2]
        credentials, at, place = authority.rpartition("@")
        place, slash, database = place.partition("/")
        user, has_password, password = credentials.partition(":")
        host, port = _host_and_port(place, source)
        return cls(
            driver=driver or None,
            user=unquote(user) if at and user else None,
            password=unquote(password) if has_password else None,
            host=host,
            port=port,
            database=unquote(database) if slash and database else None,
            query=tuple(parse_qsl(tail, keep_blank_values=True)),
        )

    def replace(self, **parts: object) -> DatabaseURL:
        """A copy with some parts changed."""
        return dataclasses.replace(self, **parts)  # type: ignore[arg-type]

    def render(self) -> str:
        """The URL as text, password included: for programs, never for people."""
        scheme = f"postgresql+{self.driver}" if self.driver else "postgresql"
        user = quote(self.user, safe="") if self.user is not None else ""
        password = f":{quote(self.password, safe='')}" if self.password is not None else ""
        at = "@" if user or password else ""
        host = f"[{self.host}]" if self.host and ":" in self.host else quote(self.host or "", safe=",")
        port = f":{self.port}" if self.port else ""
        database = f"/{quote(self.database, safe='')}" if self.database else "/" if self.query else ""
        query = "?" + urlencode(self.query) if self.query else ""
        return f"{scheme}://{user}{password}{at}{host}{port}{database}{query}"

    def conninfo(self) -> dict[str, str]:
        """The keywords libpq understands; parameters that only a driver knows (asyncpg's) are left out."""
        from psycopg import pq

        known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
        parts = {"user": self.user, "password": self.password, "host": self.host, "port": self.port}
        keywords = {name: value for name, value in self.query if name in known}
        if "sslmode" not in keywords and (ssl := dict(self.query).get("ssl")):
            keywords["sslmode"] = {"true": "require", "false": "disable"}.get(ssl.lower(), ssl)
        keywords |= {name: str(value) for name, value in parts.items() if value is not None}
        if self.database:
            keywords["dbname"] = self.database
        return keywords

    def __str__(self) -> str:
        return redact(self.render())


def _host_and_port(place: str, source: str) -> tuple[str | None, int | None]:
    parts = urlsplit("//" + place)
    try:
        port = parts.port
    except ValueError:
        raise ConfigError(f"{source}: the port in {place!r} is not a number from 0 to 65535") from None
    host = place.rpartition(":")[0] if port is not None else place.rstrip(":")
    return unquote(host.removeprefix("[").removesuffix("]")) or None, port
