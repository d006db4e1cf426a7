"""What every test uses in a project that says `autouse = true`; in others this is not loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from clonedb.pytest_plugin.lending import Request, lend
from clonedb.pytest_plugin.options import marker_of
from clonedb.pytest_plugin.routing import (
    entered,
    is_routed,
    left,
    other_templates,
    taken_back,
)
from clonedb.pytest_plugin.run import run_of

if TYPE_CHECKING:
    from clonedb.api import Template
    from clonedb.clones.database import Database
    from clonedb.settings.config import Config

__all__ = ["between_tests", "pytest_itemcollected", "without_asking"]

_BETWEEN, _FOR_TEST = (
    "_clonedb_between_tests",
    "_clonedb_without_asking",
)  # pytest --fixtures lists them with -v only


@pytest.fixture(scope="session", autouse=True, name=_BETWEEN)
def between_tests(
    request: pytest.FixtureRequest, clonedb_config: Config, clonedb_template: Template
) -> Iterator[None]:
    """What the project's own fixtures of a wider scope than a test reach: the process's clone, never reset."""
    __tracebackhide__ = True
    if not is_routed(request.config):  # nothing would lead there
        yield
        return

    # the other templates first, the project's own last
    own = clonedb_config.template
    run, at_end = run_of(request.config), request.session.addfinalizer
    with contextlib.ExitStack() as stack:
        for name in other_templates(request.config, own):
            other = run.template(clonedb_config, name, (), at_end)
            stack.enter_context(_standing_in(request, other, name))
        stack.enter_context(_standing_in(request, clonedb_template, own))
        yield


@contextlib.contextmanager
def _standing_in(
    request: pytest.FixtureRequest, template: Template, name: str
) -> Iterator[None]:
    run = run_of(request.config)
    with run.process_state.unpatched():
        mode = run.supply(template, request.session.addfinalizer).isolation("worker")
        # without a loan: nothing that was opened on it is refused, however late it comes
        database = mode.database(mode.acquire(), None)

    entered(request.config, database, name, stands_in=True)
    yield
    left(request.config, database)
    mode.release(database.clone)
    taken_back(request.config)


@pytest.fixture(autouse=True, name=_FOR_TEST)
def without_asking(
    request: pytest.FixtureRequest, clonedb_config: Config, clonedb: Database
) -> Iterator[None]:
    """The test's own clone, and one of each other template that `route` names."""
    __tracebackhide__ = True
    # only asked for, so that pytest makes it before this
    del clonedb
    own = marker_of(request.node).template or clonedb_config.template
    with contextlib.ExitStack() as stack:
        for name in other_templates(request.config, own):
            lent = contextlib.contextmanager(lend)
            stack.enter_context(lent(request, Request(template=name)))
        yield


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put ours before the project's autouse fixtures of the same scope: its conftest was loaded before this."""
    names: list[str] = getattr(item, "fixturenames", [])
    if _BETWEEN not in names:
        return
    names.remove(_BETWEEN)
    names.insert(0, _BETWEEN)
    # pytest's order is by scope, the widest first: before the first one of a test's scope
    definitions = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]  # noqa: SLF001 - no public way
    names.remove(_FOR_TEST)
    narrow = (index for index, name in enumerate(names) if _is_of_a_test(definitions.get(name)))
    names.insert(next(narrow, len(names)), _FOR_TEST)


def _is_of_a_test(definitions: object) -> bool:
    """Whether the last of a fixture's definitions, which is the one that counts, has the scope of one test."""
    return (
        isinstance(definitions, (list, tuple))
        and bool(definitions)
        and definitions[-1].scope == "function"
    )
