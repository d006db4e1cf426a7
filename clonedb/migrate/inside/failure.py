"""What went wrong in a migration or a seed: from an exception to data, and from data to the error a user reads."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any
from urllib.parse import quote

from clonedb.errors import (
    CloneDBError,
    MigrationError,
    MissingExtensionError,
    PermissionDeniedError,
    SeedError,
    VerificationError,
)
from clonedb.url import redact

__all__ = ["NotMigratedError", "RefusedError", "describe", "error_from", "scrub"]

_OWN = Path(__file__).parents[2]
_STANDARD = Path(os.__file__).parent
_LIBRARIES = (
    "alembic",
    "sqlalchemy",
    "psycopg",
    "psycopg2",
    "asyncpg",
    "greenlet",
    "pydantic",
    "pydantic_settings",
)
# `extension "x" is not available`, and `could not open extension control file ".../x.control"`
_EXTENSION = re.compile(r'extension (?:control file )?"(?:[^"]*/)?([^"/]+?)(?:\.control)?"')
_LEFT_BEHIND = "it worked the first time, so the downgrade left something behind; let it undo all that upgrade() does"
_LAUNCHER = (
    "env.py expects what its application's own command gives it; let a function do that, and name it: [tool.clonedb]"
    ' prepare = "package.module:function" (or a Flask application, its create_app, advanced-alchemy\'s configuration)'
)
# by a part of what an error says
_HINTS = MappingProxyType(
    {
        "Can't locate revision identified by": (
            "the version table holds, or somebody asked for, a revision that is not among this project's; migrations"
            " that share a database with others need a version_table of their own in env.py"
        ),
        "ICU is not supported in this build": (
            "this PostgreSQL was built without ICU; Debian's has it: install postgresql, or name another by"
            " postgres_bin or url"
        ),
        "utside of application context": _LAUNCHER,
        "'Config' object has no attribute": _LAUNCHER,
        "requires an async driver": 'set driver = "asyncpg" (or "psycopg") in [tool.clonedb]',
    }
)
_DRIVERS_DIFFER = (
    "psycopg sends values with a type, and psycopg2, which is installed, too, writes them into the statement; if it was"
    ' written for psycopg2: driver = "psycopg2" in [tool.clonedb], or postgresql+psycopg2:// in the URL that env.py'
    " reads"
)
_OF_TYPES = (
    "42804",
    "42883",
    "42P18",
)  # datatype_mismatch, undefined_function, indeterminate_datatype
# SQLSTATE: feature_not_supported and undefined_file, then disk_full, insufficient_privilege
_MISSING_EXTENSION = ("0A000", "58P01")
_DISK_FULL = "53100"
_DENIED = "42501"


class NotMigratedError(Exception):
    """Alembic ended without an error, but the database is not where it should be."""


class RefusedError(Exception):
    """No migration was begun, and the message says all that there is to say."""


def describe(error: BaseException, request: Mapping[str, Any]) -> dict[str, Any]:
    """An exception as data that can cross a process border, without any password.

    `message` is its last line, `statement` the SQL that failed, `sqlstate` PostgreSQL's code,
    `line` where in `request`'s project it was raised, `traceback` the frames of the user's own
    files, `hint` what to do if we know.
    """
    database_error = _database_error(error)
    raised = _unwrapped(error)
    statement = next((s for e in _chain(error) if (s := getattr(e, "statement", None))), None)
    data = {
        "verification": isinstance(error, NotMigratedError),
        "refused": isinstance(error, RefusedError),
        "message": _message(raised, database_error),
        "type": type(raised).__name__,
        "statement": _shortened(scrub(str(statement), request["secrets"]))
        if statement
        else None,
        "sqlstate": _sqlstate(database_error) if database_error else None,
        "line": getattr(raised, "place", None)
        or _line(error.__traceback__, request["rootdir"]),
        "traceback": _frames(error),
        "hint": next((hint for e in _chain(error) if (hint := _hint(e))), None),
    }
    return {
        name: scrub(value, request["secrets"]) if isinstance(value, str) else value
        for name, value in data.items()
    }


def error_from(
    event: Mapping[str, Any], *, output: str, rootdir: Path, remedy: str
) -> CloneDBError:
    """The error to raise for a `failed` event; `remedy` is what helps against a missing extension on this server."""
    where = _where(event, rootdir)
    reason = f"{event['type']}: {event['message']}"
    if event["sqlstate"] in _MISSING_EXTENSION and (
        match := _EXTENSION.search(event["message"])
    ):
        return MissingExtensionError(
            f"{where} needs the extension {match[1]!r}: {event['message']}; {remedy}"
        )

    if event["verification"]:
        return VerificationError(event["message"])
    if event["refused"]:
        return (SeedError if event["phase"] == "seed" else MigrationError)(event["message"])
    details = [f"{where} failed: {reason}"]
    if event["statement"]:
        details.append(f"statement: {event['statement']}")
    if event["sqlstate"] == _DISK_FULL:
        details.append(
            "the server's disk is full: free some space (`clonedb gc`, `clonedb list`) and run again"
        )

    if hint := event["hint"] or (
        _LEFT_BEHIND if event.get("direction") == "second upgrade" else None
    ):
        details.append(f"hint: {hint}")

    if event["traceback"]:
        details.append(event["traceback"].rstrip())
    if output.strip():
        details.append(
            "last output:\n"
            + "\n".join(f"  {line}" for line in output.strip().splitlines()[-8:])
        )

    text = "\n".join(details)
    if event["sqlstate"] == _DENIED and event["phase"] != "seed":
        return PermissionDeniedError(text)
    return SeedError(text) if event["phase"] == "seed" else MigrationError(text)


def _where(event: Mapping[str, Any], rootdir: Path) -> str:
    path, name = event["path"], event["name"]
    place = ""
    if path:
        place = os.path.relpath(path, rootdir) if Path(path).is_relative_to(rootdir) else path
        line = event["line"]
        if line and line[0] == path:
            place += f":{line[1]}"
        elif line and event["phase"] in ("seed", "file"):
            place += f", {line[0]}:{line[1]}"

        place = f" ({place})"

    if event["phase"] == "prepare":
        return f"prepare = {name!r}"
    if event["phase"] not in ("revision", "seed", "file", "metadata"):
        return "migrating (env.py)"
    direction = event.get("direction")
    return f"{direction + ' of ' if direction else ''}{event['phase']} {name!r}{place}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = _original(error) or error.__cause__ or error.__context__


def _original(error: BaseException) -> BaseException | None:
    """The driver's error in one of SQLAlchemy's."""
    original = getattr(error, "orig", None)
    return original if isinstance(original, BaseException) else None


def _unwrapped(error: BaseException) -> BaseException:
    while original := _original(error):
        error = original
    return error


def _database_error(error: BaseException) -> BaseException | None:
    return next((e for e in _chain(error) if _sqlstate(e)), None)


def _sqlstate(error: BaseException) -> str | None:
    # psycopg and asyncpg call it sqlstate, psycopg2 pgcode
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code if isinstance(code, str) else None


def _message(error: BaseException, database_error: BaseException | None) -> str:
    text = _said(error) or next(
        (f"no message, after {_named(cause)}" for cause in _chain(error) if _said(cause)), None
    )
    text = text or "no message"
    # os.environ's says the name of the variable, and nothing else
    if isinstance(error, KeyError) and _raised_in(error, "os.py"):
        text = f"{text} is not set"
    if database_error is not None and database_error is not error:
        text += f" (after {type(database_error).__name__}: {str(database_error).strip()})"
    return text


def _said(error: BaseException) -> str:
    """What an error says; nothing for one without arguments, of which SQLAlchemy makes `()`."""
    text = _text(error).strip()
    return "" if text == "()" else text


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {_said(error)}"


def _text(error: Any) -> str:
    """An error's text; pydantic's without the values it shows, which are shortened to half a password."""
    if not type(error).__module__.startswith("pydantic_core") or not hasattr(error, "errors"):
        return str(error)
    return "; ".join(
        f"{error.title}.{'.'.join(map(str, each['loc']))}: {each['msg']}"
        for each in error.errors()
    )


def _shortened(statement: str, limit: int = 1500) -> str:
    statement = statement.strip()
    return statement if len(statement) <= limit else statement[:limit] + " ..."


def _line(tb: TracebackType | None, rootdir: str) -> tuple[str, int] | None:
    frames = [
        f
        for f in _own_frames(tb)
        if Path(f.filename).is_relative_to(rootdir) and "/site-packages/" not in f.filename
    ]
    # the innermost: the line of the project from which the libraries were called
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else None


def _own_frames(tb: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames that are not clonedb's, the standard library's, or Alembic's and its like.

    Those are known by where they were imported from: `alembic` is also what most projects call
    their directory.
    """
    modules = [module for name in _LIBRARIES if (module := sys.modules.get(name))]
    libraries = [Path(module.__file__).parent for module in modules if module.__file__]

    def foreign(filename: str) -> bool:
        path = Path(filename)
        if path.is_relative_to(_OWN):
            # the demo is a project as a user's is
            return not path.is_relative_to(_OWN / "demo")
        standard = path.is_relative_to(_STANDARD) and "site-packages" not in path.parts
        return (
            standard
            or filename.startswith(("<frozen ", "<string>"))
            or any(path.is_relative_to(place) for place in libraries)
        )

    return [frame for frame in traceback.extract_tb(tb) if not foreign(frame.filename)]


