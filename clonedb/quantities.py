"""Numbers as messages say them: counted things, sizes, and lengths of time."""

from __future__ import annotations

from types import MappingProxyType

__all__ = ["bytes_of", "counted", "duration", "size"]

_SIZES = MappingProxyType({"": 0, "B": 0, "KB": 1, "MB": 2, "GB": 3, "TB": 4})
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def counted(count: int, thing: str) -> str:
    """`1 revision`, `2 revisions`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def size(count: float) -> str:
    """Bytes in the unit that leaves something to be read: `812 bytes`, `14 kB`, `7.3 MB`, `1.2 GB`."""
    if count < 1024:
        return counted(int(count), "byte")
    if count < 1024**2:
        return f"{count / 1024:.0f} kB"
    return f"{count / 1024**2:.1f} MB" if count < 1024**3 else f"{count / 1024**3:.1f} GB"


def bytes_of(text: str) -> int:
    """The bytes that a size means: `20GB`, `1.5 GB`, `800`; a kB is 1024 bytes, as for PostgreSQL.

    Raises ValueError.
    """
    number = text.strip().rstrip("BbKkMmGgTt")
    unit = text.strip()[len(number) :].upper()
    if unit not in _SIZES:
        raise ValueError(f"{unit!r} is no unit of a size")
    return int(float(number) * 1024 ** _SIZES[unit])


def duration(seconds: float) -> str:
    """Seconds in the largest unit of which there is one, rounded: `1 second`, `5 minutes`, `2 hours`."""
    for unit, length in _UNITS:
        if seconds >= length:
            return counted(round(seconds / length), unit)
    return "less than a second"
