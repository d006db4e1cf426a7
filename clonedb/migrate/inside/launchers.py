"""What runs an env.py in place of the alembic command: Flask-Migrate's, advanced-alchemy's, or the project's own."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["PrepareError", "prepared"]

_FACTORIES = ("create_app", "make_app")  # which Flask's own command calls, without arguments


class PrepareError(Exception):
    """What the setting `prepare` names failed, and why: env.py has not run yet."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(str(reason))
        self.reason = reason


@contextlib.contextmanager
def prepared(setup: Mapping[str, Any], config: Config) -> Iterator[None]:
    """What env.py expects to be there: as the setting `prepare` says, or as what it was made with does.

    Raises PrepareError for what `prepare` names.
    """
    if not setup["prepare"]:
        context = _found(setup.get("launcher") or (), config)
        context.__enter__()
        yield
        # env.py may have pushed a context of its own upon it
        with contextlib.suppress(Exception):
            context.__exit__(None, None, None)
        return

    try:
        context = _context(_named(setup["prepare"]), config)
        context.__enter__()
    except BaseException as error:
        raise PrepareError(error) from error

    with contextlib.ExitStack() as stack:
        stack.push(context)
        yield


def _named(name: str) -> Any:
    module, _, names = name.partition(":")
    found: Any = importlib.import_module(module)
    for each in names.split("."):
        found = getattr(found, each)
    return found


def _context(found: Any, config: Config) -> contextlib.AbstractContextManager[Any]:
    """Call a function with Alembic's Config, or a Flask factory without; what it returns may be a context."""
    if hasattr(found, "app_context"):  # a Flask application
        return found.app_context()  # type: ignore[no-any-return]
    if hasattr(found, "alembic_config"):  # one of advanced-alchemy's configurations
        _take_alchemy(found, config)
        return contextlib.nullcontext()

    is_factory = getattr(found, "__name__", None) in _FACTORIES
    made = found() if is_factory else found(config)
    if hasattr(made, "app_context"):
        return made.app_context()  # type: ignore[no-any-return]
    return made if hasattr(made, "__enter__") else contextlib.nullcontext()


def _take_alchemy(found: Any, config: Config) -> None:
    """Give Alembic's Config what advanced-alchemy's own has beyond it, such as `db_url`."""
    from advanced_alchemy.alembic.commands import AlembicCommands

    theirs = vars(AlembicCommands(found).config)
    # what ours has wins, such as the URL
    vars(config).update({**theirs, **vars(config)})


def _found(
    launcher: tuple[str, list[str]] | tuple[()], config: Config
) -> contextlib.AbstractContextManager[Any]:
    """What was found without `prepare`.

    Where that fails env.py runs as it is: it may do without, and if not it says what it lacks.
    """
    if not launcher:
        return contextlib.nullcontext()
    kind, names = launcher
    # of several none is taken by guess
    name = names[0] if len(names) == 1 else None
    try:
        if kind == "flask":
            return _flask(name).app_context()  # type: ignore[no-any-return]
        if name is not None:
            return _context(_named(name), config)
    except Exception as error:  # noqa: BLE001 - of the application's own code
        sys.stderr.write(f"{kind}: {type(error).__name__}: {error}\n")
    return contextlib.nullcontext()


@cache
def _flask(name: str | None) -> Any:
    """The application as Flask's own command finds it (FLASK_APP, .flaskenv, wsgi.py, app.py), or else by its name."""
    from flask.cli import NoAppException, ScriptInfo, load_dotenv

    load_dotenv()
    named = os.environ.get("FLASK_APP")
    try:
        return ScriptInfo(app_import_path=named).load_app()
    except NoAppException:
        if named or name is None:
            raise
        return ScriptInfo(app_import_path=name).load_app()
