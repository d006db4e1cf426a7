"""Passwords of servers in what pytest reports: a test's variables (`--showlocals`), output and warnings, JUnit's file.

A test that asks for `clonedb_url` holds a password, in a text that it may take apart or print.
So it is found where pytest shows texts, and not where they are made.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import warnings

    from clonedb.postgres.server import Server

__all__ = ["Secrets"]

_HIDDEN = "***"
_LONG = 16  # characters from which on a password is no word, and can stand nowhere by chance
_PART = 6  # characters of it by which a part is known
_CUT = "..."  # what pytest puts in place of the middle of a long value


class Secrets:
    """The passwords that the tests of a process may have been told."""

    def __init__(self) -> None:
        self._passwords: set[str] = set()

    def add(self, server: Server) -> None:
        """Those of a server: its own, and that of the role that tests connect as."""
        from urllib.parse import quote

        for password in filter(None, (server.public.password, server.config.role_password)):
            # in a URL it stands quoted
            self._passwords |= {password, quote(password, safe="")}

    def hide_in(self, report: pytest.TestReport) -> None:
        """Take them out of all that a report holds."""
        if self._passwords:
            report.longrepr = self._hidden(report.longrepr)
            report.sections = self._hidden(report.sections)
            report.user_properties = self._hidden(report.user_properties)

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Take them out of a warning before it is put into the summary."""
        warning = warning_message.message
        if isinstance(warning, Warning):
            warning.args = self._hidden(warning.args)

    def _hidden(self, value: Any) -> Any:
        """The value without them; the objects by which pytest represents a failure are changed."""
        if isinstance(value, str):
            for password in self._passwords:
                value = without(value, password)
            return value
        # exactly these: a named tuple is made of several arguments
        if type(value) in (list, tuple):
            return type(value)(map(self._hidden, value))
        # ReprEntry and the like: objects of texts and of one another
        if type(value).__module__ == "_pytest._code.code":
            for name, part in vars(value).items():
                setattr(value, name, self._hidden(part))
        return value


def without(text: str, password: str) -> str:
    """A text without a password: a long one wherever it is, whole or cut; a short one where a URL or a DSN has it."""
    if len(password) < _LONG:
        # `user:word@host` and `password=word`
        word = re.escape(password)
        return re.sub(rf"(?<=:){word}(?=@)|(?<=password=){word}(?![^\s'\"&])", _HIDDEN, text)

    text = text.replace(password, _HIDDEN)
    if _CUT not in text:
        return text
    pieces = text.split(_CUT)
    # the longest part first, or the rest of it would stay
    lengths = range(len(password), _PART - 1, -1)
    for number in range(len(pieces) - 1):
        before, after = pieces[number], pieces[number + 1]
        if length := next((each for each in lengths if before.endswith(password[:each])), 0):
            pieces[number] = before[:-length] + _HIDDEN
        if length := next((each for each in lengths if after.startswith(password[-each:])), 0):
            pieces[number + 1] = _HIDDEN + after[length:]

    return _CUT.join(pieces)
