"""Numbers in messages."""

from __future__ import annotations

import pytest

from clonedb.quantities import counted, duration, size


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (counted(0, "revision"), "0 revisions"),
        (counted(1, "revision"), "1 revision"),
        (size(1), "1 byte"),
        (size(1023), "1023 bytes"),
        (size(20_000), "20 kB"),
        (size(7_700_000), "7.3 MB"),
        (size(3 * 1024**3), "3.0 GB"),
        (duration(0.2), "less than a second"),
        (duration(1.2), "1 second"),
        (duration(59), "59 seconds"),
        (duration(61), "1 minute"),
        (duration(8 * 3600 - 1), "8 hours"),
        (duration(2 * 86400), "2 days"),
    ],
)
def test_quantities(said: str, expected: str) -> None:
    """One of a thing is no plural, and nothing that is there is 0.0 of it."""
    assert said == expected