def _frames(error: BaseException) -> str | None:
    """The traceback of the user's own code only: SQLAlchemy's forty frames say nothing of the cause."""
    if isinstance(error, NotMigratedError):
        return None
    if not (frames := _own_frames(error.__traceback__)):
        return None
    return "Traceback (most recent call last):\n" + "".join(traceback.format_list(frames))


def _raised_in(error: BaseException, filename: str) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    # os is frozen into Python from 3.11 on
    return bool(frames) and (
        Path(frames[-1].filename).name == filename or "<frozen os>" in frames[-1].filename
    )


def _hint(error: BaseException) -> str | None:
    kind, text = type(error).__name__, str(error)
    if isinstance(error, KeyError) and _raised_in(error, "os.py"):
        quoted = text.replace("'", '"')
        return (
            f"if {text} holds the URL of the database, add route = [{quoted}] to [tool.clonedb]"
        )

    if kind == "ValidationError" and "required" in text:
        return "if a missing setting is the URL of the database, name its environment variable: [tool.clonedb] route"
    if isinstance(error, ModuleNotFoundError) and error.name in (
        "psycopg2",
        "asyncpg",
        "pg8000",
    ):
        return f'the URL asks for the driver {error.name}, which is not installed; install it or set driver = "psycopg"'

    if isinstance(error, ModuleNotFoundError):
        return "is its directory on sys.path? alembic.ini's prepend_sys_path and pytest's pythonpath are used"
    if _is_of_types(error):
        return _DRIVERS_DIFFER
    return next((hint for part, hint in _HINTS.items() if part in text), None)


def _is_of_types(error: BaseException) -> bool:
    """Whether psycopg's way to send values may be what failed, and psycopg2 is there to do it its own way."""
    of_psycopg = type(error).__module__.startswith("psycopg.") and _sqlstate(error) in _OF_TYPES
    return of_psycopg and importlib.util.find_spec("psycopg2") is not None


def scrub(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets, as they are and as a URL holds them, and without any other URL's password.

    A short plain word is hidden where it stands alone: the password `postgres` is no reason to
    write `***ql://`.
    """
    for secret in filter(None, secrets):
        for form in {secret, quote(secret, safe="")}:
            plain = re.fullmatch("[a-z]{1,15}", form)
            text = re.sub(rf"\b{form}\b" if plain else re.escape(form), "***", text)
    return redact(text)
