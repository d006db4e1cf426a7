"""How a server is reached: by clonedb itself, and by those whom it hands a URL."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from clonedb.postgres import libpq_variables
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL, Hidden

if TYPE_CHECKING:
    from clonedb.embedded.leases import Lease

__all__ = ["Access", "embedded_access", "external_access"]

# libpq's keywords of where a server is
_PLACE = ("host", "hostaddr", "port", "service", "servicefile")


class Access(NamedTuple):
    """How a server is reached: `own` are clonedb's keywords for libpq, `public` is the URL handed out (no database).

    `place` is a text that two servers do not share, without any password. `answers` are the
    parameters that take back what libpq's variables would make of such a URL.
    """

    own: Mapping[str, str]
    public: DatabaseURL
    about: str
    place: str
    answers: Mapping[str, str] = MappingProxyType({})

    def answered(self, url: DatabaseURL) -> DatabaseURL:
        """A URL of the server with the answers that its driver takes, each by the name that it has there."""
        driver = url.driver or ""
        if driver.startswith("psycopg"):
            return url.replace(query=(*url.query, *self.answers.items()))
        if driver != "asyncpg":
            return url
        named = (
            (libpq_variables.ASYNCPG[name], value)
            for name, value in self.answers.items()
            if name in libpq_variables.ASYNCPG
        )
        return url.replace(query=(*url.query, *named))


def external_access(config: Config) -> Access:
    """How the server of the configured URL is reached; what libpq's variables say now is said from now on."""
    url = DatabaseURL.parse(config.url or "", config.source("url"))
    driver = config.driver or url.driver or "psycopg"
    keywords = url.conninfo()
    if (
        "service" not in keywords
    ):  # a test may change the environment, and connections are opened while it runs
        keywords = {**libpq_variables.defaults(), **keywords}
        for name in ("service", "servicefile"):
            keywords.pop(name, None)

    own = {
        name: Hidden(value) if name == "password" else value for name, value in keywords.items()
    }
    place = " ".join(f"{name}={own[name]}" for name in _PLACE if name in own)
    return Access(own, url.replace(database=None, driver=driver), f"server {str(url)!r}", place)


def embedded_access(config: Config, lease: Lease) -> Access:
    """How the embedded server is reached: on its socket by clonedb, on loopback TCP by everybody else."""
    # a PGHOSTADDR of the environment would win over the socket, and a PGREQUIREPEER refuse its
    # owner
    answers = libpq_variables.against_environment()
    own = {
        **answers,
        "host": str(lease.socket_dir),
        "hostaddr": "",
        "port": str(lease.port),
        "user": lease.user,
    }
    own["requirepeer"] = ""
    if "require_auth" in answers:
        own["require_auth"] = "none"  # no password is needed there
    with contextlib.suppress(KeyError):  # an account without a name, as in some containers
        import pwd

        own["requirepeer"] = pwd.getpwuid(
            lease.uid
        ).pw_name  # every account may take the name of a dead server's socket

    public = DatabaseURL(
        driver=config.driver or "psycopg",
        user=lease.user,
        password=lease.password,
        host="127.0.0.1",
        port=lease.port,
    )
    # only one of several is called by its number
    which = "" if config.number is None else f" {config.number + 1}"
    about = f"embedded server{which} (PostgreSQL {lease.binaries.version})"
    return Access(own, public, about, str(lease.data_dir), answers)
