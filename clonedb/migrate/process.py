"""The interpreter of its own that migrates one database: started, sent requests, read from, and always ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from clonedb.embedded.client_programs import client_programs
from clonedb.errors import CloneDBError, ConfigError, MigrationError
from clonedb.migrate.inside.failure import error_from, scrub
from clonedb.migrate.interpreter import Interpreter
from clonedb.migrate.results import Branches, Migrated, NoModelsError, Stair
from clonedb.progress import Progress, Silence
from clonedb.project.dump_archives import is_archive
from clonedb.settings.config import Config

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["MigrationProcess", "elsewhere"]

_STEPS = ("revision", "file", "command")  # events of progress


def elsewhere() -> str:
    """What helps against a missing extension on a server of which nothing else is known."""
    return "install it on the server, or use another one"


class MigrationProcess:
    """An interpreter in which a project's env.py is run on one database, as often as it is asked.

    It is started on first need, with the caller's sys.path, directory and environment, and ends
    with `close()` or with this process: it dies when its standard input is closed, which a kill
    -9 does too. After an error in a migration it goes on; after one of ours, or Ctrl-C, it is
    ended, and the next request starts another. `waiting`, if set, is called every second in
    which a request hears nothing, and may raise. `remedy` says what helps against a missing
    extension.
    """

    def __init__(
        self,
        config: Config,
        setup: Mapping[str, Any],
        environment: Mapping[str, str],
        *,
        remedy: Callable[[], str] = elsewhere,
        waiting: Callable[[], None] | None = None,
    ) -> None:
        self._config = config
        self._setup = setup
        self._environment = environment
        self._remedy = remedy
        self.waiting = waiting
        self._interpreter: Interpreter | None = None

    def start(self) -> None:
        """Start the interpreter now: it imports Alembic while the caller does something else."""
        self._started()

    def plan(self, target: str, *, with_env_py: bool = False) -> tuple[tuple[str, Path], ...]:
        """The revisions that bring an empty database to a target, in Alembic's order, and their files; runs none.

        The database need not be there, unless `with_env_py`: that is run first then, as some
        revisions need it.
        """
        __tracebackhide__ = True
        found = self._done("plan", None, target=target, with_env_py=with_env_py)["plan"]
        return tuple((name, Path(path)) for name, path in found)

    def migrate(
        self, target: str, seeds: Collection[str], *, progress: Progress | None = None
    ) -> Migrated:
        """Bring the database to a target, then fill it with the seeds."""
        __tracebackhide__ = True
        return self._migrated("migrate", progress, target=target, seeds=self._seeds(seeds))

    def upgrade(self, revision: str = "heads", *, progress: Progress | None = None) -> Migrated:
        """Bring the database up to a revision."""
        __tracebackhide__ = True
        return self._migrated("upgrade", progress, target=revision)

    def downgrade(
        self, revision: str = "base", *, progress: Progress | None = None
    ) -> Migrated:
        """Bring the database down to a revision."""
        __tracebackhide__ = True
        return self._migrated("downgrade", progress, target=revision)

    def current(self) -> tuple[str, ...]:
        """The revisions that the database is at."""
        return self._migrated("current", None).heads

    def differences(self) -> list[str]:
        """What the models and the database differ in, a line each; raises NoModelsError when env.py names no models."""
        found = self._done("differences", None)["found"]
        if found.get("missing") == "empty":
            raise NoModelsError(
                f"the target_metadata of {self._setup['env_py']!r} has no table, so that nothing can be compared with"
                " it; import the modules there that define the models"
            )

        if "lines" not in found:
            raise NoModelsError(
                f"{self._setup['env_py']!r} gives Alembic no models (target_metadata is None), so that nothing can be"
                " compared with them; write target_metadata = Base.metadata there"
            )

        return list(found["lines"])

    def branches(self, target: str) -> Branches:
        """The history's heads with their labels, those that a target means, and ids that several files have."""
        done = self._done("branches", None, target=target)
        heads = {name: frozenset(labels) for name, labels in done["branches"]["heads"]}
        return Branches(heads, tuple(done["branches"]["meant"]), _doubled(done))

    def fill(
        self,
        files: Collection[str],
        seeds: Collection[str],
        *,
        progress: Progress | None = None,
    ) -> Migrated:
        """Run SQL files that make a schema, and the seeds."""
        __tracebackhide__ = True
        steps = [
            {**self._file(name, self._config.path(name)), "phase": "file"} for name in files
        ]
        return self._migrated("seed", progress, seeds=[*steps, *self._seeds(seeds)])

    def create(
        self,
        names: Collection[str],
        seeds: Collection[str],
        *,
        progress: Progress | None = None,
    ) -> Migrated:
        """Create the tables of metadata, each named as `module:attribute`, and run the seeds."""
        __tracebackhide__ = True
        return self._migrated("create", progress, names=list(names), seeds=self._seeds(seeds))

    def command(
        self,
        words: Collection[str],
        seeds: Collection[str],
        *,
        names: Collection[str],
        progress: Progress | None = None,
    ) -> Migrated:
        """Run the project's own command, to which the variables `names` lead, and the seeds."""
        __tracebackhide__ = True
        return self._migrated(
            "command",
            progress,
            words=list(words),
            limit=self._config.migrate_timeout,
            names=list(names),
            seeds=self._seeds(seeds),
        )

    def stairway(
        self,
        target: str = "heads",
        skip: Collection[str] = (),
        *,
        progress: Progress | None = None,
    ) -> Iterator[Stair]:
        """Each revision up, down and up again, as far as there is a way."""
        for event, output in self._asked(
            "stairway", progress, target=target, skip=sorted(skip)
        ):
            if event["event"] == "stair":
                yield self._stair(event, output())

    def _stair(self, event: Mapping[str, Any], output: str) -> Stair:
        error = None
        if event["failed"]:
            step = {
                "phase": "revision",
                "name": event["name"],
                "path": event["path"],
                "direction": event["failed"],
            }
            error = self._error({**step, **event["error"]}, output)

        return Stair(
            revision=event["name"],
            path=Path(event["path"]),
            message=event["doc"],
            number=event["number"],
            total=event["total"],
            up=event["up"],
            down=event["down"],
            again=event["again"],
            failed=event["failed"],
            irreversible=event["irreversible"],
            error=error,
        )

    def _migrated(self, action: str, progress: Progress | None, **arguments: Any) -> Migrated:
        __tracebackhide__ = True
        done = self._done(action, progress, **arguments)
        return Migrated(
            heads=tuple(done.get("heads", ())),
            revisions=tuple(revision["name"] for revision in done["revisions"]),
            scripts=tuple(Path(revision["path"]) for revision in done["revisions"]),
            read=tuple(Path(path) for path in done["read"]),
            version_tables=tuple((table, schema) for table, schema in done["version_tables"]),
            left_behind=tuple(done["left_behind"]),
            left_out=tuple(done["left_out"]),
            variables=tuple(done["variables"]),
            doubled=_doubled(done),
        )

    def _done(self, action: str, progress: Progress | None, **arguments: Any) -> dict[str, Any]:
        """A request whose last event is all that its caller wants to hear."""
        __tracebackhide__ = True
        *_, (last, _) = self._asked(action, progress, **arguments)
        return last

    def _asked(
        self, action: str, progress: Progress | None, **arguments: Any
    ) -> Iterator[tuple[dict[str, Any], Callable[[], str]]]:
        """The events of a request, each with a function that gives what was printed meanwhile."""
        __tracebackhide__ = True
        progress, finished = progress or Silence(), False
        interpreter = self._started()
        # what earlier requests have printed is not this one's
        start = interpreter.printed()

        def output() -> str:
            return scrub(interpreter.output(start), self._setup["secrets"])

        try:
            for event in interpreter.ask({"action": action, **arguments}, self.waiting):
                if event["event"] in _STEPS:
                    progress.step(
                        event["event"], event["number"], event["total"], event["name"]
                    )
                elif event["event"] == "seeding":
                    progress.say(f"seed {event['name']}")

                finished = event["event"] in ("done", "failed")
                if event["event"] == "failed":
                    raise self._error(event, output())
                yield event, output
                if event["event"] == "stair":
                    start = interpreter.printed()  # each shows what it printed itself

            if not finished:
                tail = "\n".join(output().strip().splitlines()[-15:]) or "it printed nothing"
                raise MigrationError(
                    f"the interpreter that ran the migrations ended without a word ({interpreter.ending()}); its last"
                    f" output:\n{tail}"
                )
        finally:
            # an error, Ctrl-C, or a caller that stopped to ask: what still comes would be taken
            # for an answer to the next request
            if not finished:
                self.close()

    def _error(self, event: Mapping[str, Any], output: str) -> CloneDBError:
        return error_from(
            event, output=output, rootdir=Path(self._setup["rootdir"]), remedy=self._remedy()
        )

    def _seeds(self, seeds: Collection[str]) -> list[dict[str, str]]:
        return [self._seed(seed) for seed in seeds]

    def _seed(self, seed: str) -> dict[str, str]:
        module, colon, function = seed.partition(":")
        # a file's name may have a colon in it, too
        if colon and not seed.endswith(".sql"):
            return {"name": seed, "module": module, "function": function}
        path = self._config.path(seed)
        if not path.is_file() and not is_archive(str(path)):
            raise ConfigError(
                f"{self._config.source('seed')}: seed {seed!r} is neither a file ({path}) nor package.module:function"
            )
        return self._file(seed, path)

    def _file(self, name: str, path: Path) -> dict[str, str]:
        """A file that is run; with the pg_restore that makes SQL of it, if it is none."""
        if not is_archive(str(path)):
            return {"name": name, "path": str(path)}
        # the first that is found
        for program, _ in client_programs(self._config, "pg_restore"):
            return {"name": name, "path": str(path), "pg_restore": str(program)}
        raise ConfigError(
            f"{str(path)!r} is a dump in one of pg_dump's own formats, and there is no pg_restore to read it;"
            " install it (pip install 'clonedb[server]'; Debian: apt-get install postgresql-client), or dump as SQL"
        )

    def _started(self) -> Interpreter:
        if self._interpreter is None:
            self._interpreter = Interpreter(self._setup, self._environment)
        return self._interpreter

    def close(self) -> None:
        """End the interpreter; may be called again."""
        if self._interpreter is not None:
            interpreter, self._interpreter = self._interpreter, None
            interpreter.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _doubled(done: Mapping[str, Any]) -> tuple[tuple[str, tuple[Path, ...]], ...]:
    return tuple((name, tuple(map(Path, paths))) for name, paths in done["doubled"])
