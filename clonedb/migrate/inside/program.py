"""The program that migrates and seeds one database, run in an interpreter of its own.

Of its own because env.py's `fileConfig` disables the loggers of the process it runs in, and an
asynchronous env.py's `asyncio.run` fails under a running loop. It reads a setup and then any
number of requests (a line of JSON each) from its standard input, which stays open: when it
closes, the process that asked is gone, and this one ends at once. It writes events (a JSON
object a line) to the file descriptor named as its argument: `revision`, `seed`, `file`,
`command`, `seeding`, `stair`, and at the end of each request `failed` or `done`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clonedb.migrate.inside.project_command import ProjectCommand

# in targets such as +1 and head-2
_RELATIVE = ("+", "-")


class Program:
    """Requests carried out one after the other; `step` says what is being done when something fails."""

    def __init__(self, setup: dict[str, Any], events: int, requests: int) -> None:
        from clonedb.migrate.inside.environment import AlembicEnvironment
        from clonedb.migrate.inside.read_files import read_by
        from clonedb.migrate.inside.session_settings import SessionSettings

        self.setup = setup
        self.step: dict[str, Any] = {}
        self._environment = AlembicEnvironment(setup)
        self._settings = SessionSettings()
        # by lines, so that an event is sent when it is told
        self._events = os.fdopen(events, "w", buffering=1)
        self._routed = False
        self._requests = requests
        self._project_command: ProjectCommand | None = None
        self._read: set[str] = set()
        self._read_by = read_by
        self._done: list[dict[str, Any]] = []
        self._left_behind: set[str] = set()
        self._left_out: set[str] = set()
        self._roles: set[str] = set()  # that the history has created
        self._expected: dict[tuple[str, str | None], tuple[str, ...]] = {}
        # for good: no audit hook can be taken away
        sys.addaudithook(self._audit)

    def tell(self, event: str, **data: Any) -> None:
        """Send an event to the process that asked."""
        self._events.write(json.dumps({"event": event, **data}) + "\n")

    def carry_out(self, action: str, arguments: Mapping[str, Any]) -> None:
        """Carry out a request; ends with a `done` or a `failed` event."""
        from clonedb.migrate.inside.failure import describe
        from clonedb.migrate.inside.forked import ForkedError
        from clonedb.migrate.inside.launchers import PrepareError

        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "plan": self._plan,
            "migrate": self._migrate,
            "upgrade": self._upgrade,
            "downgrade": self._downgrade,
            "current": self._current,
            "branches": self._branches,
            "differences": self._differences,
            "stairway": self._stairway,
            "create": self._create,
            "command": self._command,
            "seed": self._seed,
        }
        self._read.clear()
        self._done = []
        self._left_behind.clear()
        self._left_out.clear()
        self._roles.clear()
        self._note()
        try:
            self._route()
            found = actions[action](**arguments)
        except BaseException as error:  # noqa: BLE001 - SystemExit of an env.py is a failure like others
            if isinstance(error, PrepareError):
                self._note("prepare", self.setup["prepare"])
                error = error.reason

            described = (
                error.described
                if isinstance(error, ForkedError)
                else describe(error, self.setup)
            )
            _flush()
            self.tell("failed", **self.step, **described)
            return

        _flush()
        rootdir = self.setup["rootdir"] + os.sep

        # one that was looked for in vain cannot be watched
        read = sorted(
            path
            for path in self._read
            if path.startswith(rootdir) and os.path.isfile(path)  # noqa: PTH113
        )
        tables, left = self._environment.version_tables, sorted(self._left_behind)
        done = {
            "revisions": self._done,
            "version_tables": tables,
            "read": read,
            "variables": sorted(self._environment.asked.own),
            "left_behind": left,
        }
        self.tell(
            "done",
            **found,
            **done,
            left_out=sorted(self._left_out),
            doubled=self._environment.doubled(),
        )

    def _route(self) -> None:
        """Before anything of the project is imported."""
        from clonedb.migrate.inside.routing import route_everything
        from clonedb.migrate.inside.server_objects import share_server
        from clonedb.url import DatabaseURL

        if not self._routed:
            self._routed = True
            share_server(self._roles)
            self._settings.watch()
            route_everything(DatabaseURL.parse(self.setup["url"]))

    def _plan(self, target: str, *, with_env_py: bool) -> dict[str, Any]:
        """In a fork, because Alembic loads the revisions only after env.py has run, and here it has not."""
        from clonedb.migrate.inside.forked import forked

        def plan() -> list[tuple[str, str]]:
            return self._environment.plan(target, with_env_py=with_env_py)

        return {"plan": forked(plan, self.setup, requests=self._requests)}

    def _migrate(self, target: str, seeds: Iterable[Mapping[str, str]]) -> dict[str, Any]:
        return {**self._upgrade(target, direction=None), **self._seed(seeds)}

    def _upgrade(self, target: str, direction: str | None = "upgrade") -> dict[str, Any]:
        from clonedb.migrate.inside.verification import require_at, require_expected

        script = self._environment.script

        def steps(heads: Any, context: Any) -> Iterator[Any]:
            # Alembic takes "base" for a target to which no way leads up
            planned = [] if target == "base" else script._upgrade_revs(target, heads)  # noqa: SLF001 - as `alembic upgrade` does
            yield from self._reported(planned, context, direction)

        self._environment.run(steps, command=("upgrade", target), destination_rev=target)
        self._note("verify")
        found = self._environment.heads()
        # a relative target means another revision, now that the database is elsewhere
        if target == "base" or any(sign in target for sign in _RELATIVE):
            require_expected(found, self._expected)
        else:
            require_at(target, found, script, [revision["name"] for revision in self._done])
        return _heads(found)

    def _downgrade(self, target: str) -> dict[str, Any]:
        from clonedb.migrate.inside.verification import require_expected

        script = self._environment.script

        def steps(heads: Any, context: Any) -> Iterator[Any]:
            planned = (
                [] if target == "base" and not heads else script._downgrade_revs(target, heads)  # noqa: SLF001
            )
            yield from self._reported(planned, context, "downgrade")

        self._environment.run(steps, command=("downgrade", target), destination_rev=target)
        self._note("verify")
        found = self._environment.heads()
        require_expected(found, self._expected)
        return _heads(found)

    def _current(self) -> dict[str, Any]:
        found: dict[Any, Any] = {}

        def look(heads: Any, context: Any) -> list[Any]:
            found[context.version_table, context.version_table_schema] = heads
            return []

        self._environment.run(look, command=("current",), dont_mutate=True)
        return _heads(found)

    def _branches(self, target: str) -> dict[str, Any]:
        return {"branches": self._environment.branches(target)}

    def _differences(self) -> dict[str, Any]:
        from clonedb.migrate.inside.differences import differences

        return {"found": differences(self._environment)}

    def _stairway(self, target: str, skip: list[str]) -> dict[str, Any]:
        from clonedb.migrate.inside.stairs import Stairs

        def note(direction: str, script: Any, **at: int) -> None:
            self._note("revision", script.revision, script.path, direction)
            if at:
                self.tell("revision", **at, name=script.revision)

        for stair in Stairs(self._environment, self.setup, note).climb(target, skip):
            _flush()
            self.tell("stair", **stair)
            self._note()

        return {}

    def _note(
        self,
        phase: str = "env.py",
        name: str | None = None,
        path: str | None = None,
        direction: str | None = None,
    ) -> None:
        self.step = {"phase": phase, "name": name, "path": path, "direction": direction}

    def _reported(
        self, steps: Iterable[Any], context: Any, direction: str | None
    ) -> Iterator[Any]:
        """The steps, each announced before Alembic takes it and timed when it asks for the next."""
        planned, before = list(steps), self._settings.of(context)
        for number, step in enumerate(planned, 1):
            script = step.revision
            self._note("revision", script.revision, script.path, direction)
            self.tell(
                "revision",
                number=number,
                total=len(planned),
                name=script.revision,
                doc=script.doc,
            )
            start = time.perf_counter()
            yield step
            seconds = round(time.perf_counter() - start, 4)
            self._done.append(
                {"name": script.revision, "path": script.path, "seconds": seconds}
            )

        # what was there before the first step is env.py's, which sets it in each run
        self._left_behind |= {
            name for name, _ in self._settings.of(context, ended=bool(planned)) - before
        }
        self._note()
        self._expected[context.version_table, context.version_table_schema] = (
            context.get_current_heads()
        )

    def _create(
        self, names: Iterable[str], seeds: Iterable[Mapping[str, str]]
    ) -> dict[str, Any]:
        from clonedb.migrate.inside.models import create_all, project_modules

        self._note("metadata", ", ".join(names))
        if names:
            create_all(names, self.setup["own_url"])
            self._read |= project_modules(self.setup["rootdir"])
        return self._seed(seeds)

    def _command(
        self,
        words: Sequence[str],
        limit: float,
        names: Sequence[str],
        seeds: Iterable[Mapping[str, str]],
    ) -> dict[str, Any]:
        from clonedb.migrate.inside.project_command import ProjectCommand

        self._note("command", words[0] if words else None)
        if words:
            self._project_command = ProjectCommand(self.setup, self._tell_of_command)
            found = self._project_command.run(words, limit=limit, names=names)
            self._read |= found.read
            self._environment.asked.own |= found.variables
        return self._seed(seeds)

    def _tell_of_command(self, seconds: int, line: str) -> None:
        self.tell("command", number=1, total=1, name=f"{seconds} s: {line}")

    def end(self) -> None:
        """End what this process has started: it is about to end itself."""
        if self._project_command is not None:
            self._project_command.end()

    def _seed(self, seeds: Iterable[Mapping[str, str]]) -> dict[str, Any]:
        from clonedb.migrate.inside.seeds import run_seed

        seeds = list(seeds)
        files = sum("phase" in seed for seed in seeds)  # that make the schema; they come first
        for number, seed in enumerate(seeds, 1):
            phase = seed.get("phase", "seed")
            self._note(phase, seed["name"], seed.get("path"))
            self.tell(phase, name=seed["name"], number=number, total=files)
            self._left_out |= run_seed(seed, self.setup, self._tell_of_seed)
            # a seed's own file is an input, and not one that was read besides
            self._read.discard(seed.get("path", ""))
        return {}

    def _tell_of_seed(self, text: str) -> None:
        self.tell("seeding", name=text)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note which files are read: what is not in the fingerprint would change the template unseen."""
        if (path := self._read_by(event, arguments)) is not None:
            self._read.add(path)


