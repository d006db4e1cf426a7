"""What pytest's output says of the databases: the header, a failed test's clone, the summary."""

from __future__ import annotations

import statistics
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from clonedb.errors import CloneDBError
from clonedb.pytest_plugin.options import configuration
from clonedb.pytest_plugin.run import CLONES, RUN, Statistics, run_of

if TYPE_CHECKING:
    from clonedb.pytest_plugin.run import Run

__all__ = [
    "pytest_report_header",
    "pytest_runtest_makereport",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_unconfigure",
]

_OUTPUT = "clonedb"


def pytest_report_header(config: pytest.Config) -> str | None:
    """One line: which server is meant, which isolation, and where that was said. Nothing is connected to."""
    try:
        settings = configuration(config)
    except CloneDBError as error:
        return f"clonedb: {error}"
    place = f"server {settings.shown('url')} from {settings.source('url')}" if settings.url else "embedded server"
    return f"clonedb: {place}, isolation {settings.isolation!r} ({settings.source('isolation')})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep a failed test's clones and say how to look into them; show an error of ours once, then in one line."""
    report = yield
    if RUN not in item.config.stash:
        return report
    run = item.config.stash[RUN]
    if call.when == "call" or (call.when == "setup" and report.failed):
        _mention_kept(run, item, report)
    if call.excinfo is not None and isinstance(call.excinfo.value, CloneDBError):
        _shorten(run, call.excinfo.value, report)
    return report


def _mention_kept(run: Run, item: pytest.Item, report: pytest.TestReport) -> None:
    if CLONES not in item.stash:
        return
    try:
        names = run.keep_if_failed(item, failed=report.failed)
    except Exception as error:  # noqa: BLE001 - the test's own failure is the one to see
        report.sections.append(("clonedb", f"the database could not be kept: {error}"))
        return
    for name in names:
        report.sections.append(("clonedb", f"database kept: clonedb psql {name}"))


def _shorten(run: Run, error: CloneDBError, report: pytest.TestReport) -> None:
    text = f"{type(error).__name__}: {error}"
    if text in run.shown_errors:
        first = text.splitlines()[0]
        report.longrepr = f"{first[:100]}{'...' if len(first) > 100 else ''} (shown in full above)"
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
        config.workeroutput[_OUTPUT] = vars(config.stash[RUN].statistics)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Collect what killed workers left, before the run is over."""
    if RUN in config.stash and config.stash[RUN].workers_lost:
        config.stash[RUN].collect_after_death()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line: built or reused, how many clones, what a test paid; nothing when no test asked for a database."""
    config = terminalreporter.config
    if RUN not in config.stash:
        return
    total = Statistics()
    run = config.stash[RUN]
    for part in (run.statistics, run.from_workers):
        total.add(part)
    if total.template:
        terminalreporter.write_line(f"clonedb: {summary(total)}")
    if total.kept:
        terminalreporter.write_line(f"clonedb: {len(total.kept)} kept for you: clonedb psql NAME, clonedb drop NAME")


def summary(total: Statistics) -> str:
    """`template 'clonedb_t_...' built in 2.1 s; 28 clones; a test paid 9.8 ms (median), 14.2 ms (95th percentile)`."""
    made = "reused" if total.built is None else f"built in {total.built:.1f} s"
    text = f"template {total.template!r} {made} on {total.about}; {total.clones} clones"
    if not total.paid:
        return text
    ordered = sorted(total.paid)
    percentile = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return f"{text}; a test paid {statistics.median(ordered):.1f} ms (median), {percentile:.1f} ms (95th percentile)"
