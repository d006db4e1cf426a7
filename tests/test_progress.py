"""Progress: lines for people, few enough to be read."""

from __future__ import annotations

import time

import pytest

from clonedb.progress import Lines, Progress, Silence


def test_messages_are_lines() -> None:
    """Whoever waits is told at once, and a warning is never left out."""
    lines: list[str] = []
    progress: Progress = Lines(lines.append)
    progress.say("template 'x' is being built by pid 7; waiting")
    progress.warn("env.py read 'rates.csv'; add watch = [\"rates.csv\"]")
    assert lines == [
        "clonedb: template 'x' is being built by pid 7; waiting",
        "clonedb: env.py read 'rates.csv'; add watch = [\"rates.csv\"]",
    ]


def test_quick_migrations_say_nothing() -> None:
    """A run of ten revisions that takes less than a second is not worth a line."""
    lines: list[str] = []
    progress = Lines(lines.append)
    for number in range(1, 11):
        progress.step("revision", number, 10, f"r{number}")
    assert lines == []


@pytest.mark.campaign("long")
def test_slow_migrations_say_at_most_a_line_a_second() -> None:
    """From the second second on, whichever revision is just begun."""
    lines: list[str] = []
    progress = Lines(lines.append)
    time.sleep(1.05)
    for number in range(1, 11):
        progress.step("revision", number, 286, f"r{number}")
    assert lines == ["clonedb: revision 1 of 286 (r1)"]
    progress.say("still at it")
    time.sleep(1.05)
    progress.step("revision", 12, 286, "3f2a91")
    assert lines[1:] == ["clonedb: still at it", "clonedb: revision 12 of 286 (3f2a91)"]


def test_silence() -> None:
    """Who wants no progress gets none, and no error either."""
    progress: Progress = Silence()
    progress.say("x")
    progress.warn("x")
    progress.step("revision", 1, 2, "x")
