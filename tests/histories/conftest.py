"""The published histories, each installed into an environment of its own, once for all runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.published import (
    HISTORIES,
    Environment,
    InstallationError,
    NotInstalledError,
    install,
)
from tests.histories.usage import Usage


@pytest.fixture(scope="session", params=HISTORIES, ids=lambda history: history.name)
def published(request: pytest.FixtureRequest) -> Environment:
    """A history's environment: installed by the first run, and found in the user's cache directory by later ones."""
    try:
        return install(request.param)
    except NotInstalledError as error:
        pytest.skip(str(error))
    except InstallationError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def usage(
    published: Environment, tmp_path: Path, environment: dict[str, str], run_id: str
) -> Usage:
    """A project that migrates with what is installed; all workers of the run share its template."""
    published.history.write_project(tmp_path)
    return Usage(
        published,
        tmp_path,
        {**environment, "CLONEDB_PREFIX": f"h{run_id[:5]}_{published.history.name}"},
    )


@pytest.fixture
def copy(
    published: Environment, tmp_path: Path, environment: dict[str, str]
) -> tuple[Usage, Path]:
    """A project with a copy of the migrations that may be edited, and the directory they are in."""
    directory = published.history.write_copy(tmp_path, published.site_packages)
    return Usage(published, tmp_path, environment), directory
