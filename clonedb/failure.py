"""What went wrong in a migration or a seed: from an exception to data, and from data to the error a user reads."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from clonedb.errors import (
    BuildError,
    MigrationError,
    MissingExtensionError,
    PermissionDeniedError,
    SeedError,
    VerificationError,
)
from clonedb.url import redact

__all__ = ["NotMigratedError", "describe", "error_from"]

_OWN = str(Path(__file__).parent)
_LIBRARIES = ("/alembic/", "/sqlalchemy/", "/psycopg/", "/psycopg2/", "/asyncpg/", "/asyncio/", "<frozen ", "/runpy.py")
_EXTENSION = re.compile(r'extension (?:control file )?"(?:[^"]*/)?([^"/]+?)(?:\.control)?"')
_MISSING_EXTENSION = ("0A000", "58P01")
_DISK_FULL = "53100"
_DENIED = "42501"


class NotMigratedError(Exception):
    """Alembic ended without an error, but the database is not where it should be."""


def describe(error: BaseException, request: Mapping[str, Any]) -> dict[str, Any]:
    """An exception as data that can cross a process border, without any password.

    `message` is its last line, `statement` the SQL that failed, `sqlstate` PostgreSQL's code, `line` where in
    `request`'s project it was raised, `traceback` the frames of the user's own files, `hint` what to do if we know.
    """
    database_error = _database_error(error)
    statement = next((s for e in _chain(error) if (s := getattr(e, "statement", None))), None)
    data = {
        "verification": isinstance(error, NotMigratedError),
        "message": _message(database_error or error),
        "type": type(database_error or error).__name__,
        "statement": _shortened(str(statement)) if statement else None,
        "sqlstate": _sqlstate(database_error) if database_error else None,
        "line": _line(error.__traceback__, request["rootdir"]),
        "traceback": _frames(error),
        "hint": _hint(error),
    }
    return {name: _scrubbed(value, request["secrets"]) for name, value in data.items()}


def error_from(event: Mapping[str, Any], *, output: str, rootdir: Path, remedy: str) -> BuildError | Exception:
    """The error to raise for a `failed` event; `remedy` is what helps against a missing extension on this server."""
    where = _where(event, rootdir)
    reason = f"{event['type']}: {event['message']}"
    if event["sqlstate"] in _MISSING_EXTENSION and (match := _EXTENSION.search(event["message"])):
        return MissingExtensionError(f"{where} needs the extension {match[1]!r}: {event['message']}; {remedy}")
    if event["verification"]:
        return VerificationError(event["message"])
    details = [f"{where} failed: {reason}"]
    if event["statement"]:
        details.append(f"statement: {event['statement']}")
    if event["sqlstate"] == _DISK_FULL:
        details.append("the server's disk is full: free some space (`clonedb gc`, `clonedb list`) and run again")
    if event["hint"]:
        details.append(f"hint: {event['hint']}")
    if event["traceback"]:
        details.append(event["traceback"].rstrip())
    if output.strip():
        details.append("last output:\n" + "\n".join(f"  {line}" for line in output.strip().splitlines()[-8:]))
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
        place = f" ({place}:{line[1]})" if line and line[0] == path else f" ({place})"
    kind = {"revision": "revision", "seed": "seed"}.get(event["phase"])
    return f"{kind} {name!r}{place}" if kind else "migrating (env.py)"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__


def _database_error(error: BaseException) -> BaseException | None:
    return next((e for e in _chain(error) if _sqlstate(e)), None)


def _sqlstate(error: BaseException) -> str | None:
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code if isinstance(code, str) else None


def _message(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, KeyError):
        text = f"{text} is not set" if _raised_in(error, "os.py") else text
    return text or "no message"


def _shortened(statement: str, limit: int = 1500) -> str:
    statement = statement.strip()
    return statement if len(statement) <= limit else statement[:limit] + " ..."


def _line(tb: TracebackType | None, rootdir: str) -> tuple[str, int] | None:
    frames = [f for f in traceback.extract_tb(tb) if f.filename.startswith(rootdir) and not _foreign(f.filename)]
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else None


def _foreign(filename: str) -> bool:
    return (filename.startswith(_OWN + os.sep) and "/demo/" not in filename) or any(p in filename for p in _LIBRARIES)


def _frames(error: BaseException) -> str | None:
    """The traceback of the user's own code only: SQLAlchemy's forty frames tell nobody anything."""
    if isinstance(error, NotMigratedError):
        return None
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _foreign(frame.filename)]
    if not frames:
        return None
    return "Traceback (most recent call last):\n" + "".join(traceback.format_list(frames))


def _raised_in(error: BaseException, filename: str) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and (Path(frames[-1].filename).name == filename or "<frozen os>" in frames[-1].filename)


def _hint(error: BaseException) -> str | None:
    kind, text = type(error).__name__, str(error)
    if isinstance(error, KeyError) and _raised_in(error, "os.py"):
        return (
            f"if {text} holds the URL of the database, add route = [{text.replace(chr(39), chr(34))}] to [tool.clonedb]"
        )
    if kind == "ValidationError" and "required" in text:
        return "if a missing setting is the URL of the database, name its environment variable: [tool.clonedb] route"
    if isinstance(error, ModuleNotFoundError) and error.name in ("psycopg2", "asyncpg", "pg8000"):
        return f'the URL asks for the driver {error.name}, which is not installed; install it or set driver = "psycopg"'
    if isinstance(error, ModuleNotFoundError):
        return "is its directory on sys.path? alembic.ini's prepend_sys_path and pytest's pythonpath are used"
    if "requires an async driver" in text:
        return 'set driver = "asyncpg" (or "psycopg") in [tool.clonedb]'
    return None


def _scrubbed(value: Any, secrets: list[str]) -> Any:
    if not isinstance(value, str):
        return value
    for secret in secrets:
        value = value.replace(secret, "***")
    return redact(value)
