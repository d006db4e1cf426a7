"""Found by each Python process below the project's own command as it starts: routes it, and goes on as it would have.

Its directory stands first in PYTHONPATH. A Python that has no clonedb is left alone: it has the
environment's variables.
"""

# ruff: noqa: PTH100, PTH120 - a process that starts imports no pathlib for this

import contextlib
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

_HERE = os.path.dirname(os.path.abspath(__file__))


def _start() -> None:
    # or this file would be found again below
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != _HERE]
    with contextlib.suppress(ImportError):
        from clonedb.migrate.inside.below import watch_and_route

        watch_and_route()

    # the one that this one hides
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


_start()
