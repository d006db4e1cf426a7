"""What a template is made of, as one digest and the list of its inputs; static, and without a database.

A recipe says what the schema depends on (`clonedb.project.recipe.Recipe.inputs`); the rest,
which is the same for each recipe, is added here.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from clonedb.postgres import libpq_variables
from clonedb.project.inputs import Input, Sources, digest_of
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL

__all__ = [
    "FORMAT",
    "OF_STEPS",
    "Difference",
    "Fingerprint",
    "Input",
    "ServerFacts",
    "Sources",
    "StaleError",
    "differences",
    "fingerprint",
    "surroundings",
]

# Counted up whenever clonedb prepares or seals templates in another way, so that old ones are
# not taken for new.
FORMAT = 3

_ABBREVIATED = 12
OF_STEPS = frozenset({"revision", "import", "target", "seed"})
"""The kinds of inputs that need not be the same in a template and in one that is built upon it."""

_OF_SESSIONS = ("options", "client_encoding")


class StaleError(Exception):
    """The files are no longer those of a fingerprint: they were edited before, or while, they were migrated."""


class ServerFacts(NamedTuple):
    """What a template depends on of the server it is built on.

    `role` is the one that builds it, to whom what the migrations make belongs; empty for a
    superuser, whom PostgreSQL asks for no privileges on what others own.
    """

    major: int
    encoding: str
    locale: str
    role: str


class Fingerprint(NamedTuple):
    """The digest of everything a template is made of (SHA-256, 64 hexadecimal digits), and the inputs, ordered."""

    digest: str
    inputs: tuple[Input, ...]

    @property
    def short(self) -> str:
        """The digest's beginning, as it stands in a template's name."""
        return self.digest[:_ABBREVIATED]

    def abbreviated(self) -> list[list[str]]:
        """Kind, name and the digest's beginning of each input: what a template's comment keeps for `differences`."""
        return [[item.kind, item.name, item.digest[:_ABBREVIATED]] for item in self.inputs]


class Difference(NamedTuple):
    """How one input differs between two fingerprints."""

    change: Literal["added", "removed", "changed"]
    kind: str
    name: str


def fingerprint(
    config: Config, sources: Sources, server: ServerFacts, *, base: str | None = None
) -> Fingerprint:
    """The fingerprint of the template that this configuration, a recipe's `sources` and a server give.

    The same contents give the same digest: where the checkout is, the order in which
    directories are listed and the times of files do not count. `base` is the digest of the
    template that this one is built upon.
    """
    inputs = [*sources.inputs, *_settings(config), *_of_server(server)]
    if base is not None:
        inputs.append(Input("base", config.base or "base", base))
    # the order in which directories are listed must not count
    inputs.sort(key=lambda item: (item.kind, item.name, item.digest))
    listed = json.dumps([(item.kind, item.name, item.digest) for item in inputs])
    return Fingerprint(digest_of(listed), tuple(inputs))


def surroundings(found: Fingerprint, sources: Sources) -> str:
    """The digest of all that a recipe's steps depend on apart from themselves, what they import, and how far they go.

    For Alembic that is env.py, other files of the script location, options, -x, extensions,
    roles, watched files, server and versions: where one of these is another, nothing that was
    migrated before is worth anything. Seeds come later.
    """
    kept = [
        (item.kind, item.name, item.digest)
        for item in found.inputs
        # `watch` says that more than the revisions depends on a module that they import
        if item.kind not in OF_STEPS or (item.kind == "import" and item.name in sources.watched)
    ]
    return digest_of(json.dumps(kept))


def differences(old: Sequence[Sequence[str]], new: Fingerprint) -> list[Difference]:
    """What differs between the inputs of a template (kind, name, digest) and those of a fingerprint, ordered.

    Digests may be abbreviated: they are the same when one begins with the other.
    """
    before = _by_name(old)
    after = _by_name([(item.kind, item.name, item.digest) for item in new.inputs])
    found = []
    for kind, name in sorted(before.keys() | after.keys()):
        was, now = before.get((kind, name), []), after.get((kind, name), [])
        if not was or not now:
            found.append(Difference("added" if now else "removed", kind, name))
        elif len(was) != len(now) or not all(
            _is_same(*pair) for pair in zip(was, now, strict=True)
        ):
            # several inputs may have one kind and name, such as files outside of the project
            found.append(Difference("changed", kind, name))

    return found


def _by_name(inputs: Sequence[Sequence[str]]) -> dict[tuple[str, str], list[str]]:
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, name, digest in sorted(map(tuple, inputs)):
        grouped[kind, name].append(digest)
    return grouped


def _is_same(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _settings(config: Config) -> Iterator[Input]:
    """What the configuration contributes to the template of any recipe, beyond the files it names."""
    for name in sorted(set(config.extensions)):
        yield Input("extension", name, digest_of(name))
    for name in sorted(set(config.roles)):
        yield Input("role", name, digest_of(name))
    if config.locale:
        yield Input("locale", "locale", digest_of(config.locale))
    for name in sorted(set(config.watch_env)):
        value = os.environ.get(name)
        # an empty variable is not the same as none
        yield Input("env", name, digest_of("not set" if value is None else f"is {value}"))
    if config.salt:
        yield Input("salt", "salt", digest_of(config.salt))
    yield from _of_sessions(config)


def _of_sessions(config: Config) -> Iterator[Input]:
    """What the URL of a server and libpq's variables make of the sessions that migrate there.

    On the embedded server those variables are not set.
    """
    if config.url is None:
        return
    found = {name: os.environ[name] for name in libpq_variables.SHAPING if name in os.environ}
    # the service may set `options`; PGOPTIONS would win
    if "PGSERVICE" in os.environ and "PGOPTIONS" not in found:
        found["PGOPTIONS"] = libpq_variables.defaults().get("options", "")
    found |= {
        name: value
        for name, value in DatabaseURL.parse(config.url).query
        if name in _OF_SESSIONS
    }
    for name, value in found.items():
        if value:
            yield Input("session", name, digest_of(value))


def _of_server(server: ServerFacts) -> Iterator[Input]:
    yield Input("format", "format", digest_of(str(FORMAT)))
    yield Input("server", "major", digest_of(str(server.major)))
    yield Input("server", "encoding", digest_of(server.encoding))
    yield Input("server", "locale", digest_of(server.locale))
    yield Input("server", "role", digest_of(server.role))
