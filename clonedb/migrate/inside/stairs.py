"""Each revision up, down and up again: single steps, each a run of env.py of its own."""

from __future__ import annotations

import ast
import gc
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonedb.migrate.inside.failure import describe

if TYPE_CHECKING:
    from alembic.script import Script

    from clonedb.migrate.inside.environment import AlembicEnvironment

__all__ = ["Stairs"]

_STEPS = (("upgrade", "up"), ("downgrade", "down"), ("second upgrade", "again"))


class Stairs:
    """The stairway of one database, in the order in which `alembic upgrade` would take the revisions.

    That order ends each revision's ancestors and dependencies before it begins, so that a
    single step is possible there: at a branch it adds a row to the version table, at a merge
    point it makes one of several, and the step down undoes that. `step` is told of each step
    before it is taken.
    """

    def __init__(
        self,
        environment: AlembicEnvironment,
        setup: Mapping[str, Any],
        step: Callable[..., None],
    ) -> None:
        self._environment = environment
        self._setup = setup
        self._step = step

    def climb(self, target: str, skip: Collection[str]) -> Iterator[dict[str, Any]]:
        """What became of each revision up to a target; those in `skip`, which come first, are only upgraded.

        A step that fails leaves the database as it was, if env.py and the revision do all in
        one transaction. When it is somewhere else, or a revision cannot go up, there is no way
        on, and this is the last.
        """
        planned = self._plan(target)
        self._take([script for script in planned if script.revision in skip], up=True)
        tried = [script for script in planned if script.revision not in skip]
        for number, script in enumerate(tried, len(planned) - len(tried) + 1):
            self._step("upgrade", script, number=number, total=len(planned))
            stair = {"name": script.revision, "path": script.path, "doc": script.doc or ""}
            yield (
                found := {**stair, "number": number, "total": len(planned), **self._try(script)}
            )
            if found["failed"] and not found["fit"]:
                return

    def _plan(self, target: str) -> list[Script]:
        planned: list[Script] = []

        def look(heads: Any, _context: Any) -> list[Any]:
            # asked for while env.py runs, as that may say where revisions are; none is taken
            steps = self._environment.script._upgrade_revs(target, heads)  # noqa: SLF001 - as `alembic upgrade` does
            planned.extend(step.revision for step in steps if step.revision not in planned)
            return []

        self._environment.run(look, command=("upgrade", target), dont_mutate=True)
        return planned

    def _try(self, script: Script) -> dict[str, Any]:
        found: dict[str, Any] = dict.fromkeys(("up", "down", "again", "failed", "error"))
        found |= {"irreversible": False, "fit": True}
        for direction, name in _STEPS:
            self._step(direction, script)
            before, start = (
                self._environment.heads() if name == "down" else None,
                time.perf_counter(),
            )
            try:
                _reload(script)
                if name == "down" and not hasattr(script.module, "downgrade"):
                    raise NotImplementedError(  # noqa: TRY301
                        f"revision {script.revision!r} has no function downgrade()"
                    )

                self._take([script], up=name != "down")
            except BaseException as error:  # noqa: BLE001 - SystemExit of an env.py is a failure like others
                found |= {"failed": direction, "error": describe(error, self._setup)}
                found["irreversible"] = name == "down" and _says_no(error, script)
            else:
                found[name] = round(time.perf_counter() - start, 4)
                continue

            gc.collect()  # a connection that a frame of the traceback held would block the steps to come
            found["fit"] = name == "down" and self._environment.heads() == before
            break

        return found

    def _take(self, scripts: list[Script], *, up: bool) -> None:
        from alembic.runtime.migration import RevisionStep

        if not scripts:
            return
        revisions = self._environment.script.revision_map

        def steps(_heads: Any, _context: Any) -> list[Any]:
            return [RevisionStep(revisions, script, is_upgrade=up) for script in scripts]

        self._environment.run(steps, command=("upgrade", "+1") if up else ("downgrade", "-1"))


def _reload(script: Script) -> None:
    """Read a revision's file anew, as the next `alembic` command would: upgrade() may fill what the module holds."""
    from alembic.util import load_python_file

    path = Path(script.path)
    if path.suffix == ".py":
        script.module = load_python_file(str(path.parent), path.name)


def _says_no(error: BaseException, script: Script) -> bool:
    """Whether the revision itself says that there is no way back: that is how people write it.

    It raises NotImplementedError, or downgrade() raises something else whatever the database
    holds.
    """
    # the innermost frame is where it was raised
    last = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, NotImplementedError):
        return last.filename in (script.path, __file__)
    if last.filename != script.path:
        return False
    for function in ast.parse(Path(script.path).read_bytes()).body:
        if isinstance(function, ast.FunctionDef) and function.name == "downgrade":
            return any(
                isinstance(node, ast.Raise) and node.lineno == last.lineno
                for node in function.body
            )

    return False
