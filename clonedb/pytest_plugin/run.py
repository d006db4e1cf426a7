"""One pytest process's use of clonedb: the template it opened, the clones it handed out, and what they cost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from clonedb.originals import getpid, now
from clonedb.pytest_plugin.process_state import process_state_of
from clonedb.pytest_plugin.secrets import Secrets

if TYPE_CHECKING:
    from clonedb.api import Template
    from clonedb.clones.clone import Clone
    from clonedb.clones.pool import Pool
    from clonedb.isolation.mode import Isolation
    from clonedb.postgres.cap import Cap
    from clonedb.postgres.server import Server
    from clonedb.project.find import Project
    from clonedb.pytest_plugin.collecting import Collecting, Dropping
    from clonedb.sessions.loans import Loans
    from clonedb.settings.config import Config

__all__ = ["CLONES", "RUN", "Run", "Statistics", "run_of"]


class Statistics:
    """What a process did with clonedb; crosses from an xdist worker to the controller as a dictionary.

    `templates` says of each by its name which server it is on, and the seconds it took if this process built it. `paid`
    holds the milliseconds that each test spent on getting and giving back its databases; `outcomes` counts what became
    of them afterwards under `auto`, by kind and reason.
    """

    def __init__(self, **data: Any) -> None:
        self.templates: dict[str, tuple[str, float | None]] = dict(data.get("templates", ()))
        self.clones: int = data.get("clones", 0)
        self.paid: list[float] = list(data.get("paid", ()))
        self.kept: list[str] = list(data.get("kept", ()))
        self.outcomes: dict[str, dict[str, int]] = data.get("outcomes", {})

    def note(self, kind: str, why: str, count: int = 1) -> None:
        """What became of a used clone."""
        reasons = self.outcomes.setdefault(kind, {})
        reasons[why] = reasons.get(why, 0) + count

    def add(self, other: Statistics) -> None:
        """Take another process's numbers in."""
        for name, (about, built) in other.templates.items():
            if built is not None or name not in self.templates:
                self.templates[name] = about, built
        self.clones += other.clones
        self.paid += other.paid
        self.kept += other.kept
        for kind, reasons in other.outcomes.items():
            for why, count in reasons.items():
                self.note(kind, why, count)


