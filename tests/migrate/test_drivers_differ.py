"""Migrations that were written for psycopg2 and fail by psycopg: the error says so."""

from __future__ import annotations

import pytest

from tests.projects import ALEMBIC_INI, Project

COLUMN = 'op.execute("create table item (n int)")'
FOR_PSYCOPG2 = (
    'op.execute(sa.table("item", sa.column("n", sa.String)).update().values(n=sa.literal("0")))'
)
ADVICE = 'driver = "psycopg2" in [tool.clonedb], or postgresql+psycopg2:// in the URL that env.py reads'
WRONG = "op.execute(\"update item set n = 'x'::text\")"


@pytest.mark.parametrize("named_in", ["the setting", "alembic.ini"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_value_that_psycopg_sends_with_a_type(
    project: Project, driver: str, named_in: str
) -> None:
    """psycopg2 writes '0' into the statement, which is a number where one is needed; psycopg sends a text."""
    if named_in == "the setting":
        project.settings(driver=driver)
        project.write("alembic.ini", ALEMBIC_INI.replace("postgresql+psycopg:", "postgresql:"))
    else:
        project.write(
            "alembic.ini", ALEMBIC_INI.replace("postgresql+psycopg:", f"postgresql+{driver}:")
        )
    project.revision("one", COLUMN)
    project.revision("two", FOR_PSYCOPG2)
    built = project.clonedb("build")
    assert (built.code == 0) == (driver == "psycopg2"), built.text
    assert ("DatatypeMismatch" in built.err) == (driver == "psycopg")
    assert (ADVICE in built.err) == (driver == "psycopg")


def test_a_statement_that_is_wrong_for_psycopg2_too(project: Project) -> None:
    """No other driver is advised where psycopg2 runs already."""
    project.write(
        "alembic.ini", ALEMBIC_INI.replace("postgresql+psycopg:", "postgresql+psycopg2:")
    )
    project.revision("one", COLUMN)
    project.revision("two", WRONG)
    built = project.clonedb("build").demand(1)
    assert "DatatypeMismatch" in built.err
    assert ADVICE not in built.err
