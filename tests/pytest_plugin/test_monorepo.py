"""Several projects in one repository: pytest's rootdir is above them all."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.projects import PYTEST, Project, ran

TEST = "import psycopg\ndef test_it(clonedb_connection):\n    clonedb_connection.execute('select * from item')\n"


@pytest.fixture
def service(make_project: Callable[[str], Project]) -> Project:
    """One project of two, with tests of its own, below a directory that has pytest's configuration."""
    make_project("other")
    project = make_project("shop")
    project.items()
    project.settings(autouse=True)
    project.write("tests/test_it.py", TEST)
    (project.directory.parent / "pytest.ini").write_text(
        "[pytest]\naddopts = --import-mode=importlib\n"
    )
    return project


def test_a_project_is_found_from_its_tests(service: Project) -> None:
    """From the service's directory, and from the top by the tests' names; also by xdist's workers."""
    outcome = service.pytest("-n", "1").demand()
    assert f"rootdir: {service.directory.parent}\n" in outcome.out
    assert "clonedb: embedded server, isolation 'auto' (default)" in outcome.out
    top = service.directory.parent
    ran(
        [*PYTEST, "shop/tests/test_it.py::test_it"], cwd=top, environment=service.environment
    ).demand()


def test_tests_of_several_projects_have_the_one_above_them(service: Project) -> None:
    """There is none here, which says where one is nearby."""
    (service.directory.parent / "other/test_other.py").write_text(TEST)
    top = service.directory.parent
    outcome = ran(
        [sys.executable, "-m", "pytest", "shop", "other"],
        cwd=top,
        environment=service.environment,
    ).demand(1)
    assert "nearby there is 'other/alembic.ini', 'shop/alembic.ini'" in outcome.out
