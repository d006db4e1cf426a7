"""What a benchmark hands over: tables of samples with the target beside them, for people (rich) and programs (JSON)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.apparatus.machine import Machine

__all__ = ["Chart", "Measurement", "Table", "difference", "percentile", "ratio", "show"]

Unit = Literal["ms", "s", "x", ""]


@dataclass(frozen=True, slots=True)
class Chart:
    """How a table is drawn: a bar for each measurement that has a series, or a line for each series over `at`.

    The axes are logarithmic: what is compared differs by factors. `x` names what grows along a line.
    """

    kind: Literal["bars", "lines"]
    y: str
    x: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One thing that was measured several times; `target` is the most that its median may be, if there is a target.

    In a chart it belongs to a `series` (bars of one series have one colour) and stands at `at` on the axis of lines.
    """

    label: str
    samples: Sequence[float]
    unit: Unit
    target: float | None = None
    series: str = ""
    at: float | None = None

    @property
    def median(self) -> float:
        """The middle sample: one disturbed by another process does not move it."""
        return statistics.median(self.samples)

    @property
    def reached(self) -> bool | None:
        """Whether the median keeps to the target; None without one."""
        return None if self.target is None else self.median <= self.target

    def as_json(self) -> dict[str, Any]:
        """The samples, and what the table says of them."""
        return {
            "label": self.label,
            "unit": self.unit,
            "median": self.median,
            "p95": percentile(self.samples, 95),
            "target": self.target,
            "reached": self.reached,
            "series": self.series,
            "at": self.at,
            "samples": [round(sample, 4) for sample in self.samples],
        }


@dataclass(frozen=True, slots=True)
class Table:
    """What one benchmark found; `about` says what was measured, and how."""

    title: str
    about: str
    measurements: Sequence[Measurement]
    chart: Chart | None = None

    def as_json(self) -> dict[str, Any]:
        """The table for programs."""
        return {
            "title": self.title,
            "about": self.about,
            "chart": None if self.chart is None else asdict(self.chart),
            "measurements": [measurement.as_json() for measurement in self.measurements],
        }


def percentile(samples: Sequence[float], percent: float) -> float:
    """The sample that so many percent of all are not above."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def difference(
    label: str, with_it: Sequence[float], without: Sequence[float], **more: Any
) -> Measurement:
    """What something adds, measured in turns.

    The samples are the differences of neighbours: a machine that slows down meanwhile slows both.
    """
    return Measurement(
        label, [one - other for one, other in zip(with_it, without, strict=True)], **more
    )


def ratio(
    label: str,
    these: Sequence[float],
    those: Sequence[float],
    target: float | None = None,
    times: float = 1,
) -> Measurement:
    """So many times these to those, of neighbours measured in turns: the machine's drift moves both."""
    return Measurement(
        label,
        [times * one / other for one, other in zip(these, those, strict=True)],
        "x",
        target,
    )


def show(table: Table, machine: Machine, console: Console) -> None:
    """Print a table, the machine below it."""
    console.print(Text(table.title, style="bold"))
    shown = RichTable()
    shown.add_column("")
    for column in ("median", "p95", "target"):
        shown.add_column(column, justify="right")
    shown.add_column("reached")
    shown.add_column("n", justify="right")
    for measurement in table.measurements:
        shown.add_row(
            measurement.label,
            _figure(measurement.median, measurement.unit),
            _figure(percentile(measurement.samples, 95), measurement.unit),
            ""
            if measurement.target is None
            else f"<= {measurement.target:g} {measurement.unit}",
            Text("no", style="bold red")
            if measurement.reached is False
            else "yes"
            if measurement.reached
            else "",
            str(len(measurement.samples)),
        )
    console.print(shown, Text(table.about), Text(str(machine), style="dim"), "")


def _figure(value: float, unit: Unit) -> str:
    digits = 0 if unit == "" else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}".strip()
