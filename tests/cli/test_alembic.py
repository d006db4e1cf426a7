"""`clonedb alembic`: Alembic's own commands on a fresh clone, for people who have no server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cli.conftest import Command
from tests.projects import ENV_PY, Project, databases

MODELS = """
import sqlalchemy as sa

metadata = sa.MetaData()
sa.Table("item", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text, nullable=False))
"""

MAKO = '''"""${message}"""
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

from alembic import op
import sqlalchemy as sa

def upgrade():
    ${upgrades if upgrades else "pass"}

def downgrade():
    ${downgrades if downgrades else "pass"}
'''


@pytest.mark.campaign("long")
def test_a_first_revision_and_a_second(project: Project, admin_dsn: str, prefix: str) -> None:
    """Each is what the models have more than the migrations, and nothing of it is in a database yet."""
    project.write("shop.py", MODELS)
    project.write("migrations/script.py.mako", MAKO)
    project.write(
        "migrations/env.py",
        ENV_PY.replace(
            "target_metadata = None", "import shop\n\ntarget_metadata = shop.metadata"
        ),
    )
    outcome = project.clonedb("alembic", "revision", "--autogenerate", "-m", "first").demand()
    (first,) = (project.directory / "migrations/versions").glob("*_first.py")
    assert str(first) in outcome.out
    assert "op.create_table('item'" in first.read_text()
    assert databases(admin_dsn, f"{prefix}_c_") == []

    project.write(
        "shop.py",
        MODELS.replace('sa.Column("name"', 'sa.Column("price", sa.Integer), sa.Column("name"'),
    )
    project.clonedb(
        "alembic", "-x", "tenant=test", "revision", "--autogenerate", "-m", "second"
    ).demand()
    (second,) = (project.directory / "migrations/versions").glob("*_second.py")
    assert "op.add_column('item', sa.Column('price'" in second.read_text()
    assert "(head), second" in project.clonedb("alembic", "history").demand().out
    assert project.clonedb("alembic", "current").demand().out.strip().endswith("(head)")
    assert databases(admin_dsn, f"{prefix}_c_") == []


def test_alembics_own_errors(
    items: Project, cli: Command, clones: Callable[[], list[str]]
) -> None:
    """Are Alembic's, with its exit codes; the clone is dropped."""
    assert (
        "Can't locate revision identified by 'never'"
        in cli("alembic", "upgrade", "never", code=255).text
    )
    refused = cli("alembic", "nonsense", code=2).err
    assert refused.startswith("usage: clonedb alembic [")
    assert "invalid choice: 'nonsense'" in refused
    assert clones() == []
