"""A function run in a thread of its own, while this one waits for a server or has something else to do."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Aside"]

T = TypeVar("T")


class Aside(Generic[T]):
    """A function that runs aside from now on; `result()` waits for what it returned.

    Only for what waits for nobody: leaving the context waits for its end. `name` is the thread's.
    """

    def __init__(self, function: Callable[[], T], *, name: str) -> None:
        self._results: list[T] = []
        self._errors: list[BaseException] = []

        def work() -> None:
            try:
                self._results.append(function())
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                self._errors.append(error)

        self._thread = Thread(target=work, name=name, daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Wait for it, and raise what it raised."""
        self._thread.join()
        for error in self._errors:
            raise error
        return self._results[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.join()
