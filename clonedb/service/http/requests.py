"""What requests say: who asks, and the fields of a body, in JSON or as a form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from clonedb.errors import CloneDBError

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["BadRequestError", "fields", "holder"]

_AGENT = 60  # characters of what a client calls itself


class BadRequestError(CloneDBError):
    """The request is not what the route takes."""


def holder(request: Request) -> str:
    """`127.0.0.1 (node)`: the peer's address, and what it calls itself."""
    host = request.client.host if request.client else "unknown"
    agent = request.headers.get("user-agent", "")[:_AGENT].strip()
    return f"{host} ({agent})" if agent else host


async def fields(request: Request) -> dict[str, Any]:
    """The fields of the body: a JSON object's, or a form's; none of an empty body. Raises BadRequestError."""
    body = await request.body()
    if not body.strip():
        return {}

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        # `curl -d '{"hash": ...}'` calls JSON a form
        if kind == "application/x-www-form-urlencoded" and not body.lstrip().startswith(b"{"):
            return dict(parse_qsl(body.decode(), keep_blank_values=True))
        found = json.loads(body)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadRequestError("the body is no JSON object")
    return found
