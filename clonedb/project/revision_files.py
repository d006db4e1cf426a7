"""Which files of a directory Alembic loads as revisions."""

from __future__ import annotations

from collections.abc import Collection, Iterator

__all__ = ["compiled_revisions", "is_revision"]

_NEVER = (".#", "__init__")


def is_revision(name: str) -> bool:
    """Whether Alembic loads a file of this name in a version location as a revision; hidden ones are."""
    # alembic.script.base says it by an expression in which the name is one line
    return name.endswith(".py") and not name.startswith(_NEVER) and "\n" not in name


def compiled_revisions(names: Collection[str], cached: Collection[str]) -> Iterator[str]:
    """The compiled files that Alembic loads in a directory, too, if it is told to be `sourceless`.

    They are those beside whose name no source is, of the directory's own files and of those
    `cached` in its `__pycache__`; `a.pyc` is preferred to `a.pyo`.
    """
    for name in names:
        if (
            _is_compiled(name)
            and name[:-1] not in names
            and not (name.endswith("o") and f"{name[:-1]}c" in names)
        ):
            yield name
    # `a.cpython-313.pyc` is compiled from `a.py`
    sources = {name.partition(".")[0] for name in names}
    for name in cached:
        if _is_compiled(name) and name.partition(".")[0] not in sources:
            yield f"__pycache__/{name}"


def _is_compiled(name: str) -> bool:
    return name.endswith((".pyc", ".pyo")) and not name.startswith(_NEVER) and "\n" not in name
