"""What Alembic was found to have done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clonedb.errors import CloneDBError, MigrationError

__all__ = ["Branches", "Direction", "Migrated", "NoModelsError", "Stair", "about_left_out"]

Direction = Literal["upgrade", "downgrade", "second upgrade"]


class NoModelsError(MigrationError):
    """env.py gives Alembic no models (target_metadata is None), so that nothing can be compared with them."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did: the revisions the database is at, those it ran, their files, and the data files it read.

    `variables` are those of the environment that the project's own code asked for.
    `version_tables` are the tables in which Alembic keeps the revisions, each with its schema
    if env.py names one. `left_behind` are settings that a revision changed for the rest of its
    session (`SET search_path`). `doubled` are the ids that several files have, with those
    files: Alembic runs one of them. `left_out` is what the server said of statements in seeds
    that were skipped: they name roles or parameters that it does not have.
    """

    heads: tuple[str, ...]
    revisions: tuple[str, ...]
    scripts: tuple[Path, ...]
    read: tuple[Path, ...]
    version_tables: tuple[tuple[str, str | None], ...] = ()
    left_behind: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    doubled: tuple[tuple[str, tuple[Path, ...]], ...] = ()


def about_left_out(migrated: Migrated) -> list[str]:
    """What to say of statements that were skipped."""
    if not migrated.left_out:
        return []
    told = (
        f"statements were left out, because {'; '.join(migrated.left_out)}; roles = [...] in [tool.clonedb] names roles"
        " to create"
    )
    return [told]


@dataclass(frozen=True, slots=True)
class Branches:
    """A history's heads, each with the labels of its branch, and the revisions that a target means.

    `doubled` as in `Migrated`.
    """

    heads: Mapping[str, frozenset[str]]
    meant: tuple[str, ...]
    doubled: tuple[tuple[str, tuple[Path, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stair:
    """One revision that went up, down and up again: the seconds of each step that worked, and what became of it.

    `failed` is the step that did not work, and `error` says why; `irreversible` that it failed
    because the revision has no downgrade: there is no such function, or all it does is to raise
    NotImplementedError. `number` of `total` says how far along it is; after a failure that
    leaves the database unfit no other follows.
    """

    revision: str
    path: Path
    message: str
    number: int
    total: int
    up: float | None = None
    down: float | None = None
    again: float | None = None
    failed: Direction | None = None
    irreversible: bool = False
    error: CloneDBError | None = None
