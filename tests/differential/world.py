"""Parts that a template may have besides the ordinary ones: what each needs, and the statements that write to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

__all__ = ["PARTS", "Part", "available", "seeds"]

_WORLD = Path(__file__).parent / "world"


@dataclass(frozen=True, slots=True)
class Part:
    """A part is built by `world/<its name>.sql`; it is left out where the server lacks the extension.

    A server that was built without XML has no xml2 either.
    """

    statements: tuple[str, ...]
    extension: str | None = None


def available(extensions: Collection[str]) -> tuple[str, ...]:
    """The names of the parts that a server with these extensions can have."""
    return tuple(
        name
        for name, part in PARTS.items()
        if part.extension is None or part.extension in extensions
    )


def seeds(parts: Collection[str]) -> list[Path]:
    """The files that build some parts, in the table's order."""
    return [_WORLD / f"{name}.sql" for name in PARTS if name in parts]


def _by_id(table: str, *assignments: str) -> tuple[str, ...]:
    """Delete some rows, delete all, delete and insert again, and update some or all."""
    updates = [f"update {table} set {one}" for one in assignments]
    return (
        *updates,
        *(f"{update} where id = <s>" for update in updates),
        f"update {table} set id = -id where id = <s>",
        f"delete from {table} where id = <s>",
        f"delete from {table}",
    )


_UNLOGGED = (
    "insert into scratch (n) values (<n>)",
    "insert into scratch (n) select g from generate_series(1, 300) g",
    "update scratch set n = <n> where id = <s>",
    "delete from scratch where id = <s>",
    "delete from scratch",
    "select * from scratch",
    "select nextval('scratch_id_seq')",
    "select setval('scratch_id_seq', <n>)",
    "update cache set b = b || 'x'",
    "update cache set b = b || 'x'",
    "update cache set b = <t> where a = <i>",
    "delete from cache",
    "delete from cache",
    "delete from cache where a > <i>",
    "insert into cache select g, 'more' from generate_series(1, 100) g",
    "update doubled set b = <t>",
    "delete from doubled where a = <s>",
    "insert into doubled select * from doubled",
    "insert into counter (n) values (<n>)",
    "select nextval('counter_id_seq')",
    "update counter set n = -n",
    "update parts set day = day + 400 where n % 5 = <s>",
    "delete from parts",
    "insert into parts values (<d>, <n>)",
    "vacuum (truncate) cache",
    "vacuum (truncate) cache",
    "vacuum cache",
    "vacuum doubled, scratch",
)

_MOVING = (
    "update line set b = 'q'",
    "update line set b = b || 'x'",
    "update line set b = <t> where a = <i>",
    "update line set b = 'z' where a = <s>",
    "delete from line where a > 10",
    "delete from line where a % 5 = <s>",
    "delete from line",
    "with gone as (delete from line returning *) insert into line select * from gone",
    "insert into line values (99, 'n')",
    "insert into line select g, 'same' from generate_series(1, 20) g",
    "update twins set b = 'q'",
    "update twins set a = <s> where a = <s>",
    "delete from twins where a = <s>",
    "insert into twins select * from twins",
    "with gone as (delete from twins returning *) insert into twins select * from gone",
    "update pages set b = repeat('Page', 60)",
    "update pages set b = <t> where a % 7 = <s>",
    "delete from pages where a > <l>",
    "delete from pages",
    "update keyed set b = 'q'",
    "update keyed set id = id + 100 where id = <i>",
    "delete from keyed where id = <i>",
    "vacuum line",
    "vacuum twins",
    "vacuum (freeze) line, twins, keyed",
    "vacuum (truncate) pages",
    "vacuum pages",
    "vacuum keyed",
    "vacuum",
)

_COMPUTED = (
    *_by_id("visit", "at = at + interval '1 min'", "name = <t>"),
    *_by_id("spoken", "on_day = on_day + 1", "name = <t>"),
    *_by_id("placed", "name = name || 'x'"),
    *_by_id("tag", "name = name || 'x'"),
    *_by_id("stay", "at = at + interval '1 h'", "name = <t>", "n = n + 1"),
)