def _heads(found: Mapping[Any, Iterable[str]]) -> dict[str, Any]:
    return {"heads": list(dict.fromkeys(head for heads in found.values() for head in heads))}


def _flush() -> None:
    """Before an event says that something ended: this process may be killed then, with what it has not written yet."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # what env.py put there in their place
            stream.flush()


def _lines(descriptor: int) -> Iterator[bytes]:
    """The lines that arrive at a file descriptor, without what a buffered reader would do at its end."""
    rest = bytearray()
    while more := os.read(descriptor, 65536):
        rest += more
        while b"\n" in rest:
            line, _, rest = rest.partition(b"\n")
            yield bytes(line)


def _listen(
    lines: Iterator[bytes], requests: queue.SimpleQueue[bytes], program: Program
) -> None:
    for line in lines:
        requests.put(line)
    program.end()
    os.kill(os.getpid(), signal.SIGKILL)  # the process that asked is gone


def main() -> None:
    """Carry out the requests on standard input, until it is closed."""
    # The requests stay on a descriptor that no child inherits; what migrations start, and they
    # themselves, find an empty standard input.
    parent = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    lines = _lines(parent)
    if (first := next(lines, None)) is None:
        raise SystemExit(2)
    setup = json.loads(first)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    sys.path[:] = setup["sys_path"]
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # what was printed before a sudden death is to be seen
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)

    program = Program(setup, int(sys.argv[1]), parent)
    # a thread, so that the end of the pipe is noticed while a migration runs
    threading.Thread(target=_listen, args=(lines, requests, program), daemon=True).start()
    gc.disable()  # there is nothing to collect yet, and looking for it costs a tenth of the imports
    with contextlib.suppress(
        Exception
    ):  # what fails here fails again, and is told of, when it is asked for
        importlib.import_module(
            "alembic.context"
        )  # most of a short build is this: it begins before it is asked for
        importlib.import_module("psycopg")

    # what is loaded by now is looked at no more, and a fork shares its memory
    gc.freeze()
    gc.enable()
    while True:
        request = json.loads(requests.get())
        program.carry_out(request.pop("action"), request)


if __name__ == "__main__":
    main()
