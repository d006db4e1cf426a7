"""What a build costs as a history grows: from zero, upon a layer with one revision more, and restored from a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.apparatus.places import configuration, run, state_dir
from benchmarks.apparatus.schemas import write_long_history
from benchmarks.apparatus.tables import Chart, Measurement, Table, ratio
from clonedb.embedded import binaries, leases

__all__ = ["measure"]

# how many revisions there are, how often each is measured, and what one more may cost of a build from zero
LENGTHS = ((10, 5, None), (100, 5, None), (300, 5, 1 / 20), (1000, 3, 1 / 50))
RESTORED = 300
RESTORE_TARGET = 1 / 5

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
from clonedb.archive.dump import export
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
from clonedb.archive.restore import restore
config = configuration(Path(sys.argv[1]), rootdir=Path(sys.argv[2]))
server, _, wanted = fingerprint_of(config)
template = restore(
    server, config, wanted, Path(sys.argv[3]), require=lambda digest: None, run=sys.argv[4], progress=Silence()
)
server.close()
print(json.dumps({"built": template.built, "seconds": template.metadata.seconds}))
"""


def measure(*, quick: bool) -> Iterator[Table]:
    """A table in which histories grow, and one for restoring; on servers of their own, data in memory."""
    yield _histories(LENGTHS[: 2 if quick else None], quick=quick)
    with _server() as state:
        yield _restored(state, LENGTHS[1][0] if quick else RESTORED, 1 if quick else 4)


def _histories(lengths: Sequence[tuple[int, int, float | None]], *, quick: bool) -> Table:
    points, ratios, sizes = [], [], []
    for length, samples, target in lengths:
        with _server() as state:
            full, grown, same = _builds(state, length, 1 if quick else samples)
        for series, found, key in (
            ("from zero", full, "seconds"),
            ("one revision more", grown, "seconds"),
            ("nothing new: all that a process waits for", same, "asked"),
        ):
            label = f"{series}, {length:,} revisions"
            points.append(
                Measurement(label, [one[key] for one in found], "s", series=series, at=length)
            )
        for about, found in (("from zero", full), ("one more", grown)):
            label = f"{about}, {length:,} revisions: all that a process waits for"
            ratios.append(Measurement(label, [one["asked"] for one in found], "s"))
        one_more, zero = ([one["seconds"] for one in found] for found in (grown, full))
        ratios.append(
            ratio(
                f"one revision more / from zero, {length:,} revisions", one_more, zero, target
            )
        )
        sizes.append(f"{full[0]['size'] / 1e6:.0f}")
    about = (
        "A revision is a table of 20 rows with indexes and references. From zero: migrate, prepare, seal; one revision"
        " more upon the layer of all the others; in turns, each in a process of its own. What a process waits for is"
        f" counted from its first import. The templates have {', '.join(sizes)} MB."
    )
    return Table(
        "Builds as revisions grow",
        about,
        [*points, *ratios],
        Chart("lines", y="s", x="revisions"),
    )


def _builds(state: Path, length: int, samples: int) -> tuple[list[dict[str, Any]], ...]:
    """Builds from zero, builds of one revision more, and looks at a template that is there; in turns."""
    project, later = _project(state, length)
    text, place = later.read_text(), project / "migrations" / "versions" / later.name
    full, grown, same = [], [], []
    for number in range(samples):
        full.append(_open(state, project, "rebuild"))
        place.write_text(
            f"{text}\n# {number}\n"
        )  # or the template of the last time would be found
        grown.append(_open(state, project, "layers"))
        place.unlink()
        same.append(_open(state, project, "layers"))
    if any(one["upon"] for one in full) or not all(
        one["upon"] and one["revisions"] == 1 for one in grown
    ):
        raise RuntimeError(
            f"what should be built from zero or upon a layer was not: {full}, {grown}"
        )
    if any(one["built"] for one in same):
        raise RuntimeError(f"what was there was built: {same}")
    return full, grown, same


def _restored(state: Path, length: int, samples: int) -> Table:
    project, _ = _project(state, length)
    file = state / "template.clonedb"
    full, exported, restored = [], [], []
    for number in range(samples):
        full.append(_open(state, project, "rebuild"))
        exported.append(run(EXPORT, str(state), str(project), str(file))[1])
        _forget(state)
        restored.append(run(RESTORE, str(state), str(project), str(file), str(number))[1])
    if not all(one["built"] for one in restored):
        raise RuntimeError(f"a template was there that should be restored: {restored}")
    seconds = {
        "build from zero": full,
        "clonedb export": exported,
        "clonedb import": restored,
    }
    rows = [
        Measurement(label, [one["seconds"] for one in found], "s", series=label)
        for label, found in seconds.items()
    ]
    whole, again = ([one["seconds"] for one in found] for found in (full, restored))
    rows.append(
        ratio(
            "import / build from zero",
            again,
            whole,
            RESTORE_TARGET if length == RESTORED else None,
        )
    )
    about = f"In turns. The file is {exported[0]['size'] / 1e6:.1f} MB; the template {full[0]['size'] / 1e6:.0f} MB."
    return Table(
        f"Export and import of {length:,} revisions", about, rows, Chart("bars", y="s")
    )


@contextlib.contextmanager
def _server() -> Iterator[Path]:
    """A state directory whose server is up."""
    with (
        state_dir() as state,
        leases.lease(config := configuration(state), binaries.choose(config, ())),
    ):
        yield state


def _project(state: Path, length: int) -> tuple[Path, Path]:
    """A project of so many revisions, and the file of the next one, beside it."""
    project = state / "project"
    write_long_history(project, revisions=length + 1)
    later = project / "migrations" / "versions" / f"r{length + 1:04}.py"
    return project, later.rename(state / later.name)


def _open(state: Path, project: Path, how: str) -> dict[str, Any]:
    return run(OPEN, str(state), str(project), how)[1]


def _forget(state: Path) -> None:
    from clonedb.clones.gc import collect
    from clonedb.postgres.servers import open_server

    server = open_server(configuration(state))
    try:
        collect(server, everything=True)
    finally:
        server.close()
