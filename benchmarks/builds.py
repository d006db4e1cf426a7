"""What a build costs as a history grows: from zero, upon a layer with one revision more, and restored from a file."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.apparatus.places import configuration, run, state_dir
from benchmarks.apparatus.schemas import write_long_history
from benchmarks.apparatus.tables import Measurement, Table
from clonedb.postgres import binaries, embedded

__all__ = ["measure"]

# how many revisions there are, how often each is measured, and what one more may cost of a build from zero
LENGTHS = ((10, 5, None), (100, 5, None), (300, 5, 1 / 20), (1000, 2, 1 / 50))
RESTORED = 300
RESTORE_TARGET = 1 / 5
SETTLED = 2.5  # seconds after which a file that was written is not read again

# Opens the template, building it if need be; `asked` is all that the process waited for it, from its first import.
OPEN = """
import json, sys, time
begin = time.perf_counter()
from pathlib import Path
from benchmarks.apparatus.places import configuration
from clonedb.api import open_template
config = configuration(Path(sys.argv[1]), rootdir=Path(sys.argv[2]), keep_templates=50)
with open_template(config, rebuild=sys.argv[3] == "rebuild") as template:
    asked, metadata = time.perf_counter() - begin, template.record.metadata
print(json.dumps({
    "asked": asked, "built": template.record.built, "seconds": metadata.seconds, "revisions": metadata.revisions,
    "upon": metadata.upon, "size": metadata.size,
}))
"""
EXPORT = """
import json, sys, time
from pathlib import Path
from benchmarks.apparatus.places import configuration
from clonedb.api import open_template
from clonedb.templates.dump import export
with open_template(configuration(Path(sys.argv[1]), rootdir=Path(sys.argv[2]))) as template, template.clone() as clone:
    begin = time.perf_counter()
    export(template.server, template.record, clone.name, Path(sys.argv[3]))
    print(json.dumps({"seconds": time.perf_counter() - begin, "size": Path(sys.argv[3]).stat().st_size}))
"""
RESTORE = """
import json, sys, time
from pathlib import Path
from benchmarks.apparatus.places import configuration
from clonedb.api import fingerprint_of
from clonedb.progress import Silence
from clonedb.templates.restore import restore
config = configuration(Path(sys.argv[1]), rootdir=Path(sys.argv[2]))
server, _, wanted = fingerprint_of(config)
template = restore(server, config, wanted, Path(sys.argv[3]), run=sys.argv[4], progress=Silence())
server.close()
print(json.dumps({"built": template.built, "seconds": template.metadata.seconds}))
"""


def measure(*, quick: bool) -> Iterator[Table]:
    """A table for each length of history, and one for restoring; all on a server of their own, data in memory."""
    for length, samples, target in LENGTHS[: 2 if quick else None]:
        with state_dir() as state, embedded.lease(config := configuration(state), binaries.choose(config, ())):
            yield _grown(state, length, 2 if quick else samples, target)
    with state_dir() as state, embedded.lease(config := configuration(state), binaries.choose(config, ())):
        yield _restored(state, RESTORED, 1 if quick else 5)


def _grown(state: Path, length: int, samples: int, target: float | None) -> Table:
    project, versions, later = _project(state, length, samples)
    full = [_open(state, project, "rebuild") for _ in range(samples)]
    grown = []
    for path in later:
        shutil.move(path, versions)
        time.sleep(SETTLED)
        grown.append(_open(state, project, "layers"))
    if any(one["upon"] for one in full) or not all(one["upon"] and one["revisions"] == 1 for one in grown):
        raise RuntimeError(f"what should be built from zero or upon a layer was not: {full}, {grown}")
    whole = statistics.median(one["seconds"] for one in full)
    one_more = [one["seconds"] / whole for one in grown]
    rows = [
        Measurement("from zero: migrate, prepare, seal", [one["seconds"] for one in full], "s"),
        Measurement("  ... all that a process waits for", [one["asked"] for one in full], "s"),
        Measurement("one new revision upon the layer", [one["seconds"] for one in grown], "s"),
        Measurement("  ... all that a process waits for", [one["asked"] for one in grown], "s"),
        Measurement("one new revision, of a build from zero", one_more, "x", target),
    ]
    about = f"A table of 20 rows with indexes and references a revision; {full[0]['size'] / 1e6:.0f} MB."
    return Table(f"Build of {length:,} revisions", about, rows)


def _restored(state: Path, length: int, samples: int) -> Table:
    project, _, _ = _project(state, length, 0)
    file = state / "template.clonedb"
    time.sleep(SETTLED)
    full = [_open(state, project, "rebuild") for _ in range(samples)]
    exported = [run(EXPORT, str(state), str(project), str(file))[1] for _ in range(samples)]
    restored = []
    for number in range(samples):
        _forget(state)
        restored.append(run(RESTORE, str(state), str(project), str(file), str(number))[1])
    if not all(one["built"] for one in restored):
        raise RuntimeError(f"a template was there that should be restored: {restored}")
    whole = statistics.median(one["seconds"] for one in full)
    rows = [
        Measurement("build from zero", [one["seconds"] for one in full], "s"),
        Measurement("clonedb export", [one["seconds"] for one in exported], "s"),
        Measurement("clonedb import", [one["seconds"] for one in restored], "s"),
        Measurement("import, of a build from zero", [one["seconds"] / whole for one in restored], "x", RESTORE_TARGET),
    ]
    about = f"The file is {exported[0]['size'] / 1e6:.1f} MB; the template {full[0]['size'] / 1e6:.0f} MB."
    return Table(f"Export and import of {length:,} revisions", about, rows)


def _project(state: Path, length: int, later: int) -> tuple[Path, Path, list[Path]]:
    """A project of so many revisions, and files of later ones beside it, in order."""
    project, aside = state / "project", state / "later"
    write_long_history(project, revisions=length + later)
    versions = project / "migrations" / "versions"
    aside.mkdir()
    names = [f"r{number:04}.py" for number in range(length + 1, length + later + 1)]
    return project, versions, [Path(shutil.move(versions / name, aside)) for name in names]


def _open(state: Path, project: Path, how: str) -> dict[str, Any]:
    return run(OPEN, str(state), str(project), how)[1]


def _forget(state: Path) -> None:
    from clonedb.gc import collect
    from clonedb.postgres.server import open_server

    server = open_server(configuration(state))
    try:
        collect(server, everything=True)
    finally:
        server.close()
