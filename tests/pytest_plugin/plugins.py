"""Runs of pytest with the plugins that a test names and no other."""

from __future__ import annotations

from tests.projects import Outcome, Project

ASYNCIO = ("-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function")
STRICT = (*ASYNCIO, "--asyncio-mode=strict")
AUTO = (*ASYNCIO, "--asyncio-mode=auto")
ANYIO = ("-p", "anyio")
XDIST = ("-p", "xdist", "-n", "2")


def run(project: Project, *arguments: str) -> Outcome:
    """Run pytest with clonedb and the plugins that the arguments name; a warning is an error."""
    environment = {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
    }
    return project.pytest("-p", "clonedb", *arguments, "-W", "error", "-rA", **environment)


def mark(plugin: tuple[str, ...]) -> str:
    """A statement that defines `mark`, which tells a plugin that a test is its own."""
    if plugin == AUTO:
        return "def mark(test): return test"
    return f"mark = pytest.mark.{'anyio' if plugin == ANYIO else 'asyncio'}"


def anyio_backends(*names: str) -> str:
    """A conftest for anyio, which runs a test on every backend that is installed unless it is told which."""
    return f"import pytest\n\n@pytest.fixture(params={names})\ndef anyio_backend(request): return request.param\n"
