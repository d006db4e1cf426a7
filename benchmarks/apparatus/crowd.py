"""Workers on one server, each with a clone that it writes to and rewinds: what a test of theirs costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.apparatus.places import CHECKOUT, environment
from clonedb.api import Template

__all__ = ["Paid", "Spent", "crowd", "postmaster_of", "together"]

# A worker: it says when it is ready, begins when it is told, and writes what it did and the processor time it took.
_WORKER = """
import contextlib, json, sys, time
from pathlib import Path
from benchmarks.apparatus.work import write
from benchmarks.apparatus.places import configuration
from benchmarks.apparatus.handing import ByStrategy, milliseconds
from clonedb.api import open_template
state, project, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
with open_template(configuration(state, rootdir=project)) as template, contextlib.ExitStack() as stack:
    way = ByStrategy(template, "auto", stack)
    for _ in range(20):
        milliseconds(way, write)
    print("ready", flush=True)
    sys.stdin.readline()
    samples, begin, processor = [], time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        samples.append(milliseconds(way, write))
    spent = time.perf_counter() - begin
    print(json.dumps({"samples": samples, "seconds": spent, "processor": time.process_time() - processor}), flush=True)
    sys.stdin.readline()
"""


@dataclass(frozen=True, slots=True)
class Paid:
    """What tests cost when so many workers ran them: set-up and tear-down, the whole test, and processor time, in ms.

    Processor time is that of the worker and of the server's processes together, for one test. `cores` is how many
    processors the machine's other programs left for all of it.
    """

    samples: Sequence[float]
    whole: float
    processor: float
    cores: float


def crowd(
    template: Template, state: Path, project: Path, workers: int, *, seconds: float
) -> Paid:
    """Run so many workers at once, for so long."""
    command = [sys.executable, "-c", _WORKER, str(state), str(project), str(seconds)]
    spent = together([command] * workers, [postmaster_of(template)])
    tests = sum(len(one["samples"]) for one in spent.found)
    ours = spent.server + sum(one["processor"] for one in spent.found)
    return Paid(
        samples=[sample for one in spent.found for sample in one["samples"]],
        whole=sum(one["seconds"] for one in spent.found) / tests * 1e3,
        processor=ours / tests * 1e3,
        cores=len(os.sched_getaffinity(0)) - max(0.0, spent.busy - ours) / spent.elapsed,
    )


@dataclass(frozen=True, slots=True)
class Spent:
    """What workers wrote, and the seconds of processor time meanwhile: of the servers, and of all programs."""

    found: Sequence[dict[str, Any]]
    server: float
    busy: float
    elapsed: float


def together(commands: Sequence[Sequence[str]], postmasters: Sequence[int]) -> Spent:
    """Run workers that begin at the same moment; each writes a line when it is ready, and JSON when it has ended."""
    variables = {**environment(), "PYTHONPATH": str(CHECKOUT)}
    processes = [
        subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for command in commands
    ]
    try:
        for process in processes:
            _line(process)
        time.sleep(0.2)
        before, busy, start = _all_seconds(postmasters), _busy_seconds(), time.monotonic()
        for process in processes:
            _go_on(process)
        found = [json.loads(_line(process)) for process in processes]
        spent, busy = _all_seconds(postmasters) - before, _busy_seconds() - busy
        elapsed = time.monotonic() - start
        for process in processes:
            _go_on(process)
            process.wait(60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return Spent(found, spent, busy, elapsed)


def postmaster_of(template: Template) -> int:
    """The process of the embedded server that a template is on."""
    lease = template.server.lease
    assert lease is not None
    return int((lease.data_dir / "postmaster.pid").read_text().splitlines()[0])


def _all_seconds(postmasters: Sequence[int]) -> float:
    return sum(map(_server_seconds, postmasters))


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended with {process.wait()}")
    return line


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _server_seconds(postmaster: int) -> float:
    """Processor time of the server: its process, children that live, and children that have ended (Linux)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(path.parent.name) == postmaster:
            ticks += sum(
                map(int, fields[11:15])
            )  # user, system, and those of children waited for
        elif int(fields[1]) == postmaster:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _busy_seconds() -> float:
    """Processor time of all programs, and what the machine's host took away (Linux)."""
    user, nice, system, _, _, interrupts, softly, stolen, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + interrupts + softly + stolen) / os.sysconf("SC_CLK_TCK")
