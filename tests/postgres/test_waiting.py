"""What waiting for an embedded server does when the clock is not what it was."""

from __future__ import annotations

import os
import time
from pathlib import Path

from clonedb.postgres.embedded import _failure_since, _stamp
from clonedb.postgres.state import Place


def test_an_old_failure_is_old_whatever_the_clock_says(tmp_path: Path) -> None:
    """A failure from the future, as a clock that was set back sees it, is no news; one after it is."""
    place = Place(tmp_path / "servers" / "one")
    place.prepare()
    assert _failure_since(place, _stamp(place)) is None
    place.files.write("failed", "no memory")
    os.utime(place.file("failed"), (time.time() + 1e6,) * 2)
    earlier = _stamp(place)
    assert _failure_since(place, earlier) is None
    place.files.write("failed", "no disk")
    assert _failure_since(place, earlier) == "no disk"
