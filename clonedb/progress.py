"""What long work says while it goes on: a quiet listener, and one that writes lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from clonedb.originals import monotonic

__all__ = ["Lines", "Progress", "Silence", "Warnings"]


class Progress(Protocol):
    """Told of each step of long work; it decides what of that a person gets to see, and when."""

    def say(self, message: str) -> None:
        """Something a person may want to know now: who is waited for, what is being started."""

    def warn(self, message: str) -> None:
        """Something a person should act on; never left out."""

    def step(self, what: str, number: int, total: int, name: str) -> None:
        """Step `number` of `total` begins; `what` is the word for one, such as `revision`."""


class Silence:
    """For callers who want no progress."""

    def say(self, message: str) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Nothing."""

    def step(self, what: str, number: int, total: int, name: str) -> None:
        """Nothing."""


class Warnings(Silence):
    """Remembers what a person should act on, for a caller who says it in another way."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def warn(self, message: str) -> None:
        """One more."""
        self.messages.append(message)


class Lines:
    """Writes a line for each message, and for steps at most one a second, from the second second on."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._next = monotonic() + 1.0

    def say(self, message: str) -> None:
        """A line `clonedb: message`."""
        self._write(f"clonedb: {message}")

    warn = say

    def step(self, what: str, number: int, total: int, name: str) -> None:
        """A line `clonedb: revision 12 of 286 (3f2a91)`, when the last is a second old."""
        if (now := monotonic()) >= self._next:
            self._next = now + 1.0
            self.say(f"{what} {number} of {total} ({name})")
