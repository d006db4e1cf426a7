"""Large objects brought back to the template's: what a test made is unlinked, what it wrote to is written again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from clonedb.postgres.message import Results, Row, number, text
from clonedb.rewind.facts import RefusedError

__all__ = ["CONTENTS", "OBJECTS", "Objects", "objects_of", "put_back"]

Objects: TypeAlias = Mapping[int, tuple[str, str]]
"""By oid the digests of an object's owner and privileges, and of its pages."""

_CHANGED = "a large object of the template was unlinked, or has other privileges"
_SPARSE = "a large object of the template cannot be written as it was"
_WRITING = 0x20000  # INV_WRITE

OBJECTS = """
select m.oid::bigint, pg_catalog.md5(pg_catalog.to_jsonb(m)::text),
       coalesce((select pg_catalog.md5(pg_catalog.string_agg(p.pageno::text || ' ' || pg_catalog.md5(p.data), ','
                                                             order by p.pageno))
                 from pg_catalog.pg_largeobject p where p.loid = m.oid and p.data <> ''), '')
from pg_catalog.pg_largeobject_metadata m
"""
"""The statement for all objects of a database. Truncating one leaves a page without a byte."""

CONTENTS = "select pg_catalog.encode(pg_catalog.lo_get({}), 'hex')"
"""The statement for what is in one object."""


def objects_of(rows: Iterable[Row]) -> Objects:
    """The rows of `OBJECTS`."""
    return {number(oid): (text(rights), text(pages)) for oid, rights, pages in rows}


def put_back(
    ask: Callable[[Iterable[str]], Results], template: Objects, contents: Callable[[int], str]
) -> None:
    """Undo what was written to large objects, in the transaction that the session is in.

    `contents` gives what the template has in an object, in hexadecimal digits. Raises
    RefusedError for an object that only its owner could make again, and for one with holes,
    which cannot be written.
    """
    (rows,) = ask([OBJECTS])
    present = objects_of(rows)
    # who made an object again would give it another owner: that is compared, too
    if any(
        oid not in present or present[oid][0] != rights for oid, (rights, _) in template.items()
    ):
        raise RefusedError(_CHANGED)

    statements = [
        f"select pg_catalog.lo_unlink({oid})" for oid in present if oid not in template
    ]
    for oid, (_, pages) in template.items():
        if present[oid][1] != pages:
            # lo_put() overwrites and never shortens: the object is emptied first. The
            # descriptor that lo_truncate() needs is closed with the transaction.
            statements += [
                f"select pg_catalog.lo_truncate(pg_catalog.lo_open({oid}, {_WRITING}), 0)",
                f"select pg_catalog.lo_put({oid}, 0, '\\x{contents(oid)}')",
            ]

    # holes have no pages in the template and are pages of zeros after lo_put()
    if objects_of(ask([*statements, OBJECTS])[-1]) != template:
        raise RefusedError(_SPARSE)
