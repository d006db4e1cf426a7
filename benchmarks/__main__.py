"""`python -m benchmarks [NAMES...]`: measure what clonedb claims, and print targets beside what was reached."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib
import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.apparatus.machine import Machine
from benchmarks.apparatus.tables import show

COMPARED = ("ways", "peers", "suites", "scale", "inner", "ordinary", "builds")
ALONE = (
    "registration",
    "fingerprint",
    "rewind",
    "distance",
    "neighbours",
    "servers",
    "service",
    "pool",
    "clone",
    "server",
    "demo",
    "histories",
)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice((*COMPARED, *ALONE)))
@click.option(
    "--quick", is_flag=True, help="Few samples: to see that it works, not what it costs."
)
@click.option(
    "--json",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all samples there, too; what other benchmarks wrote into it before stays.",
)
@click.option(
    "--pictures",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw what --json has by then, as SVG and PNG, into this directory.",
)
def main(
    names: tuple[str, ...], *, quick: bool, path: Path | None, directory: Path | None
) -> None:
    """Run the benchmarks NAMES, or all that compare, on servers and state directories of their own."""
    if directory is not None and path is None:
        raise click.UsageError("--pictures draws what --json FILE holds: give that, too")
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    machine = Machine.here()
    found = _found(path, machine, quick=quick)
    for name in names or COMPARED:
        module, start = importlib.import_module(f"benchmarks.{name}"), time.monotonic()
        tables = found["benchmarks"][name] = []
        for table in module.measure(quick=quick):
            show(table, machine, console)
            tables.append(table.as_json())
            if path is not None:
                path.write_text(json.dumps(found, indent=1) + "\n")
        console.print(f"{name}: {time.monotonic() - start:.0f} s\n", style="dim")
    if directory is not None:
        from benchmarks.pictures import draw

        for file in draw(found, directory):
            console.print(str(file), style="dim")


def _found(path: Path | None, machine: Machine, *, quick: bool) -> dict[str, Any]:
    """What is written: the machine, the day, and what an earlier run on the same machine and versions has found."""
    here = {**dataclasses.asdict(machine), "load": None}
    before: dict[str, Any] = {}
    if path is not None and path.exists():
        written = json.loads(path.read_text())
        if {**written["machine"], "load": None} == here and written["quick"] == quick:
            before = written["benchmarks"]
    return {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "machine": dataclasses.asdict(machine),
        "quick": quick,
        "benchmarks": before,
    }


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
