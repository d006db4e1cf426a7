"""Which environment variables the project's own code reads while its database is built."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["watch_variables"]

# between the code that reads a variable and os.environ: getenv(), get(), items()
_BETWEEN = ("os", "collections.abc")


def watch_variables(rootdir: str) -> set[str]:
    """The names of variables, set or not, that a file below `rootdir` asks for; filled from now on.

    A library that reads them for the project, such as pydantic's settings, is not seen.
    """
    read: set[str] = set()
    environ: Any = type(os.environ)
    original = environ.__getitem__
    below = rootdir + os.sep

    def noted(self: Any, name: Any) -> Any:
        if isinstance(name, str) and self is os.environ:
            frame = sys._getframe(1)  # noqa: SLF001 - as logging does, to find its caller
            while frame.f_back and frame.f_globals.get("__name__") in _BETWEEN:
                frame = frame.f_back
            path = frame.f_code.co_filename
            if path.startswith(below) and "site-packages" not in path:
                read.add(name)

        return original(self, name)

    environ.__getitem__ = noted
    return read
