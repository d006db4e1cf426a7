"""The names of the databases clonedb makes: composed, recognised, and told from everybody else's.

A name is `<prefix>_<kind>_<what>_..._<mark>`. The mark is a checksum of the rest, so a database
carries the proof that clonedb made it from the instant it exists, even when the process that
ran CREATE DATABASE was killed right after: a COMMENT would have to come in a second statement.
A database whose mark does not fit is never touched.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from clonedb.errors import ConfigError

__all__ = [
    "Kind",
    "Name",
    "clone_name",
    "new_owner",
    "parse",
    "template_name",
    "unfinished_name",
]

Kind = Literal["template", "unfinished", "clone"]

_LETTERS: Mapping[Kind, str] = MappingProxyType(
    {"template": "t", "unfinished": "b", "clone": "c"}
)
_KINDS: Mapping[str, Kind] = MappingProxyType(
    {letter: kind for kind, letter in _LETTERS.items()}
)
_PREFIX = r"[a-z][a-z0-9_]{0,23}"
_NAME = rf"(?P<prefix>{_PREFIX})_(?P<kind>[tbc])_(?P<rest>[0-9a-z_]+)_(?P<mark>[0-9a-f]{{6}})"
_OWNER_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


class Name(NamedTuple):
    """What the name of one of our databases says: its kind, the fingerprint's beginning, and who owns it."""

    text: str
    kind: Kind
    fingerprint: str
    owner: str | None


def new_owner() -> str:
    """A random name for a process that is going to own databases: 50 bits, ten characters."""
    return "".join(_OWNER_ALPHABET[byte % 32] for byte in os.urandom(10))


def template_name(prefix: str, fingerprint: str) -> str:
    """The one name of the template with this fingerprint, the same for every process."""
    return _marked(prefix, "template", fingerprint[:12])


def unfinished_name(prefix: str, fingerprint: str, owner: str, number: int) -> str:
    """The private name of a template that is being built."""
    return _marked(prefix, "unfinished", f"{fingerprint[:12]}_{owner}_{number}")


def clone_name(prefix: str, fingerprint: str, owner: str, number: int) -> str:
    """The name of an owner's clone; `number` counts the owner's databases."""
    return _marked(prefix, "clone", f"{fingerprint[:6]}_{owner}_{number}")


def parse(prefix: str, text: str) -> Name | None:
    """What a database's name says, or None when clonedb did not make it under this prefix."""
    match = re.fullmatch(_NAME, text)
    if (
        not match
        or match["prefix"] != prefix
        or match["mark"] != _mark(text.rpartition("_")[0])
    ):
        return None
    fingerprint, _, rest = match["rest"].partition("_")
    return Name(text, _KINDS[match["kind"]], fingerprint, rest.partition("_")[0] or None)


def _marked(prefix: str, kind: Kind, rest: str) -> str:
    if not re.fullmatch(_PREFIX, prefix):
        raise ConfigError(
            f"prefix is {prefix!r}; it takes a lower-case letter and up to 23 lower-case letters, digits and"
            " underscores, because a database's name has 63 bytes at most"
        )
    body = f"{prefix}_{_LETTERS[kind]}_{rest}"
    return f"{body}_{_mark(body)}"


def _mark(body: str) -> str:
    return hashlib.sha256(b"made by clonedb: " + body.encode()).hexdigest()[:6]
