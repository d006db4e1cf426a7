"""The benchmarks run, hand over what they found, and draw it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.apparatus.tables import Chart, Measurement, Table, ratio
from benchmarks.pictures import PICTURES, Picture, draw
from tests.campaigns import VARIANT

CHECKOUT = Path(__file__).parents[2]


def measured(*words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks` with these words, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=CHECKOUT,
        env={**os.environ, "COLUMNS": "150"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.campaign("long")
@pytest.mark.parametrize(
    "name",
    [
        "fingerprint",
        *(
            pytest.param(name, marks=VARIANT)
            for name in ("inner", "distance", "neighbours", "servers")
        ),
    ],
)
def test_a_benchmark_runs(tmp_path: Path, name: str) -> None:
    """A benchmark is run by its name, prints its targets, and writes every sample into one file with the others."""
    file = tmp_path / "found.json"
    file.write_text(json.dumps({"machine": {}, "quick": True, "benchmarks": {"old": []}}))
    done = measured("--quick", "--json", str(file), name)
    assert done.returncode == 0, done.stderr
    assert "target" in done.stdout
    found = json.loads(file.read_text())
    assert list(found["benchmarks"]) == [
        name
    ]  # what another machine had found is not mixed with this one's
    for table in found["benchmarks"][name]:
        assert all(one["samples"] for one in table["measurements"])
        assert any(one["target"] for one in table["measurements"])


def test_pictures_need_what_was_found(tmp_path: Path) -> None:
    """Pictures are drawn of a file, which the message asks for."""
    done = measured("--pictures", str(tmp_path))
    assert done.returncode == 2
    assert "--json" in done.stderr


def found_for(pictures: Any) -> dict[str, Any]:
    """Something measured for each picture, in the form that benchmarks write."""
    charts = (Chart("bars", y="ms a test"), Chart("lines", y="ms a test", x="tables"))
    benchmarks: dict[str, list[Any]] = {}
    for number, picture in enumerate(pictures):
        chart = charts[number % 2]
        rows = [
            Measurement(f"way {at}", [at / 7, at / 5], "ms", series=series, at=at)
            for series in ("clonedb", "others")
            for at in (1, 10, 100)
        ]
        rows.append(ratio("one of the other", [1.0], [2.0], 1.0))
        for benchmark, words in picture.tables:
            benchmarks.setdefault(benchmark, []).append(
                Table(f"{words}, of all", "", rows, chart).as_json()
            )
    versions = dict.fromkeys(
        ("PostgreSQL", "Python", "sqlalchemy", "alembic", "psycopg", "pytest"),
        "1.2 (somewhere)",
    )
    machine = {"processor": "A processor", "cores": 3, "gibibytes": 5, "versions": versions}
    return {"date": "2026-01-02", "machine": machine, "benchmarks": benchmarks}


@pytest.mark.campaign("long")
@pytest.mark.parametrize(
    "pictures", [PICTURES[:2], pytest.param(PICTURES, marks=VARIANT)], ids=["two", "all"]
)
def test_pictures_are_drawn(tmp_path: Path, pictures: Sequence[Picture]) -> None:
    """Each picture is an SVG and a PNG, on light and on dark; whoever has nothing measured has no pictures."""
    files = list(draw(found_for(pictures), tmp_path))
    assert {file.name for file in files} == {
        f"{picture.name}-{theme}.{kind}"
        for picture in pictures
        for theme in ("light", "dark")
        for kind in ("svg", "png")
    }
    for file in files:
        start = file.read_bytes()[:300]
        assert start.startswith({".png": b"\x89PNG", ".svg": b"<?xml"}[file.suffix])
    assert list(draw({"benchmarks": {}, "machine": {}, "date": ""}, tmp_path / "none")) == []


def test_the_readme_shows_pictures_that_are_there() -> None:
    """Every picture that the README shows is in the repository, with its other theme."""
    shown = re.findall(
        r'(?:src|srcset)="(benchmarks/[^"]+)"', (CHECKOUT / "README.md").read_text()
    )
    assert shown
    assert [path for path in shown if not (CHECKOUT / path).is_file()] == []
    assert {path.replace("-dark", "-light") for path in shown if "-dark" in path} == {
        p for p in shown if "-light" in p
    }
