"""Revisions that are elsewhere than the project says, or nowhere."""

from __future__ import annotations

from tests.projects import ALEMBIC_INI, ENV_PY, Project


def test_revisions_that_the_fingerprint_cannot_know_are_told(items: Project) -> None:
    """The build warns of the directory that env.py chose; with it in version_locations the warning is gone."""
    (items.directory / "migrations/versions").rename(items.directory / "elsewhere")
    (items.directory / "migrations/versions").mkdir()
    elsewhere = str(items.directory / "elsewhere")
    choose = f"config = context.config\ncontext.script.version_locations = [{elsewhere!r}]"
    items.write("migrations/env.py", ENV_PY.replace("config = context.config", choose))
    told = items.clonedb("build").demand().err
    assert (
        f"env.py migrated with revisions in {elsewhere!r}, which is not a version location"
        in told
    )
    assert "version_locations under [tool.clonedb.alembic]" in told
    items.settings()
    with (items.directory / "pyproject.toml").open("a") as file:
        file.write('\n[tool.clonedb.alembic]\nversion_locations = "elsewhere"\n')
    assert "elsewhere" not in items.clonedb("build", "--force").demand().err


def test_a_history_without_revisions_is_told(items: Project) -> None:
    """Alembic takes locations that lead nowhere for an empty history; so does the build, but not without a word."""
    items.write("alembic.ini", ALEMBIC_INI + "version_locations = migrations/version\n")
    told = items.clonedb("build").demand().err
    location = str(items.directory / "migrations/version")
    assert f"there is no revision in {location!r}, so the template is an empty database" in told
