"""Replies in JSON, as IntegreSQL's clients read them, and the reply to each error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from clonedb.errors import CloneDBError
from clonedb.service.contract import (
    AlreadyInitializedError,
    DiscardedError,
    NoSuchDatabaseError,
    NoSuchTemplateError,
    UnavailableError,
)

__all__ = ["empty", "error_reply", "reply", "told"]

_KIND = "application/json; charset=UTF-8"
_STATUSES: tuple[tuple[type[CloneDBError], int], ...] = (
    (NoSuchTemplateError, 404),
    (NoSuchDatabaseError, 404),
    (DiscardedError, 410),
    (UnavailableError, 503),
)


def reply(body: Mapping[str, Any], status: int = 200) -> Response:
    """A JSON object, with a newline at its end."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False) + "\n"
    return Response(text.encode(errors="replace"), status, media_type=_KIND)


def empty() -> Response:
    """204, without a body."""
    return Response(status_code=204)


def told(status: int, message: str) -> Response:
    """An error as all routes tell it."""
    return reply({"message": message}, status)


def error_reply(error: CloneDBError) -> Response:
    """The reply to what the service raised; every other error of clonedb's is the server's or a project's: 503."""
    if isinstance(error, AlreadyInitializedError):
        # the Java client parses this body before it looks at the status, into a class without `message`
        return reply({}, 423)
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 503)
    return told(status, str(error))
