"""The rows that the service keeps in the maintenance database: leases, and templates that callers filled."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass

__all__ = ["LeaseRow", "TemplateRow", "digest_of", "from_bytes", "to_bytes"]


@dataclass(slots=True)
class LeaseRow:
    """A database in the hands of a caller; `seen` is when a client was last connected to it.

    `template` is the hash or name that it was asked by, `project` the directory of the project
    that makes the template, if one does. `oid` is the database's number.
    """

    database: str
    oid: int
    id: int
    lease: str
    template: str
    project: str | None
    holder: str
    since: dt.datetime
    seen: dt.datetime | None = None
    kept: bool = False


@dataclass(slots=True)
class TemplateRow:
    """A template that a caller fills or has filled: `sealed` says when, None while it is being filled."""

    hash: str
    database: str
    holder: str
    begun: dt.datetime
    used: dt.datetime
    sealed: dt.datetime | None = None


def digest_of(hash_: str) -> str:
    """What stands for a hash in names and as a key: 64 hexadecimal digits, however long it is and whatever is in it."""
    return hashlib.sha256(to_bytes(hash_)).hexdigest()


def to_bytes(text: str) -> bytes:
    """A caller's text as PostgreSQL's bytea: its text takes no NUL, and UTF-8 no half of a pair."""
    return text.encode("utf-8", "surrogatepass")


def from_bytes(data: bytes) -> str:
    """The text again."""
    return data.decode("utf-8", "surrogatepass")