_TRUNCATION = (
    "truncate keyless",
    "truncate account restart identity cascade",
    "truncate egg, chicken restart identity",
    "truncate large",
    "truncate measure",
    "truncate measure_old",
    "truncate only animal",
    "truncate odd_types, letter",
    "truncate secret continue identity",
    "begin; truncate keyless; insert into keyless values (1, 'after', 0); commit",
    "begin; truncate watched restart identity; insert into watched (n) values (1); commit",
    "begin; truncate large restart identity; rollback",
    "begin; truncate keyless; insert into keyless values (1, 'in vain', 0); rollback",
    "begin; savepoint a; truncate sharing_one; rollback to a; insert into sharing_one (n) values (<n>); commit",
    "begin; truncate letter; insert into letter (body) values (repeat(md5('<n>'), 900)); truncate letter; commit",
)

_PLANS = (
    "set time zone 'Asia/Tokyo'",
    "set time zone 'America/Lima'",
    "set datestyle = 'German, DMY'",
    "reset time zone",
    "select moment()",
    "select moment()",
    "select extract(epoch from timestamptz '2024-01-01 00:00')::text",
    "select extract(epoch from timestamptz '2024-01-01 00:00')::text",
    "select wander()",
    "select wander(); select moment()",
    "begin; create function astray() returns text language sql as 'select now()::text'; select astray(); rollback",
)

_VECTOR = (
    (
        "insert into chunk (body, embedding)"
        " select 'near', array[100, 2, 1 + g * 0.001]::vector from generate_series(1, 60) g"
    ),
    "insert into chunk (body, embedding) values ('one', array[<i>, <s>, 1]::vector)",
    "update chunk set embedding = array[7, 0, <s>]::vector where id <= 60",
    "update chunk set body = <t> where id = <i>",
    "delete from chunk where id between <i> and <i> + 20",
    (
        "insert into chunk_flat (body, embedding)"
        " select 'near', array[100, 2, 1 + g * 0.001]::vector from generate_series(1, 60) g"
    ),
    "update chunk_flat set embedding = array[7, 0, <s>]::vector where id <= 60",
    "delete from chunk_flat where id % 5 = <s>",
    "insert into chunk_half values (<n>, '[1,1,1]', 3::bit(8))",
    "update chunk_half set embedding = '[3,2,1]' where id < <i>",
    "delete from chunk_half where id = <i>",
    "select * from chunk order by embedding <-> '[100,2,1]' limit 5",
)

_TABLES_OF_EXTENSIONS = {
    "pg_trgm": _by_id("phrase", "body = body || 'x'", "other = <t>"),
    "btree_gist": (
        *_by_id("hotel", "price = -price"),
        "insert into hotel (room, during) values (<n>, '[2030-01-01,2030-01-02)')",
    ),
    "hstore": _by_id("pairs", "data = data || hstore('new', <t>)", "datas = array[data]"),
    "bloom": (
        *_by_id("filter", "a = a + 1", "c = <t>"),
        "insert into filter (a, c) values (<n>, <t>)",
    ),
    "ltree": _by_id("tree", "path = path || 'x'", "paths = paths || 'c.d'::ltree"),
}

PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "unlogged": Part(_UNLOGGED),
        "moving": Part(_MOVING),
        "computed": Part(_COMPUTED),
        "xml": Part(_by_id("doc", "body = '<z/>'", "bodies = array[body]"), "xml2"),
        "nulls": Part(
            (
                *_by_id("list", "tags = '{}'"),
                *_by_id("list", "id = id + 100"),
                "update numbers set numbers = '{}' where id = <s>",
            )
        ),
        "checks": Part(
            (
                *_by_id("item", "name = <t>"),
                *_by_id("labelled", "name = 'other'"),
                *_by_id("metered", "n = n + 1"),
                "insert into item values (<n>, 'new')",
            )
        ),
        "replicated": Part((*_by_id("steady", "n = n + 1"), *_by_id("mirrored", "n = n + 1"))),
        "truncation": Part(_TRUNCATION),
        "plans": Part(_PLANS),
        "vector": Part(_VECTOR, "vector"),
        **{name: Part(statements, name) for name, statements in _TABLES_OF_EXTENSIONS.items()},
    }
)
"""`truncation` needs no tables of its own, and `replicated` ones that a rewinding may have to refuse."""
