"""What real histories cost: installed, built in full, found again, cloned; and the sample shop's beside them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import clonedb.demo
from benchmarks.apparatus.places import configuration, environment, state_dir, timed
from benchmarks.apparatus.tables import Measurement, Table
from benchmarks.published import HISTORIES, History, install
from clonedb.embedded import binaries, leases

__all__ = ["measure"]

# Opens the template (building it when the first argument says so), then clones; all times in seconds.
OPEN = """
import json, sys, time
begin = time.perf_counter()
import clonedb
from clonedb.api import open_template
from clonedb.settings.load import load
from pathlib import Path
with open_template(load(Path.cwd()), rebuild=sys.argv[1] == "rebuild") as template:
    opened = time.perf_counter() - begin
    metadata = template.record.metadata
    clones = []
    for _ in range(int(sys.argv[2])):
        start = time.perf_counter()
        clone = template.clone()
        clone.connect().close()
        clones.append(time.perf_counter() - start)
        clone.drop()
    print(json.dumps({
        "opened": opened, "built": template.record.built, "seconds": metadata.seconds, "clones": clones,
        "revisions": metadata.revisions, "heads": metadata.heads, "size": metadata.size,
    }))
"""


def measure(*, quick: bool) -> Iterator[Table]:
    """A table for each history; they share one server."""
    with state_dir() as state:
        config = configuration(state)
        variables = environment(CLONEDB_STATE_DIR=str(state), CLONEDB_IDLE_TIMEOUT="300")
        with leases.lease(config, binaries.choose(config, ())):
            for history in HISTORIES:
                yield _published(history, state, variables, quick=quick)
            shop = Path(clonedb.demo.__file__).parent
            yield _table(
                "Sample shop",
                "The shop that clonedb comes with",
                sys.executable,
                shop,
                variables,
                quick=quick,
            )


def _published(
    history: History, state: Path, variables: Mapping[str, str], *, quick: bool
) -> Table:
    installed = install(history)
    project = state / history.name
    history.write_project(project)
    about = f"Installed from exact pins in {installed.seconds:.1f} s, {'now' if installed.made else 'some time ago'}"
    title, variables = (
        f"{history.name} {history.version}",
        installed.variables(variables, project),
    )
    return _table(title, about, installed.python, project, variables, quick=quick)


def _table(
    title: str,
    about: str,
    python: str,
    project: Path,
    variables: Mapping[str, str],
    *,
    quick: bool,
) -> Table:
    def run(*arguments: str) -> tuple[float, dict[str, Any]]:
        seconds, _, text = timed(
            [python, "-c", OPEN, *arguments], cwd=project, variables=variables
        )
        found = json.loads(text.strip().splitlines()[-1])
        assert isinstance(found, dict)
        return seconds, found

    builds = [run("rebuild", "0") for _ in range(1 if quick else 3)]
    reuses = [run("reuse", "5" if quick else "20") for _ in range(2 if quick else 5)]
    found = builds[0][1]
    if not all(one["built"] for _, one in builds) or any(one["built"] for _, one in reuses):
        raise RuntimeError(
            f"{title} was not built when it should be, or built when it was there: {builds}, {reuses}"
        )
    rows = [
        Measurement("revisions", [found["revisions"]], ""),
        Measurement(
            "full build: create, migrate, prepare, seal",
            [one["seconds"] for _, one in builds],
            "s",
        ),
        Measurement("  ... the whole process", [whole for whole, _ in builds], "s"),
        Measurement(
            "reuse: from the import of clonedb to the template",
            [one["opened"] for _, one in reuses],
            "s",
        ),
        Measurement(
            "  ... the whole process, clones included", [whole for whole, _ in reuses], "s"
        ),
        Measurement(
            "clone, with its first connection",
            [t * 1e3 for _, one in reuses for t in one["clones"]],
            "ms",
        ),
    ]
    heads = ", ".join(found["heads"])
    about += f"; migrated to {heads}, {found['size'] / 1e6:.1f} MB. The embedded server is up, its data in memory."
    return Table(title, about, rows)
