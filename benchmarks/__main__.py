"""`python -m benchmarks [NAMES...]`: measure what clonedb claims, and print targets beside what was reached."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.apparatus.machine import Machine
from benchmarks.apparatus.tables import show

NAMES = ("server", "clone", "fingerprint", "registration", "demo", "histories", "builds", "rewind", "pool")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--quick", is_flag=True, help="Few samples: to see that it works, not what it costs.")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Also write all samples there.")
def main(names: tuple[str, ...], *, quick: bool, path: Path | None) -> None:
    """Run the benchmarks NAMES, or all of them, on a server and state directories of their own."""
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    machine = Machine.here()
    found: dict[str, Any] = {"machine": dataclasses.asdict(machine), "quick": quick, "benchmarks": {}}
    for name in names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        tables = found["benchmarks"][name] = []
        for table in module.measure(quick=quick):
            show(table, machine, console)
            tables.append(table.as_json())
            if path is not None:
                path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
