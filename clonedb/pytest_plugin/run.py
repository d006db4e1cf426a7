"""One pytest process's use of clonedb: the template it opened, the clones it handed out, and what they cost."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from clonedb.api import OpenTemplate
    from clonedb.clone import Clone
    from clonedb.config import Config
    from clonedb.gc import Collector
    from clonedb.isolation import Strategy

__all__ = ["CLONES", "RUN", "Run", "Statistics", "run_of"]


class Statistics:
    """What a process did with clonedb; crosses from an xdist worker to the controller as a dictionary.

    `paid` holds the milliseconds that each test spent on getting and giving back its databases.
    """

    def __init__(self, **data: Any) -> None:
        self.template: str | None = data.get("template")
        self.about: str = data.get("about", "")
        self.built: float | None = data.get("built")
        self.clones: int = data.get("clones", 0)
        self.paid: list[float] = list(data.get("paid", ()))
        self.kept: list[str] = list(data.get("kept", ()))

    def add(self, other: Statistics) -> None:
        """Take another process's numbers in."""
        self.template = self.template or other.template
        self.about = self.about or other.about
        self.built = other.built if self.built is None else self.built
        self.clones += other.clones
        self.paid += other.paid
        self.kept += other.kept


class Run:
    """The state of one pytest process, kept in its stash from the first test on that asks for a database."""

    def __init__(self, config: pytest.Config) -> None:
        self.pytest_config = config
        self.statistics = Statistics()
        self.from_workers = Statistics()
        self.shown_errors: set[str] = set()
        self.workers_lost = False
        worker = getattr(config, "workerinput", None)
        self.id = worker["testrunuid"] if worker else f"{os.getpid()}-{os.urandom(8).hex()}"
        self._strategies: dict[str, Strategy] = {}
        self._collector: Collector | None = None
        self._template: OpenTemplate | None = None

    def open(self, config: Config) -> OpenTemplate:
        """Open the template, build it if need be, and begin to collect what earlier runs left."""
        from clonedb.api import open_template
        from clonedb.gc import Collector
        from clonedb.progress import Lines

        opened = open_template(config, run=self.id, progress=Lines(self._write))
        self._template = opened
        self.statistics.template = opened.name
        self.statistics.about = opened.server.about
        if opened.record.built:
            self.statistics.built = opened.record.metadata.seconds
        self._collector = Collector(opened.server)
        return opened

    def _write(self, line: str) -> None:
        """A line on the real standard error, past pytest's capturing."""
        capture = self.pytest_config.pluginmanager.getplugin("capturemanager")
        if capture is None:
            os.write(2, f"{line}\n".encode())
            return
        with capture.global_and_fixture_disabled():
            os.write(2, f"\n{line}\n".encode())

    def clone(self, template: OpenTemplate) -> Clone:
        """A new clone, counted."""
        self.statistics.clones += 1
        return template.clone()

    def strategy(self, name: str, template: OpenTemplate) -> Strategy:
        """The process's strategy of a name."""
        from clonedb.isolation import STRATEGIES

        if name not in self._strategies:
            self._strategies[name] = STRATEGIES[name](lambda: self.clone(template))
        return self._strategies[name]

    def keep_if_failed(self, item: pytest.Item, *, failed: bool) -> list[str]:
        """Keep a test's clones if the policy says so: the names of those it keeps now."""
        from clonedb.gc import enforce_retention
        from clonedb.metadata import Kept
        from clonedb.pytest_plugin.options import marker_of

        clones = [clone for clone in item.stash.get(CLONES, []) if not clone.kept]
        if self._template is None or not clones:
            return []
        policy = marker_of(item).keep or self._template.server.config.keep
        if policy == "none" or (policy == "failed" and not failed):
            return []
        names = []
        for clone in clones:
            server, project = clone.server, self._template.project.name
            if policy == "failed" and not enforce_retention(server, project, self.id):
                break
            clone.keep(Kept(project=project, run=self.id, when=time.time(), test=item.nodeid))
            names.append(clone.name)
        self.statistics.kept += names
        return names

    def collect_after_death(self) -> None:
        """On the controller, when workers were killed: drop what they owned."""
        from clonedb.api import open_project_server
        from clonedb.gc import collect
        from clonedb.pytest_plugin.options import configuration

        with contextlib.suppress(Exception):  # the next run collects too
            server = open_project_server(configuration(self.pytest_config))
            try:
                collect(server, seconds=10)
            finally:
                server.close()

    def close(self) -> None:
        """Give everything back."""
        try:
            for strategy in self._strategies.values():
                strategy.close()
        finally:
            self._strategies.clear()
            if self._collector is not None:
                self._collector.join()
            if self._template is not None:
                self._template.close()
                self._template = None


RUN = pytest.StashKey[Run]()
CLONES = pytest.StashKey[list["Clone"]]()


def run_of(config: pytest.Config) -> Run:
    """The process's run, made on first need."""
    if RUN not in config.stash:
        config.stash[RUN] = Run(config)
    return config.stash[RUN]
