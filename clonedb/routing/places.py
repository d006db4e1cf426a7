"""The databases that `route` names, each with the template whose clones stand for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from clonedb.errors import ConfigError
from clonedb.postgres.address import Address
from clonedb.routing.environment import EVERYTHING, no_place, variables_in
from clonedb.settings.key import nearest
from clonedb.url import DatabaseURL, redact_url

__all__ = ["DEFAULT", "Places", "Route", "templates_of"]

DEFAULT = "default"
"""The project's own template."""

Route = Sequence[str] | Mapping[str, str]
"""The entries of `route`, or each with the name of a template; without one it is the project's own."""


def templates_of(route: Route) -> Mapping[str, str]:
    """The entries of `route`, each with its template."""
    return route if isinstance(route, Mapping) else dict.fromkeys(route, DEFAULT)


class Places:
    """What is in `route`, read once: names of environment variables, URLs, and "*".

    `source` is the place in the configuration that named them. `shown` is how messages write
    them. Raises ConfigError for a variable that is not set, and for what is not the URL of a
    PostgreSQL database.
    """

    def __init__(self, route: Route, source: str, defaults: Mapping[str, str]) -> None:
        self._templates = templates_of(route)
        self.shown: str = f"route = {_shown(route)} ({source})"
        self.variables: Mapping[str, DatabaseURL] = {
            name: _variable(name, source) for name in variables_in(route)
        }
        urls = {
            entry: DatabaseURL.parse(entry, f"{source}: route")
            for entry in route
            if "://" in entry
        }
        self._addresses = [
            (Address.of(url.conninfo(), defaults), self._templates[entry])
            for entry, url in {**self.variables, **urls}.items()
        ]
        self.labels: Mapping[str, str] = {
            name: _label(self._templates[name]) for name in self.variables
        }

    @property
    def templates(self) -> frozenset[str]:
        """The names of all templates."""
        return frozenset(self._templates.values())

    def stands_for(self, template: str) -> str:
        """The template of `route` that a template's clones stand for: its own, or the project's if it has none."""
        return template if template in self.templates else DEFAULT

    def template_of(self, variable: str) -> str:
        """The template of a variable."""
        return self._templates[variable]

    def of_everything(self) -> str | None:
        """The template of all that is not named, None if that is left alone."""
        return self._templates.get(EVERYTHING)

    def find(self, address: Address) -> str | None:
        """The template of a place that is named, or that variables name while there is no clone; None for others."""
        if address.is_nowhere:
            # without a clone the name of the host says which template's variable it came from
            for name, label in self.labels.items():
                if label and not address.hosts.isdisjoint(no_place(label)):
                    return self._templates[name]
            return DEFAULT
        return next((name for known, name in self._addresses if address.is_at(known)), None)


def _label(template: str) -> str:
    """What tells a template's places apart in the name of a host."""
    # of a template's name what the name of a host may have
    return "" if template == DEFAULT else re.sub("[^a-z0-9]+", "-", template.lower()).strip("-")


def _shown(route: Route) -> str:
    if isinstance(route, Mapping):
        pairs = (f"{redact_url(entry)!r}: {name!r}" for entry, name in route.items())
        return f"{{{', '.join(pairs)}}}"
    return f"[{', '.join(repr(redact_url(entry)) for entry in route)}]"


def _variable(name: str, source: str) -> DatabaseURL:
    """The URL in an environment variable; raises ConfigError."""
    if not (text := os.environ.get(name)):
        raise ConfigError(
            f"{source}: route names the environment variable {name!r}, which is not set{nearest(name, os.environ)};"
            " set it, or write the application's URL itself, or '*' for every PostgreSQL engine"
        )
    return DatabaseURL.parse(text, f"{source}: route: variable {name!r}")