class Run:
    """The state of one pytest process, kept in its stash from the first test on that asks for a database."""

    def __init__(self, config: pytest.Config) -> None:
        self.pytest_config = config
        self.process_state = process_state_of(config)
        self.statistics = Statistics()
        self.from_workers = Statistics()
        self.shown_errors: set[str] = set()
        self.secrets = Secrets()
        self.workers_lost = False
        self.changed: list[str] = []
        worker = getattr(config, "workerinput", None)
        self.id = worker["testrunuid"] if worker else f"{getpid()}-{os.urandom(8).hex()}"
        self._modes: dict[tuple[str, Template], Isolation] = {}
        self._pools: dict[Template, Pool] = {}
        self._caps: dict[Server, Cap] = {}
        self._opened: dict[Template, tuple[Config, Collecting]] = {}
        self._named: dict[tuple[int, str, tuple[str, ...]], Template] = {}
        self._drops: dict[Template, list[Dropping]] = {}
        self._loans: Loans | None = None

    @property
    def loans(self) -> Loans:
        """What the process lends to its tests; from the first time on, connections with an ended one are refused."""
        if self._loans is None:
            from clonedb.postgres.drivers import WatchedDrivers
            from clonedb.sessions.loans import Loans

            self._loans = Loans()
            watched = WatchedDrivers(self._loans.require)
            with self.process_state.unpatched():  # pyfakefs takes the first of sys.meta_path for its own
                watched.install()
            self.pytest_config.add_cleanup(watched.uninstall)
        return self._loans

    def open(self, config: Config) -> Template:
        """Open the template, build it if need be, and begin to collect what earlier runs left."""
        with self.process_state.session():
            from clonedb.api import open_template
            from clonedb.progress import Lines
            from clonedb.pytest_plugin.collecting import Collecting

            opened = open_template(config, run=self.id, progress=Lines(self.write))
            self._opened[opened] = config, Collecting(opened.server)
        self.secrets.add(opened.server)
        self._note(opened)
        return opened

    def template(
        self, config: Config, name: str, seeds: tuple[str, ...], at_end: Callable[[Callable[[], None]], None]
    ) -> Template:
        """A named template, or one with further seeds, opened when a test first asks for it.

        Raises ConfigError for a name that is not configured.
        """
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

        pytest caches a session fixture for all directories, whichever of them override the fixtures it asks for.
        """
        from clonedb.errors import ConfigError

        if template in self._opened and self._opened[template][0] is not config:
            raise ConfigError(
                "several conftest.py override clonedb_config, but pytest makes one clonedb_template for all of them;"
                " write `from clonedb.pytest_plugin import clonedb_template` in each of them, below the override"
            )

    def _note(self, template: Template) -> None:
        built = template.record.metadata.seconds if template.record.built else None
        self.statistics.templates[template.name] = template.server.about, built

    def write(self, line: str) -> None:
        """A line on the real standard error, past pytest's capturing."""
        capture = self.pytest_config.pluginmanager.getplugin("capturemanager")
        if capture is None:
            os.write(2, f"{line}\n".encode())
            return
        with capture.global_and_fixture_disabled():
            lead = "" if hasattr(self.pytest_config, "workerinput") else "\n"  # after a line of dots
            os.write(2, f"{lead}{line}\n".encode())

    def clone(self, template: Template, *, ahead: int = 1) -> Clone:
        """A new clone, counted; `ahead` is how many it pays to make ahead for the next times."""
        self._note(template)
        if template.server.config.template == "revision":  # of which there are many, each asked for rarely
            ahead = 0
        clone = self._pool(template).take(self._make_room, ahead=ahead)
        self.statistics.clones += 1
        return clone

    def _pool(self, template: Template) -> Pool:
        if template not in self._pools:
            from clonedb.clones.pool import Pool

            self._pools[template] = Pool(template.server, template.record, self._cap(template.server), self._expected)
        return self._pools[template]

    def _cap(self, server: Server) -> Cap:
        if server not in self._caps:
            from clonedb.postgres.cap import Cap
            from clonedb.progress import Lines

            self._caps[server] = Cap(server, Lines(self.write).say)
        return self._caps[server]

    def beside(self, server: Server, make: Callable[[], Clone]) -> Clone:
        """A database that is no clone of a template but takes as much room as one, which is waited for."""
        cap = self._cap(server)
        return cap.filled(cap.take(self._make_room), make)

    def _make_room(self) -> None:
        """Give up every clone of this process that no test has."""
        for mode in self._modes.values():
            mode.release_spares()
        for pool in self._pools.values():
            pool.release_spares()

    def _expected(self) -> int | None:
        """How many tests of this process may ask for a database; a worker does not know which of all it will get."""
        session = self.pytest_config.pluginmanager.getplugin("session")
        if session is None or hasattr(self.pytest_config, "workerinput"):
            return None
        return sum("clonedb" in getattr(item, "fixturenames", ()) for item in session.items) or None

    def mode(self, name: str, template: Template, at_end: Callable[[Callable[[], None]], None]) -> Isolation:
        """The process's mode of a name for a template; `at_end` is told what to call before that is closed."""
        from clonedb.isolation.mode import Origin
        from clonedb.isolation.modes import make_isolation

        if (name, template) not in self._modes:
            origin = Origin(
                server=template.server,
                project=template.project,
                template=template.record,
                base=lambda: template.base.record if template.base else None,
                make=lambda: self.clone(template, ahead=0),
                note=self.statistics.note,
                changed=self._server_changed,
                take=lambda ahead: self.clone(template, ahead=ahead),
                drop=lambda clone: self.drop(template, clone),
                others_wait=lambda: self._pool(template).others_wait,
                beside=lambda make: self.beside(template.server, make),
                spare=lambda: self._pool(template).spare(),
            )
            mode = make_isolation(name, origin)
            self._modes[name, template] = mode
            at_end(mode.close)
        return self._modes[name, template]

    def _server_changed(self, what: str | None) -> None:
        """Hold nothing for later whose sessions may have been opened meanwhile; what stays is told with the test."""
        self.changed += [what] if what else []
        self._make_room()

    def drop(self, template: Template, clone: Clone) -> None:
        """Drop a used clone behind the test; the only test's while pytest reports and clears up, and `finish` waits.

        That is on the embedded server, which nobody's fixture stops meanwhile.
        """
        session = self.pytest_config.pluginmanager.getplugin("session")
        if session is None or session.testscollected != 1 or not clone.server.embedded:
            self._pool(template).drop(clone)
        else:
            from clonedb.pytest_plugin.collecting import Dropping

            self._drops.setdefault(template, []).append(Dropping(clone))

    def finish(self) -> None:
        """Wait for what was left to be done behind pytest's report, and say what went wrong with it."""
        while self._drops:
            template, drops = self._drops.popitem()
            for drop in drops:
                if error := drop.wait():
                    self.write(f"clonedb: could not drop {drop.name!r}: {error}; the next run does, or `clonedb gc`")
            self._close_rest(template)

    def keep_if_failed(self, clone: Clone, project: Project, item: pytest.Item, *, failed: bool) -> bool:
        """Keep a clone that a test used, if the policy says so and there is room: whether it is kept.

        The worker's one clone may have been kept for an earlier test already.
        """
        from clonedb.clones.gc import keep
        from clonedb.pytest_plugin.options import marker_of
        from clonedb.templates.metadata import Kept

        policy = marker_of(item).keep or clone.server.config.keep
        if policy == "none" or (policy == "failed" and not failed) or not clone.worth_keeping:
            return False
        if not clone.kept:
            with self.process_state.unpatched():
                kept = Kept(project=project.key, run=self.id, when=now(), test=item.nodeid)
                if not keep(clone, kept, limited=policy == "failed"):
                    return False
            self.statistics.kept.append(clone.name)
        return True

    def collect_after_death(self) -> None:
        """On the controller, when workers were killed: drop what they owned."""
        from clonedb.api import open_project_server
        from clonedb.clones.gc import collect
        from clonedb.pytest_plugin.options import configuration

        with contextlib.suppress(Exception):  # the next run collects too
            server = open_project_server(configuration(self.pytest_config))
            try:
                collect(server, seconds=10)
            finally:
                server.close()

    def close(self, template: Template) -> None:
        """Give an opened template back, and what its modes hold."""
        with self.process_state.unpatched(), contextlib.ExitStack() as stack:
            if template not in self._drops:
                stack.callback(self._close_rest, template)
            for key in [key for key in self._modes if key[1] is template]:
                self._modes.pop(key).close()

    def _close_rest(self, template: Template) -> None:
        try:
            if template in self._pools:
                self._pools.pop(template).close()
        finally:
            self._caps.pop(template.server, None)
            _, collector = self._opened.pop(template)
            collector.join()
            template.close()


RUN = pytest.StashKey[Run]()
CLONES = pytest.StashKey[list[tuple["Clone", "Project"]]]()
"""A test's clones at the moment, each with the project it is of: two may share a template."""


def run_of(config: pytest.Config) -> Run:
    """The process's run, made on first need."""
    if RUN not in config.stash:
        config.stash[RUN] = Run(config)
    return config.stash[RUN]
