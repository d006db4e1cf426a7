"""A pytest plugin that writes down what each test paid before and after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.apparatus.peers.given import Given

__all__ = ["pytest_configure"]


class Spent:
    """Collects the durations of all reports, with the worker that they come from."""

    def __init__(self) -> None:
        self._reports: list[tuple[str, str, str, float]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one."""
        worker = getattr(report, "worker_id", "main")
        self._reports.append((worker, report.nodeid, report.when or "", report.duration))

    def pytest_sessionfinish(self) -> None:
        """Write them all."""
        Path(Given.here().spent).write_text(json.dumps(self._reports))


def pytest_configure(config: pytest.Config) -> None:
    """Collect where all reports arrive: in the one process, or in the one that xdist's workers report to."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Spent())
