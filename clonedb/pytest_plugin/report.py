"""What pytest's output says of the databases: the header, a failed test's clone, the summary."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from clonedb.errors import CloneDBError
from clonedb.pytest_plugin.options import configuration, directory_of_tests
from clonedb.pytest_plugin.run import CLONES, LENT, RUN, run_of
from clonedb.quantities import counted
from clonedb.run_state import Statistics

if TYPE_CHECKING:
    from clonedb.clones.clone import Clone
    from clonedb.pytest_plugin.run import Run
    from clonedb.settings.config import Config

__all__ = [
    "pytest_exception_interact",
    "pytest_report_header",
    "pytest_runtest_makereport",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_unconfigure",
]

_OUTPUT = "clonedb"


def pytest_report_header(config: pytest.Config) -> str | None:
    """One line, in a project that has to do with databases: which server is meant, which isolation, and who said so.

    Nothing is connected to, and any other project's run is left as quick as it was.
    """
    if not _concerns(config):
        return None
    try:
        settings = configuration(config)
        data = "" if settings.url else _data(settings)
    except CloneDBError as error:
        return f"clonedb: {error}"
    isolation = f"isolation {settings.isolation!r} ({settings.source('isolation')})"
    if settings.url:
        aside = ""
        if settings.servers != 1:
            aside = f" (servers = {settings.servers} is for embedded servers only)"
        servers = "servers" if len(settings.urls) > 1 else "server"
        place = f"{servers} {settings.shown('url')} from {settings.source('url')}"
        return f"clonedb: {place}{aside}, {isolation}"
    number = "" if settings.servers == 1 else f" (servers = {settings.servers})"
    return f"clonedb: embedded server{number}, {isolation}, {data}"


def _data(settings: Config) -> str:
    from clonedb.embedded.places import data_about

    return data_about(settings)


def _concerns(config: pytest.Config) -> bool:
    """Whether anything says that this run may ask for a database, found out for the price of opening a few files."""
    if any(name.startswith("CLONEDB_") for name in os.environ):
        return True
    if any(
        value is not None
        for name, value in vars(config.option).items()
        if name.startswith("clonedb_")
    ):
        return True
    start = directory_of_tests(config)
    within = [path for path in (start, *start.parents) if path.is_relative_to(config.rootpath)]
    return any(map(_has_migrations, within))


def _has_migrations(directory: Path) -> bool:
    if (directory / "alembic.ini").exists():
        return True
    file = directory / "pyproject.toml"
    try:
        # a FIFO would wait for its other end
        text = file.read_bytes() if file.is_file() else b""
    except OSError:
        return False
    return b"[tool.clonedb" in text or b"[tool.alembic" in text


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep a failed test's clones and say how to look into them; show an error of ours once, then in one line."""
    report = yield
    if call.excinfo is not None and (note := _note(item, call.excinfo.value)):
        report.sections.append(("clonedb", note))
    # in time: the fixtures, and the clones with them, are torn down after this report
    if call.when == "call" or (call.when == "setup" and report.failed):
        _mention_kept(item, report)
    # an error that a test's own call met keeps its traceback, which shows that call
    if (
        call.when != "call"
        and call.excinfo is not None
        and isinstance(call.excinfo.value, CloneDBError)
    ):
        _shorten(run_of(item.config), call.excinfo.value, report)

    if RUN in item.config.stash:
        # last, as the sections that were added here may have one, too
        item.config.stash[RUN].secrets.hide_in(report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector, report: object) -> None:
    """Under `--pdb`, say before the debugger begins how to look into the database, which its summary would say."""
    if node.config.getoption("usepdb", default=False) and isinstance(report, pytest.TestReport):
        for name, text in report.sections:
            if name == "clonedb":
                run_of(node.config).write(f"clonedb: {text}")


def _note(item: pytest.Item, error: BaseException | None) -> str | None:
    """What PostgreSQL's own error means under the isolation of a database that the test has."""
    # those of wider scopes are in the stash of their class, module or session
    databases = [database for node in item.listchain() for database in node.stash.get(LENT, ())]
    while error is not None:
        for database in databases:
            if told := database.explain(error):
                return f"{item.nodeid} {told}"
        # SQLAlchemy's errors have the driver's as their cause
        error = error.__cause__ or error.__context__
    return None


def _mention_kept(item: pytest.Item, report: pytest.TestReport) -> None:
    for clone, recipe in [
        used for node in item.listchain() for used in node.stash.get(CLONES, ())
    ]:
        try:
            if run_of(item.config).keep_if_failed(clone, recipe, item, failed=report.failed):
                kept = f"database kept: {_psql_command(clone)}"
                if (
                    item.config.getoption("usepdb", default=False)
                    and clone.name != clone.own_name
                ):
                    kept += f" (while the debugger runs: {clone.name})"
                report.sections.append(("clonedb", kept))
        except Exception as error:  # noqa: BLE001 - the test's own failure is the one to see
            report.sections.append(
                ("clonedb", f"database {clone.name!r} could not be kept: {error}")
            )


