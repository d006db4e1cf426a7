"""`python -m benchmarks.pictures RESULTS DIRECTORY`: what was measured, drawn for the README, on light and on dark."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PICTURES", "Picture", "draw"]

_COLOURS = ("#2f7ed8", "#d9822b", "#8a8f98", "#2fa36b", "#b565c9")
_THEMES: Mapping[str, Mapping[str, str]] = {
    "light": {"text": "#1f2328", "faint": "#59636e", "grid": "#d1d9e0", "ground": "#ffffff"},
    "dark": {"text": "#f0f6fc", "faint": "#9198a1", "grid": "#3d444d", "ground": "#0d1117"},
}
_WIDTH, _HEAD, _FOOT = (
    8.4,
    0.4,
    0.3,
)  # inches: the whole picture, its heading, and the line about the machine


@dataclass(frozen=True, slots=True)
class Picture:
    """A file of the same name: the charts of tables, each by its benchmark and words of its title."""

    name: str
    heading: str
    tables: tuple[tuple[str, str], ...]
    columns: int = 1


PICTURES: Sequence[Picture] = (
    Picture(
        "ways",
        "What a test pays for a clean database",
        (("ways", "40 tables of 20 rows, -n 1"),),
    ),
    Picture(
        "ordinary",
        "The same on a server with default settings",
        (("ordinary", "40 tables of 20 rows, -n 1"),),
    ),
    Picture(
        "peers",
        "A test that writes, by tools as their documentation says",
        (("peers", "A test that writes"), ("ordinary", "A test that writes")),
    ),
    Picture(
        "scale",
        "As things grow",
        (
            ("scale", "As tables grow"),
            ("scale", "As the seeds grow"),
            ("scale", "As living clones grow"),
            ("scale", "As tests grow"),
            ("scale", "As workers grow"),
            ("builds", "Builds as revisions grow"),
        ),
        columns=2,
    ),
)


def draw(found: Mapping[str, Any], directory: Path) -> Iterator[Path]:
    """Draw what there is of the pictures, as SVG and PNG in two themes each; yields the files.

    `found` is what `python -m benchmarks --json` wrote.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        tables = list(_tables(found, picture))
        if not tables:
            continue
        for theme in _THEMES:
            yield from _files(picture, tables, found, theme, directory)


def _tables(found: Mapping[str, Any], picture: Picture) -> Iterator[Mapping[str, Any]]:
    """The tables of a picture, in its own order."""
    for benchmark, words in picture.tables:
        tables = found["benchmarks"].get(benchmark, ())
        yield from (table for table in tables if table["chart"] and words in table["title"])


