"""An env.py that takes its revisions from elsewhere than the project says."""

from __future__ import annotations

from tests.projects import ENV_PY, Project


def test_revisions_that_the_fingerprint_cannot_know_are_told(items: Project) -> None:
    """The build warns of the directory that env.py chose; with it in version_locations the warning is gone."""
    (items.directory / "migrations/versions").rename(items.directory / "elsewhere")
    (items.directory / "migrations/versions").mkdir()
    elsewhere = str(items.directory / "elsewhere")
    choose = f"config = context.config\ncontext.script.version_locations = [{elsewhere!r}]"
    items.write("migrations/env.py", ENV_PY.replace("config = context.config", choose))
    told = items.clonedb("build").demand().err
    assert f"env.py migrated with revisions in {elsewhere!r}, which is not a version location" in told
    assert "version_locations under [tool.clonedb.alembic]" in told
    items.settings()
    with (items.directory / "pyproject.toml").open("a") as file:
        file.write('\n[tool.clonedb.alembic]\nversion_locations = "elsewhere"\n')
    assert "elsewhere" not in items.clonedb("build", "--force").demand().err