def _shorten(run: Run, error: CloneDBError, report: pytest.TestReport) -> None:
    text = f"{type(error).__name__}: {error}"
    # pytest raises the error of a session's fixture again for each test that asks for it
    if text in run.shown_errors:
        first = text.splitlines()[0]
        report.longrepr = (
            f"{first[:100]}{'...' if len(first) > 100 else ''} (shown in full above)"
        )
    else:
        run.shown_errors.add(text)
        report.longrepr = text


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """An xdist worker ended: take its numbers; one that died left what only a collection finds."""
    run, output = run_of(node.config), getattr(node, "workeroutput", None)
    if output is None or error:
        run.workers_lost = True
    elif _OUTPUT in output:
        run.from_workers.add(Statistics(**output[_OUTPUT]))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send a worker's numbers to the controller."""
    config = session.config
    if RUN in config.stash and hasattr(config, "workeroutput"):
        # xdist sends this at the end of this hook: numbers, texts and collections only
        config.workeroutput[_OUTPUT] = vars(config.stash[RUN].statistics)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Collect what killed workers left, before the run is over."""
    if RUN in config.stash and config.stash[RUN].workers_lost:
        config.stash[RUN].collect_after_death()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line: built, copied or reused, how many clones, what a test paid; nothing if no test asked for a database."""
    config = terminalreporter.config
    if RUN not in config.stash:
        return
    total = Statistics()
    run = config.stash[RUN]
    # with xdist the controller itself has none
    for part in (run.statistics, run.from_workers):
        total.add(part)
    if total.templates:
        terminalreporter.write_line(f"clonedb: {summary(total)}")
    if total.outcomes:
        for line in _outcomes(total, everything=_wants_report(config)):
            terminalreporter.write_line(f"clonedb: {line}")

    if total.kept:
        databases = counted(len(total.kept), "database")
        terminalreporter.write_line(
            f"clonedb: {databases} kept for you: clonedb psql NAME, clonedb drop NAME"
        )


def _wants_report(config: pytest.Config) -> bool:
    try:
        return configuration(config).report
    except CloneDBError:
        return False


_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "rewound": "{} rewound",
        "untouched": "{} only read",
        "refused": "{} not rewound, so that the next test got a new clone",
    }
)


def _outcomes(total: Statistics, *, everything: bool) -> Iterator[str]:
    """What became of the clones after their tests; with `everything` also why some were not rewound."""
    unable = total.outcomes.get("unable", {})
    for why in unable:
        yield f"no rewinding, every test got a new clone: {why}"
    counts = [
        text.format(sum(reasons.values()))
        for kind, text in _KINDS.items()
        if (reasons := total.outcomes.get(kind))
    ]
    if counts:
        yield "after their tests " + ", ".join(counts)
    if everything:
        for why, count in sorted(
            total.outcomes.get("refused", {}).items(), key=lambda pair: -pair[1]
        ):
            yield f"  {count} not rewound: {why}"


def summary(total: Statistics) -> str:
    """`template 'clonedb_t_...' built in 2.1 s; 28 clones; a test paid 9.8 ms (median), 14.2 ms (95th percentile)`."""
    parts = []
    for (name, about), how in sorted(total.templates.items(), key=lambda item: item[0][1]):
        parts.append(f"template {name!r} {how or 'reused'} on {about}")

    parts.append(counted(sum(total.clones.values()), "clone"))
    places = sorted({about for _, about in total.templates})
    if len(places) > 1:
        for about in places:
            clones, tests = total.clones.get(about, 0), total.tests.get(about, 0)
            parts.append(f"{counted(clones, 'clone')} for {counted(tests, 'test')} on {about}")
    text = "; ".join(parts)
    if not total.paid:
        return text
    # the nearest rank: a value that a test has paid
    ordered = sorted(total.paid)
    percentile = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return f"{text}; a test paid {ordered[len(ordered) // 2]:.1f} ms (median), {percentile:.1f} ms (95th percentile)"


def _psql_command(clone: Clone) -> str:
    """The command line that opens psql on a kept clone, from the project's directory and environment.

    What only this run was told (an option, a conftest) is said again, as variables, without any
    password.
    """
    import shlex

    from clonedb.settings.keys import KEYS
    from clonedb.url import redact

    # what pyproject.toml or a variable says, `clonedb psql` finds by itself
    config, told = clone.server.config, []
    for name in (
        "url",
        "servers",
        "maintenance_database",
        "postgres_bin",
        "state_dir",
        "prefix",
    ):
        source = config.source(name)
        if (
            source not in ("default", "TEST_DATABASE_URL", KEYS[name].variable)
            and "[tool.clonedb]" not in source
        ):
            told.append(
                f"{KEYS[name].variable}={shlex.quote(redact(str(getattr(config, name) or '')))}"
            )

    return " ".join([*told, "clonedb", "psql", clone.own_name])