def _files(
    picture: Picture,
    tables: Sequence[Mapping[str, Any]],
    found: Mapping[str, Any],
    theme: str,
    directory: Path,
) -> Iterator[Path]:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    colours = _THEMES[theme]
    rows = -(-len(tables) // picture.columns)
    heights = [
        max(_height(table) for table in tables[row * picture.columns :][: picture.columns])
        for row in range(rows)
    ]
    height = sum(heights) + _HEAD + _FOOT
    style: Any = {
        "font.size": 9.5,
        "text.color": colours["text"],
        "axes.labelcolor": colours["faint"],
        "xtick.color": colours["faint"],
        "ytick.color": colours["text"],
        "svg.hashsalt": "clonedb",
        "svg.fonttype": "path",
    }
    with mpl.rc_context(style):
        figure, axes = plt.subplots(
            rows,
            picture.columns,
            figsize=(_WIDTH, height),
            height_ratios=heights,
            squeeze=False,
            facecolor=colours["ground"],
            layout=ConstrainedLayoutEngine(
                rect=(0, _FOOT / height, 1, 1 - (_HEAD + _FOOT) / height)
            ),
        )
        figure.suptitle(
            picture.heading,
            fontsize=12,
            fontweight="bold",
            x=0.01,
            ha="left",
            y=1 - 0.1 / height,
            va="top",
        )
        places = list(axes.flat)
        for place, table in zip(places, tables, strict=False):
            _plain(place, colours)
            place.set_title(table["title"], fontsize=9.5, loc="left", color=colours["faint"])
            (_bars if table["chart"]["kind"] == "bars" else _lines)(place, table, colours)
        for place in places[len(tables) :]:
            place.set_visible(False)
        figure.text(
            0.01, 0.006, _machine(found), fontsize=6.5, color=colours["faint"], va="bottom"
        )
        for kind in ("svg", "png"):
            path = directory / f"{picture.name}-{theme}.{kind}"
            figure.savefig(
                path,
                dpi=160,
                facecolor=colours["ground"],
                metadata={"Date": None} if kind == "svg" else None,
            )
            yield path
        plt.close(figure)


def _height(table: Mapping[str, Any]) -> float:
    """Inches: bars take what they need, lines are as high as they are wide."""
    return 0.7 + 0.27 * len(_drawn(table)) if table["chart"]["kind"] == "bars" else 3.4


def _drawn(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [measurement for measurement in table["measurements"] if measurement["series"]]


def _plain(place: Axes, colours: Mapping[str, str]) -> None:
    place.set_facecolor(colours["ground"])
    for side in place.spines.values():
        side.set_visible(False)
    place.tick_params(length=0, which="both")
    place.grid(visible=True, color=colours["grid"], linewidth=0.6)
    place.set_axisbelow(True)


def _bars(place: Axes, table: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    """From a third of the smallest on: on a logarithmic axis a bar has no natural beginning."""
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter

    shown = _drawn(table)
    series = list(dict.fromkeys(each["series"] for each in shown))
    medians = [each["median"] for each in shown]
    place.set_xscale("log")
    place.set_xlim(min(medians) / 3, max(each["p95"] for each in shown) * 4)
    place.barh(
        range(len(shown)),
        medians,
        height=0.66,
        color=[_COLOURS[series.index(each["series"])] for each in shown],
    )
    for number, each in enumerate(shown):
        place.plot(
            [each["median"], each["p95"]], [number, number], color=colours["text"], linewidth=1
        )
        place.text(
            max(each["median"], each["p95"]) * 1.15,
            number,
            f"{_figure(each['median'])} {each['unit']}",
            va="center",
            fontsize=8.5,
        )
    place.set_yticks(range(len(shown)), [each["label"] for each in shown])
    place.invert_yaxis()
    place.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    if len(series) > 1:
        patches = [
            Patch(color=_COLOURS[number], label=name) for number, name in enumerate(series)
        ]
        place.legend(
            handles=patches, fontsize=7.5, frameon=False, labelcolor=colours["text"], loc="best"
        )
    place.grid(visible=False, axis="y")
    place.set_xlabel(
        f"{table['chart']['y']} (median; the line reaches to the 95th percentile)", fontsize=8
    )


def _lines(place: Axes, table: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    shown = _drawn(table)
    for number, series in enumerate(dict.fromkeys(each["series"] for each in shown)):
        points = [each for each in shown if each["series"] == series]
        at, medians = [each["at"] for each in points], [each["median"] for each in points]
        place.plot(
            at,
            medians,
            marker="o",
            markersize=3.5,
            linewidth=1.6,
            color=_COLOURS[number],
            label=series,
        )
        place.fill_between(
            at,
            medians,
            [each["p95"] for each in points],
            color=_COLOURS[number],
            alpha=0.15,
            linewidth=0,
        )
    ats = sorted({each["at"] for each in shown})
    place.set_xscale("log")
    place.set_yscale("log")
    place.set_xticks(ats, [f"{at:,g}" for at in ats])
    place.xaxis.set_minor_locator(NullLocator())
    place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    place.set_xlabel(table["chart"]["x"], fontsize=8)
    place.set_ylabel(table["chart"]["y"], fontsize=8)
    # below, where no line is
    place.legend(
        fontsize=7.5,
        frameon=False,
        labelcolor=colours["text"],
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.22),
    )


def _figure(value: float) -> str:
    return (
        f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    )


def _machine(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    versions = machine["versions"]
    shown = ", ".join(
        f"{name} {versions[name].partition(' ')[0]}"
        for name in ("PostgreSQL", "Python", "sqlalchemy", "alembic", "psycopg", "pytest")
    )
    return f"{found['date']} · {machine['processor']}, {machine['cores']} cores, {machine['gibibytes']} GiB · {shown}"


@click.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def main(results: Path, directory: Path) -> None:
    """Draw the pictures of what `python -m benchmarks --json RESULTS` found into DIRECTORY."""
    drawn = list(draw(json.loads(results.read_text()), directory))
    if not drawn:
        raise click.ClickException(f"{str(results)!r} has nothing that a picture is drawn of")
    for path in drawn:
        click.echo(path)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.pictures")
