"""One pytest process's use of clonedb: the template it opened, the clones it handed out, and what they cost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from clonedb.originals import getpid, now
from clonedb.progress import Lines
from clonedb.pytest_plugin.process_state import ProcessState, process_state_of
from clonedb.pytest_plugin.remote_workers import require_same_project
from clonedb.pytest_plugin.secrets import Secrets
from clonedb.run_state import RunState, Statistics

if TYPE_CHECKING:
    from clonedb.api import Template
    from clonedb.clones.clone import Clone
    from clonedb.clones.database import Database
    from clonedb.postgres.server import Server
    from clonedb.project.recipe import Recipe
    from clonedb.sessions.loans import Loans
    from clonedb.settings.config import Config
    from clonedb.supply import Supply

__all__ = ["CLONES", "LENT", "RUN", "Run", "run_of"]


@dataclass(frozen=True, slots=True)
class _Opened:
    """A template that the run opened, and whose it is."""

    config: Config
    supply: Supply


class Run:
    """The state of one pytest process, kept in its stash from the first test on that asks for a database."""

    def __init__(self, config: pytest.Config) -> None:
        self.pytest_config = config
        self.process_state: ProcessState = process_state_of(config)
        number, workers = _worker_of(config)
        self.state: RunState = RunState(
            say=Lines(self.write).say,
            expected=self._expected,
            is_single=self._is_single,
            worker=number,
            workers=workers,
        )
        self.statistics: Statistics = self.state.statistics
        self.from_workers: Statistics = Statistics()
        self.shown_errors: set[str] = set()
        self.secrets: Secrets = Secrets()
        self.workers_lost = False
        # xdist's: all workers of a run have one testrunuid
        worker = getattr(config, "workerinput", None)
        self.id: str = worker["testrunuid"] if worker else f"{getpid()}-{os.urandom(8).hex()}"
        self._opened: dict[Template, _Opened] = {}
        self._supplies: dict[Template, Supply] = {}
        self._named: dict[tuple[int, str, tuple[str, ...]], Template] = {}
        self._watches = False
        self._has_counted = False

    @property
    def loans(self) -> Loans:
        """What the process lends to its tests; from the first time on, connections with an ended one are refused."""
        if not self._watches:
            from clonedb.postgres.drivers import WatchedDrivers

            self._watches = True
            watched = WatchedDrivers(self.state.loans.require)
            with (
                self.process_state.unpatched()
            ):  # pyfakefs takes the first of sys.meta_path for its own
                watched.install()
            self.pytest_config.add_cleanup(watched.uninstall)
        return self.state.loans

    def open(self, config: Config) -> Template:
        """Open the template, build it if need be, and begin to collect what earlier runs left."""
        with self.process_state.session():
            from clonedb.api import open_template

            require_same_project(self.pytest_config)
            progress = Lines(self.write)
            opened = open_template(
                config, run=self.id, progress=progress, servers=self.state.servers
            )
            supply = opened.supply(self.state)
            if (config.route or config.autouse) and not opened.server.proxied:
                supply.one_name = config.isolation
            self._opened[opened] = _Opened(config, supply)

        self.hide_passwords_of(opened.server)
        self._warn_of_shortage(opened.server)
        return opened

    def _warn_of_shortage(self, server: Server) -> None:
        """Say, once in a run, that a server of the user's has too few sessions left for all workers."""
        worker, workers = self.state.worker, self.state.workers
        servers = server.config.server_count(workers)
        # one worker of each server
        if server.embedded or self._has_counted or worker >= servers:
            return
        from clonedb.postgres.budget import shortage

        self._has_counted = True
        with self.process_state.unpatched():
            said = server.run(shortage, -(-workers // servers))
        if said is not None:
            self.write(f"clonedb: {server.about}: {said}")

    def hide_passwords_of(self, server: Server) -> None:
        """From now on no report shows them."""
        self.secrets.add(server)
        if not self.pytest_config.pluginmanager.is_registered(self.secrets):
            self.pytest_config.pluginmanager.register(self.secrets)  # for its hook

    def template(
        self,
        config: Config,
        name: str,
        seeds: tuple[str, ...],
        at_end: Callable[[Callable[[], None]], None],
    ) -> Template:
        """A named template, or one with further seeds, opened when a test first asks for it.

        Raises ConfigError for a name that is not configured.
        """
        # by identity: several directories may override clonedb_config
        key = (id(config), name, seeds)
        if key not in self._named:
            wanted = config if name == config.template else config.of_template(name, "template")
            if seeds:
                wanted = wanted.with_seeds(seeds, "seed")
            opened = self.open(wanted)
            self._named[key] = opened
            at_end(lambda: self.close(opened))
        return self._named[key]

    def require_own(self, template: Template, config: Config) -> None:
        """Raises ConfigError when a test would get the template of another directory's clonedb_config.

        pytest caches a session fixture for all directories, whichever of them override the
        fixtures it asks for.
        """
        from clonedb.errors import ConfigError

        if template in self._opened and self._opened[template].config is not config:
            raise ConfigError(
                "several conftest.py override clonedb_config, but pytest makes one clonedb_template for all of them;"
                " write `from clonedb.pytest_plugin import clonedb_template` in each of them, below the override"
            )

    def write(self, line: str) -> None:
        """A line on the real standard error, past pytest's capturing."""
        capture = self.pytest_config.pluginmanager.getplugin("capturemanager")
        if capture is None:
            os.write(2, f"{line}\n".encode())
            return
        with capture.global_and_fixture_disabled():
            lead = (
                "" if hasattr(self.pytest_config, "workerinput") else "\n"
            )  # after a line of dots
            # the descriptor, which pytest has given back for now; sys.stderr may be a test's
            os.write(2, f"{lead}{line}\n".encode())

    def supply(
        self, template: Template, at_end: Callable[[Callable[[], None]], None]
    ) -> Supply:
        """What gives databases of a template; `at_end` is told what to call for one that a project's fixture opened."""
        if template in self._opened:
            return self._opened[template].supply
        if template not in self._supplies:
            self._supplies[template] = supply = template.supply(self.state)
            at_end(supply.close)
        return self._supplies[template]

    def _expected(self) -> int | None:
        """How many tests of this process may ask for a database; a worker does not know which of all it will get."""
        session = self.pytest_config.pluginmanager.getplugin("session")
        if session is None or hasattr(self.pytest_config, "workerinput"):
            return None
        return (
            # 0 is as good as unknown: a test may ask by request.getfixturevalue()
            sum("clonedb" in getattr(item, "fixturenames", ()) for item in session.items)
            or None
        )

    def _is_single(self) -> bool:
        """Whether pytest collected one test."""
        session = self.pytest_config.pluginmanager.getplugin("session")
        return session is not None and session.testscollected == 1

    def keep_if_failed(
        self, clone: Clone, recipe: Recipe, item: pytest.Item, *, failed: bool
    ) -> bool:
        """Keep a clone that a test used, if the policy says so and there is room: whether it is kept.

        The worker's one clone may have been kept for an earlier test already.
        """
        from clonedb.clones.gc import keep
        from clonedb.pytest_plugin.options import marker_of
        from clonedb.templates.metadata import Kept

        # the test's own marker wins over the setting
        policy = marker_of(item).keep or clone.server.config.keep
        if policy == "none" or (policy == "failed" and not failed) or not clone.worth_keeping:
            return False
        if not clone.kept:
            with self.process_state.unpatched():
                kept = Kept(project=recipe.key, run=self.id, when=now(), test=item.nodeid)
                if not keep(clone, kept, limited=policy == "failed"):
                    return False

            self.statistics.kept.append(clone.own_name)

        return True

    def collect_after_death(self) -> None:
        """On the controller, when workers were killed: drop what they owned."""
        from clonedb.api import open_project_server
        from clonedb.clones.gc import collect
        from clonedb.postgres.servers import each_server
        from clonedb.pytest_plugin.options import configuration

        with contextlib.suppress(Exception):  # the next run collects too
            for config in each_server(configuration(self.pytest_config)):
                with contextlib.suppress(Exception):  # this server may be the one that is down
                    server = open_project_server(config)
                    try:
                        collect(server, seconds=10)
                    finally:
                        server.close()

    def close(self, template: Template) -> None:
        """Give an opened template back, and what its supply holds."""
        with self.process_state.unpatched():
            try:
                # the clones go first, and the template's lock with its server after them
                self._opened.pop(template).supply.close()
            finally:
                template.close()


RUN = pytest.StashKey[Run]()
CLONES = pytest.StashKey[list[tuple["Clone", "Recipe"]]]()
"""A test's clones at the moment, each with the recipe of its template: two may share a template."""
LENT = pytest.StashKey[list["Database"]]()
"""Those of them that an isolation lends."""


def _worker_of(config: pytest.Config) -> tuple[int, int]:
    """The number of this xdist worker, from 0, and of how many it is one; (0, 1) without xdist."""
    told = getattr(config, "workerinput", {"workerid": "gw0", "workercount": 1})
    # an id of the user's own (--tx popen//id=one) may have no number
    digits = str(told["workerid"]).removeprefix("gw")
    return (int(digits) if digits.isdecimal() else 0), told["workercount"]


def run_of(config: pytest.Config) -> Run:
    """The process's run, made on first need."""
    if RUN not in config.stash:
        config.stash[RUN] = Run(config)
    return config.stash[RUN]
