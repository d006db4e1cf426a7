"""`python -m tests.differential`: random programs on clones, and a rewound clone against a fresh one after each."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.differential import template
from tests.differential.chaos import CHAOS, Chaos
from tests.differential.faults import FAULTS, Fault
from tests.differential.grammar import MIXES
from tests.differential.laboratory import Tally
from tests.differential.runs import Orders, in_processes
from tests.differential.sessions import share
from tests.differential.template import SERVERS
from tests.differential.world import PARTS, available


@click.command()
@click.option("--programs", default=200, show_default=True, help="How many to run.")
@click.option(
    "--postgres", help="A major version that is installed, or the directory of its programs."
)
@click.option(
    "--seed",
    type=int,
    help="The same number gives the same programs; a random one if not given.",
)
@click.option(
    "--jobs", default=len(os.sched_getaffinity(0)), show_default=True, help="Processes."
)
@click.option(
    "--every",
    default=10,
    show_default=True,
    help="pg_dump and catalogs after each so many on a clone.",
)
@click.option(
    "--mix", type=click.Choice(list(MIXES)), help="What programs do: the fault's, or mixed."
)
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(["all", *PARTS]),
    help="What the template has besides the ordinary tables; more than one may be given.",
)
@click.option(
    "--without", multiple=True, type=click.Choice(list(PARTS)), help="All parts but this one."
)
@click.option(
    "--chaos", type=click.Choice(CHAOS), help="Strangers, or crashes: the fault's, or none."
)
@click.option("--keep-going", is_flag=True, help="Count differences, and show the first.")
@click.option(
    "--fault",
    type=click.Choice(sorted(FAULTS)),
    help="Break the undoing in a known way: must be found.",
)
@click.option(
    "--server", type=click.Choice(list(SERVERS)), help="Its settings: the fault's, or tuned."
)
@click.option(
    "--far",
    is_flag=True,
    help="As on a distant server: what was probably written is undone while the WAL is read.",
)
@click.option(
    "--shrink",
    "patience",
    default=60.0,
    show_default=True,
    help="Seconds to look for the least program.",
)
@click.option(
    "--complaints",
    is_flag=True,
    help="Show which statements failed, and programs that were refused.",
)
def main(
    programs: int,
    postgres: str | None,
    seed: int | None,
    jobs: int,
    every: int,
    *,
    mix: str | None,
    parts: tuple[str, ...],
    without: tuple[str, ...],
    chaos: Chaos | None,
    keep_going: bool,
    fault: str | None,
    server: str | None,
    far: bool,
    patience: float,
    complaints: bool,
) -> None:
    """Run random programs, each followed by an undoing and a comparison; ends with 1 when a difference was found."""
    seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    found = template.binaries_of(postgres)
    pg_dump = template.pg_dump(found)
    shows = FAULTS[fault] if fault else Fault(contextlib.nullcontext)
    mix, server, parts, chaos = (
        mix or shows.mix,
        server or shows.server,
        parts or shows.parts,
        chaos or shows.chaos,
    )
    possible = available(found.extensions())
    chosen = tuple(
        part
        for part in possible
        if part not in without and (without or "all" in parts or part in parts)
    )
    jobs = 1 if chaos == "crash" else jobs
    console.print(
        f"PostgreSQL {found.version} ({server}), {mix} with {', '.join(chosen) or 'no parts'}, chaos: {chaos},"
        f" seed {seed}, {programs} programs, {jobs} processes;",
        end=" ",
    )
    console.print(f"pg_dump: {pg_dump or 'none here that can read it'}", soft_wrap=True)
    start = time.monotonic()

    def report(tally: Tally) -> None:
        console.print(f"{tally.programs} programs after {time.monotonic() - start:.0f} s")

    with contextlib.ExitStack() as stack:
        url = stack.enter_context(template.server(found, server))
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="clonedb-differential-"))
        )
        orders = Orders(
            url=url,
            directory=directory,
            seed=seed,
            every=every,
            pg_dump=pg_dump,
            mix=dict(MIXES[mix]),
            parts=chosen,
            fault=fault,
            far=far,
            patience=patience,
            chaos=chaos,
            chunk=min(500, max(1, programs // jobs)) if mix in {"calm", "chain"} else 100,
            keep_going=keep_going,
        )
        with template.opened(url, directory, chosen):
            tally, error = in_processes(orders, programs, jobs, report)
    show(tally, console, complaints=complaints)
    if error is not None:
        console.print(error, markup=False, soft_wrap=True)
        raise SystemExit(1)


def show(tally: Tally, console: Console, *, complaints: bool = False) -> None:
    """The counts."""
    shown = Table("", "programs", "share")
    rows = [("untouched", tally.untouched), ("rewound", tally.rewound)]
    rows += [(f"refused: {reason}", count) for reason, count in tally.refused.most_common()]
    rows += [("refused, where DDL changed the schema", tally.refused_schema.total())]
    for label, count in rows:
        shown.add_row(label, str(count), f"{count / max(1, tally.programs):.1%}")
    console.print(shown)
    others = max(1, tally.programs - tally.refused_schema.total())
    console.print(
        f"{tally.refused.total() / others:.1%} of the {others} programs without such DDL were refused;"
        f" {tally.different} times a clone differed"
    )
    if tally.lives:
        console.print(
            f"a clone served {statistics.median(tally.lives):.0f} programs (median), {max(tally.lives)} at most"
        )
    groups = sorted({group for group, _ in tally.statements})
    parts = [
        (name, {key: n for key, n in tally.statements.items() if key[0] == name})
        for name in groups
    ]
    each = ", ".join(
        f"{name} {share(counts):.0%} of {sum(counts.values())}" for name, counts in parts
    )
    console.print(
        f"{share(tally.statements):.1%} of {tally.statements.total()} statements succeeded: {each}"
    )
    if tally.milliseconds:
        console.print(
            f"undoing: median {statistics.median(tally.milliseconds):.2f} ms; {tally.dumps} times pg_dump"
        )
    if complaints:
        for reason, program in tally.examples.items():
            console.print(f"refused: {reason}\n{program}", markup=False, soft_wrap=True)
        for text, count in tally.complaints.most_common(60):
            console.print(f"{count:5} {text}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main(prog_name="python -m tests.differential")
