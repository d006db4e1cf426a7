"""What the plugin adds to a pytest run in which no test asks for a database: every run of the environment pays it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.apparatus.places import environment, run, timed
from benchmarks.apparatus.tables import Measurement, Table, difference

__all__ = ["measure"]

TARGET = 5.0  # milliseconds

# The whole of it in one process: importing the plugin, registering it, and each of its hooks that such a run calls.
INSIDE = """
import contextlib, functools, io, json, sys, time, types
import pytest
spent = {"hooks": 0.0}

def timed(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent["hooks"] += time.perf_counter() - start
    return wrapper

start = time.perf_counter()
import clonedb.pytest_plugin as plugin
spent["import"] = time.perf_counter() - start

for name, value in list(vars(plugin).items()):
    wrapper = getattr(value, "pytest_impl", None) and value.pytest_impl.get("wrapper")
    if name.startswith("pytest_") and callable(value) and not wrapper:
        setattr(plugin, name, timed(value))

register = pytest.PytestPluginManager.register
def registering(self, plugin_, name=None):
    start = time.perf_counter()
    before = spent["hooks"]
    try:
        return register(self, plugin_, name)
    finally:
        if plugin_ is plugin:  # hooks that are called for its registration are counted already
            spent["registration"] = time.perf_counter() - start - (spent["hooks"] - before)
pytest.PytestPluginManager.register = registering

with contextlib.redirect_stdout(io.StringIO()):
    code = pytest.main(["-p", "clonedb.pytest_plugin", "-p", "no:cacheprovider", "-c", sys.argv[1], sys.argv[2]])
assert code == 0 and "registration" in spent, (code, spent)
print(json.dumps(spent))
"""


def measure(*, quick: bool) -> Iterator[Table]:
    """One table: with and without, in turns, and the parts of it measured inside one process."""
    pairs = 1 if quick else 40
    with tempfile.TemporaryDirectory(prefix="clonedb-benchmark-") as name:
        directory = Path(name)
        ini, test = directory / "pytest.ini", directory / "test_trivial.py"
        ini.write_text("[pytest]\n")
        test.write_text("def test_trivial():\n    assert True\n")
        (directory / "nothing.py").write_text("")
        alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        # an empty plugin in its place: whatever -p names is looked up among all entry points, which costs 10 ms
        nothing = ["-p", "nothing"]
        rows = [
            *_compare(
                "no other plugin",
                directory,
                pairs,
                without=nothing,
                with_it=["-p", "clonedb"],
                variables=alone,
            ),
            *_compare(
                "beside others",
                directory,
                pairs,
                without=["-p", "no:clonedb"],
                with_it=[],
                variables={},
            ),
            *_inside(ini, test, pairs),
        ]
    about = (
        "A whole pytest run of one trivial test, with the plugin and without in turns; what it adds is the median of"
        " the differences of neighbours. Processor time is user and system time of the process. Inside: the plugin's"
        " import, its registration and its hooks timed in one process, which the machine's noise disturbs least."
    )
    yield Table("Registration of the plugin", about, rows)


def _compare(
    label: str,
    directory: Path,
    pairs: int,
    *,
    without: Sequence[str],
    with_it: Sequence[str],
    variables: Mapping[str, str],
) -> Iterator[Measurement]:
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    samples: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    for number in range(pairs + 1):
        for name, options in (("without", without), ("with", with_it)):
            command = [*pytest, *options, "test_trivial.py"]
            clock, processor, _ = timed(
                command, cwd=directory, variables=environment(**variables)
            )
            if number:  # the first pair warms up
                samples[name].append((clock * 1e3, processor * 1e3))
    clocks = {name: [clock for clock, _ in found] for name, found in samples.items()}
    processors = {
        name: [processor for _, processor in found] for name, found in samples.items()
    }
    yield Measurement(f"{label}: without", clocks["without"], "ms")
    yield Measurement(f"{label}: with", clocks["with"], "ms")
    yield difference("  adds", clocks["with"], clocks["without"], unit="ms", target=TARGET)
    yield difference(
        "  adds, processor time",
        processors["with"],
        processors["without"],
        unit="ms",
        target=TARGET,
    )


def _inside(ini: Path, test: Path, times: int) -> Iterator[Measurement]:
    found = [
        run(
            INSIDE,
            str(ini),
            str(test),
            variables=environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        )[1]
        for _ in range(times)
    ]
    parts = {
        name: [one[name] * 1e3 for one in found] for name in ("import", "registration", "hooks")
    }
    for name, samples in parts.items():
        yield Measurement(f"inside: {name}", samples, "ms")
    yield Measurement(
        "inside: all of it",
        [sum(one) for one in zip(*parts.values(), strict=True)],
        "ms",
        TARGET,
    )
