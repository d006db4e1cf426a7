"""A database handed to a test, or to a class, module or session of tests: acquired, watched over, and taken back."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from clonedb.originals import monotonic
from clonedb.pytest_plugin.routing import entered, hold_loop, left, taken_back
from clonedb.pytest_plugin.run import CLONES, LENT, run_of

if TYPE_CHECKING:
    from clonedb.api import Template
    from clonedb.clones.database import Database
    from clonedb.isolation.mode import Isolation
    from clonedb.postgres.server import Server
    from clonedb.sessions.loans import Loan
    from clonedb.settings.config import Config
    from clonedb.supply import Supply

__all__ = ["Paid", "Request", "Seed", "lend", "let_go", "require_on"]

Seed = str | Callable[..., Any]

_PLACE_IN_PAID = pytest.StashKey[int]()


class Request:
    """What database is wanted; None where the project's setting holds. Callables among the seeds run for each test."""

    __slots__ = ("isolation", "seed", "template")

    def __init__(
        self,
        isolation: str | None = None,
        template: str | None = None,
        seed: Seed | Sequence[Seed] | None = None,
    ) -> None:
        self.isolation: str | None = isolation
        self.template: str | None = template
        self.seed: Sequence[Seed] = (
            [seed] if isinstance(seed, str) or callable(seed) else seed or ()
        )


class Paid:
    """Counts the milliseconds a test spends on its databases, by however many fixtures it has them.

    In its context clonedb works, and so no function is a test's.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        run = run_of(request.config)
        self._statistics, self._process_state = run.statistics, run.process_state
        self._node: pytest.Item | pytest.Collector = request.node
        self.milliseconds: float = 0.0

    def __enter__(self) -> None:
        self._start = monotonic()
        self._unpatched = self._process_state.unpatched()
        self._unpatched.__enter__()

    def __exit__(self, *error: object) -> None:
        self._unpatched.__exit__(None, None, None)
        self.milliseconds += (monotonic() - self._start) * 1e3

    def note(self) -> None:
        """The test has ended; what several tests share is no test's price."""
        if not isinstance(self._node, pytest.Item):
            return
        paid = self._statistics.paid
        # a test has one number, to which each of its fixtures adds
        index = self._node.stash.setdefault(_PLACE_IN_PAID, len(paid))
        if index == len(paid):
            paid.append(0.0)
        paid[index] = round(paid[index] + self.milliseconds, 3)


def require_on(config: Config) -> None:
    """Skips what needs a database when clonedb is off."""
    if config.off:
        pytest.skip(f"needs a database, and clonedb is off ({config.source('off')})")


def lend(request: pytest.FixtureRequest, wanted: Request) -> Iterator[Database]:
    """The body of a fixture that gives a database: for one test, or for as many as the fixture's scope has."""
    __tracebackhide__ = True
    config: Config = request.getfixturevalue("clonedb_config")
    require_on(config)
    run, node, paid = run_of(request.config), request.node, Paid(request)
    isolation = wanted.isolation or config.isolation
    at_once, for_each = _sorted(wanted, isolation, node.nodeid)
    template = _template(request, config, wanted.template, at_once)

    def begin(database: str) -> Loan:
        return run.loans.begin(_holder(request), database, node.name)

    with run.process_state.unpatched():
        supply = run.supply(template, request.session.addfinalizer)
        with _ending_the_run(request.session, template.server):
            mode = supply.isolation(isolation)
            with paid:
                lent = mode.lend(begin)

    with contextlib.ExitStack() as stack:
        stack.enter_context(_ending_the_run(request.session, template.server))
        # what fails from here on must not keep the clone from being released
        stack.callback(taken_back, request.config, _holder(request))
        stack.callback(_release, node, paid, supply, mode, lent)
        hold_loop(request)
        entered(request.config, lent, wanted.template or config.template)
        stack.callback(left, request.config, lent)
        if lent.loan is not None:
            stack.callback(lent.loan.end)
        clones, used = node.stash.setdefault(CLONES, []), (lent.clone, template.recipe)
        clones.append(used)
        stack.callback(clones.remove, used)  # the item may be run again
        databases = node.stash.setdefault(LENT, [])
        databases.append(lent)
        stack.callback(databases.remove, lent)
        for seed in for_each:
            lent.fill(seed)
        stack.callback(let_go, node, lent)
        yield lent


@contextlib.contextmanager
def _ending_the_run(session: pytest.Session, server: Server) -> Iterator[None]:
    """Let no more tests begin when the server is out of reach: each would wait for it, and fail."""
    try:
        yield
    finally:
        if server.out_of_reach:
            session.shouldstop = (
                f"clonedb: {server.about} is out of reach, so that no more tests begin"
            )


def let_go(node: pytest.Item | pytest.Collector, database: Database) -> None:
    """Close what would keep a rollback waiting for ever, and say so."""
    if database.let_go():
        from clonedb.sessions.leaks import held

        warnings.warn(held(node.nodeid, "a connection of clonedb's engine"), stacklevel=2)


def _holder(request: pytest.FixtureRequest) -> str:
    """Who has the database, as an error names it."""
    # the session's nodeid is empty
    kind = "test" if request.scope == "function" else request.scope
    return f"{kind} {request.node.nodeid!r}" if request.node.nodeid else f"the {kind}"


def _release(
    node: pytest.Item | pytest.Collector,
    paid: Paid,
    supply: Supply,
    mode: Isolation,
    lent: Database,
) -> None:
    __tracebackhide__ = True
    name = lent.name
    with paid:
        told = supply.release(mode, lent, node.nodeid)
    # several databases of a test are one test
    if isinstance(node, pytest.Item) and _PLACE_IN_PAID not in node.stash:
        supply.run.statistics.count_test(supply.server.about)
    paid.note()
    for warning in told:
        warnings.warn(warning, stacklevel=2)
    lent.clone.server.growth.require_not_stopped(name)


def _sorted(
    wanted: Request, isolation: str, test: str
) -> tuple[tuple[str, ...], list[Callable[..., Any]]]:
    """The seeds that make a template of their own, and the functions that run for each test."""
    from clonedb.errors import ConfigError
    from clonedb.isolation.modes import mode_class

    for_each = [seed for seed in wanted.seed if not isinstance(seed, str)]
    if for_each and not mode_class(isolation).fills:
        name = getattr(for_each[0], "__name__", repr(for_each[0]))
        raise ConfigError(
            f"{test}: a database under isolation {isolation!r} cannot be seeded for each test, as {name}() would; name"
            " the seed as a text ('package.module:function' or an SQL file), which makes a template of it, or use"
            " isolation 'auto'"
        )

    return tuple(seed for seed in wanted.seed if isinstance(seed, str)), for_each


def _template(
    request: pytest.FixtureRequest, config: Config, name: str | None, seeds: tuple[str, ...]
) -> Template:
    run = run_of(request.config)
    # by the fixture, which a project may override
    if (name is None or name == config.template) and not seeds:
        opened: Template = request.getfixturevalue("clonedb_template")
        run.require_own(opened, config)
        return opened
    return run.template(config, name or config.template, seeds, request.session.addfinalizer)
