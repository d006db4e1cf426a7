"""Which environment variables are read while a database is built."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["AskedVariables"]

# between the code that reads a variable and os.environ: getenv(), get(), items()
_BETWEEN = ("os", "collections.abc")


class AskedVariables:
    """The names of the variables that were asked for, set or not, from when this was made.

    `names` has them in order, whoever asked; `own` has those that a file of the project's asked
    for. A library that reads them for the project, such as pydantic's settings, is not seen
    there. `heard` is called with each of these as it is asked for first.
    """

    def __init__(self, rootdir: str, heard: Callable[[str], object] = str) -> None:
        self.names: dict[str, None] = {}
        self.own: set[str] = set()
        self._below = rootdir + os.sep
        self._heard = heard
        environ: Any = type(os.environ)
        original = environ.__getitem__

        def noted(environment: Any, name: Any) -> Any:
            if environment is os.environ and isinstance(name, str):
                self._note(name)
            return original(environment, name)

        # in the class, where Python looks methods like this one up
        environ.__getitem__ = noted

    def _note(self, name: str) -> None:
        self.names[name] = None
        frame = sys._getframe(2)  # noqa: SLF001 - as logging does, to find its caller
        while frame.f_back and frame.f_globals.get("__name__") in _BETWEEN:
            frame = frame.f_back
        path = frame.f_code.co_filename
        # `<string>`, `<frozen ...>`: no file
        if path.startswith("<"):
            return

        path = os.path.abspath(path)  # noqa: PTH100 - that of a script is as the command line has it
        if (
            path.startswith(self._below)
            and "site-packages" not in path
            and name not in self.own
        ):
            self.own.add(name)
            self._heard(name)
