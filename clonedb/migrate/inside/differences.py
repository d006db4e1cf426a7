"""What the models of env.py have that a migrated database has not, and the other way round, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clonedb.migrate.inside.environment import AlembicEnvironment

__all__ = ["differences"]


def differences(environment: AlembicEnvironment) -> dict[str, Any]:
    """What `alembic check` finds, `lines` of it, or `missing` if env.py gives Alembic no models to compare with.

    `missing` is what there is instead: "None", or "empty", where no module with models was
    imported.

    Found by Alembic's own code for that command, so that include_object, compare_type,
    process_revision_directives and whatever else env.py says has its effect. Nothing is written
    to the database.
    """
    from alembic.autogenerate import RevisionContext

    arguments = {
        "message": None,
        "autogenerate": True,
        "sql": False,
        "head": "head",
        "splice": False,
    }
    arguments |= {
        "branch_label": None,
        "version_path": None,
        "rev_id": None,
        "depends_on": None,
    }
    found = RevisionContext(None, environment.script, arguments)  # type: ignore[arg-type]  # for rendering
    given: list[str] = []

    def look(heads: Any, context: Any) -> list[Any]:
        given.append(_given(context.opts["target_metadata"]))
        if given[-1] == "models":
            found.run_autogenerate(heads, context)
        return []

    options = {"template_args": found.template_args, "revision_context": found}
    environment.run(look, command=("check",), dont_mutate=True, **options)
    if "models" not in given:
        return {"missing": "empty" if "empty" in given else "None"}
    operations = [
        part for script in found.generated_revisions for part in script.upgrade_ops_list
    ]
    lines = dict.fromkeys(
        line for part in operations for diff in part.as_diffs() for line in _lines(diff)
    )
    return {"lines": list(lines)}


def _given(metadata: Any) -> str:
    """What env.py gives Alembic as target_metadata: models, no tables, or nothing."""
    if metadata is None:
        return "None"
    several = metadata if isinstance(metadata, (list, tuple)) else [metadata]
    return "models" if any(each.tables for each in several) else "empty"


def _lines(diff: Any) -> Iterator[str]:
    if isinstance(diff, list):  # the changes of one column
        for each in diff:
            yield from _lines(each)
    else:
        yield _line(*diff)


def _line(kind: str, *what: Any) -> str:
    verb, _, thing = kind.partition("_")
    if kind in ("add_table", "remove_table"):
        return f"{verb} table {_name(what[0].schema, what[0].name)}"
    if kind in ("add_column", "remove_column"):
        schema, table, column = what
        return f"{verb} column {_name(schema, table, column.name)} ({column.type!r})"

    if kind in ("add_index", "remove_index"):
        unique = (
            "unique " if what[0].unique and verb == "add" else ""
        )  # Alembic 1.13 forgets it of one to remove
        return f"{verb} {unique}index {what[0].name!r} on {_columns(what[0].table, what[0].expressions)}"

    if kind in ("add_constraint", "remove_constraint", "add_fk", "remove_fk"):
        named = f" {what[0].name!r}" if what[0].name else ""
        sort = {"fk": "foreign key"}.get(thing) or what[0].__visit_name__.replace("_", " ")
        return f"{verb} {sort}{named} on {_columns(what[0].table, what[0].columns)}"

    if kind in ("add_table_comment", "remove_table_comment"):
        return f"{verb} the comment of table {_name(what[0].schema, what[0].name)}"
    return (
        _changed(thing, *what)
        if verb == "modify"
        else " ".join([kind.replace("_", " "), *map(str, what)])
    )


def _changed(
    thing: str, schema: str | None, table: str, column: str, _: Any, *values: Any
) -> str:
    """A column's property, as it is in the database and in the models."""
    old, new = map(
        {"nullable": lambda value: str(value).lower(), "default": _default}.get(thing, repr),
        values,
    )
    sort = "server default" if thing == "default" else thing
    return f"column {_name(schema, table, column)}: {sort} changed from {old} to {new}"


def _default(value: Any) -> str:
    value = getattr(value, "arg", value)  # of a DefaultClause: a string, or a text()
    return "none" if value in (None, False) else str(value)


def _name(*parts: str | None) -> str:
    return repr(".".join(part for part in parts if part))


def _columns(table: Any, columns: Any) -> str:
    names = [getattr(column, "name", None) or str(column) for column in columns]
    return f"{_name(table.schema, table.name)} ({', '.join(names)})"
