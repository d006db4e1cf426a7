"""What the databases clonedb makes say of themselves, in their comments, and a template as that describes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

__all__ = ["Kept", "Metadata", "TemplateRecord"]


def _is_rows(value: object, kinds: tuple[type, ...]) -> bool:
    """Whether a value is a list of lists of some kinds of values."""
    return isinstance(value, list) and all(
        isinstance(row, list) and all(isinstance(each, kinds) for each in row) for row in value
    )


# of each type that a field of Metadata has: whether a value that was read is of it
_SHAPES: Mapping[Any, Callable[[Any], bool]] = MappingProxyType(
    {
        "str": lambda value: isinstance(value, str),
        "str | None": lambda value: value is None or isinstance(value, str),
        "bool": lambda value: isinstance(value, bool),
        # `type() is`, because True is an int
        "int": lambda value: type(value) is int and value >= 0,
        "float": lambda value: type(value) in (int, float),
        "tuple[str, ...]": lambda value: all(isinstance(each, str) for each in value),
        "dict[str, float]": lambda value: (
            isinstance(value, dict)
            and all(type(each) in (int, float) for each in value.values())
        ),
        "list[list[str]]": lambda value: _is_rows(value, (str,)),
        "list[list[str | None]]": lambda value: _is_rows(value, (str, type(None))),
        "list[list[Any]] | None": lambda value: value is None or _is_rows(value, (object,)),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a template's comment says of it; `seconds` its build took, `size` in bytes, `made`
    and `used` (last, to the hour) in Unix time.

    `lane` is the setting `template`: each lane of a project keeps templates of its own.
    `version_tables` are those that Alembic writes to, each with its schema or None. `inputs`
    are the fingerprint's, abbreviated; `settings` and `grants` are the database's own, which
    CREATE DATABASE ... TEMPLATE does not copy, and `comment` the one that the migrations left.
    `layer` is the digest of what was done to get there, `depth` revisions long, when something
    else may be built upon the template; empty otherwise, and `unfit` says why. It is `proven`
    if what failed upon it failed from nothing, too. `upon` names the template that this one was
    built upon. `unlogged` are the unlogged tables that have rows and sequences that were used,
    which a crash of the server empties. `maker` is what made it, if that has no revisions;
    `heads` are empty then, and `revisions` counts the steps of another kind. `hosts` are those that
    used it last, each with the time, once another one than its builder's did.
    """

    project: str
    fingerprint: str
    heads: tuple[str, ...]
    revisions: int
    made: float
    used: float
    by: str
    run: str
    seconds: float
    size: int
    lane: str = "default"
    version_tables: list[list[str | None]] = field(default_factory=list)
    settings: list[list[str | None]] = field(default_factory=list)
    grants: list[list[Any]] | None = None
    comment: str | None = None
    inputs: list[list[str]] = field(default_factory=list)
    layer: str = ""
    depth: int = 0
    unfit: str = ""
    proven: bool = False
    upon: str | None = None
    unlogged: list[list[str]] = field(default_factory=list)
    maker: str = ""
    hosts: dict[str, float] = field(default_factory=dict)

    def used_by_host(self) -> dict[str, float]:
        """When each host used it last; at first that is the host that built it."""
        builder = self.by.rpartition(" on ")[2].partition(",")[0]
        return self.hosts or {builder: self.used}

    @property
    def state(self) -> str:
        """What it holds, in words: `at 3f2a91`."""
        return (
            f"made by {self.maker}"
            if self.maker
            else f"at {', '.join(self.heads) or 'no revision'}"
        )

    def to_json(self) -> str:
        """The comment's text."""
        return json.dumps({"clonedb": asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | None) -> Metadata | None:
        """Read a comment; None when it is not clonedb's, damaged, or of a newer clonedb."""
        try:
            data = json.loads(text or "")["clonedb"]
            # fields that a newer clonedb added raise TypeError
            found = cls(**{**data, "heads": tuple(data["heads"])})
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return (
            found
            # a field's type is its annotation as text, by `from __future__ import annotations`
            if all(_SHAPES[each.type](getattr(found, each.name)) for each in fields(cls))
            else None
        )


@dataclass(frozen=True, slots=True)
class TemplateRecord:
    """A sealed template on a server; `built` says whether this call made it, `copied` whether of another server's."""

    name: str
    metadata: Metadata
    built: bool = False
    copied: bool = False

    @property
    def how(self) -> str | None:
        """What this call did, `built in 2.1 s` or `copied in 0.4 s`; None if the template was there."""
        if not self.built:
            return None
        return f"{'copied' if self.copied else 'built'} in {self.metadata.seconds:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Why a clone outlives its owner; `when` in Unix time, `test` is None for one that was made by hand."""

    project: str
    run: str
    when: float
    test: str | None

    def to_json(self) -> str:
        """The comment's text."""
        data = {"project": self.project, "run": self.run, "when": self.when, "test": self.test}
        return json.dumps({"clonedb": {"kept": data}}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | None) -> Kept | None:
        """Read a comment; None when it does not say that the clone is kept."""
        try:
            return cls(**json.loads(text or "")["clonedb"]["kept"])
        except (ValueError, KeyError, TypeError):
            return None
