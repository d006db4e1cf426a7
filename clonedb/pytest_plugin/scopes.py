"""`clonedb.fixture()`: a project's own fixtures, of any scope, that give a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import pytest

from clonedb.errors import ConfigError
from clonedb.pytest_plugin.lending import Request, Seed, lend
from clonedb.pytest_plugin.options import check_seed
from clonedb.settings.checks import check
from clonedb.settings.key import nearest

if TYPE_CHECKING:
    from clonedb.clones.database import Database
    from clonedb.settings.typed import Isolation

__all__ = ["Scope", "fixture"]

Scope = Literal["function", "class", "module", "package", "session"]


def fixture(
    scope: Scope | Callable[[str, pytest.Config], Scope] = "function",
    *,
    name: str | None = None,
    isolation: Isolation | None = None,
    template: str | None = None,
    seed: Seed | Sequence[Seed] | None = None,
    autouse: bool = False,
) -> object:
    """A pytest fixture that gives a Database for as long as its scope lasts.

        shop = clonedb.fixture(scope="module", seed="tests/shop.sql")

    `scope` is pytest's, a function for a dynamic one. `isolation` and `template` are those of
    the settings, and the project's if they are not given. `seed` is one or several: a text (an
    SQL file, or `package.module:function`) makes a template of its own, so that it costs a test
    nothing; a function is called for each database with a SQLAlchemy connection, and committed.
    With `name="clonedb"` the other fixtures (`clonedb_engine`, `clonedb_session`, ...) are on
    that database, too.

    Raises ConfigError for a scope or an isolation that there is not, and for what is no seed.
    """
    place = f"clonedb.fixture(name={name!r})" if name else "clonedb.fixture()"
    # now, where conftest.py is imported, and not in each test
    if isinstance(scope, str) and scope not in get_args(Scope):
        hint = nearest(scope, dict.fromkeys(get_args(Scope)))
        raise ConfigError(
            f"{place}: scope is {scope!r}{hint}; it takes one of {', '.join(get_args(Scope))}"
        )

    if isolation is not None:
        check("isolation", isolation, place)
    if seed is not None:
        check_seed(seed, place)
    wanted = Request(isolation, template, seed)

    def database(request: pytest.FixtureRequest) -> Iterator[Database]:
        __tracebackhide__ = True
        yield from lend(request, wanted)

    database.__doc__ = f"A database of clonedb's: {isolation or 'isolation as configured'}, {template or 'default'}."
    return pytest.fixture(scope=scope, name=name, autouse=autouse)(database)
