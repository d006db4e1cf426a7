"""What statements and functions say of settings: which of them leave a session in a state that no reset takes away."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Traces", "changes_contents", "custom_settings", "named_settings", "sets", "spoils"]

# a setting whose name has a dot is custom: RESET leaves '' where a new session has NULL, also
# after SET LOCAL
_NAME = r"""[\w$]+(?:\.[\w$]+)+"""
_SET = r"\bset\s+(?:(?:session|local)\s+)?"
_CUSTOM = re.compile(
    rf"""(?:current_setting|set_config)"?\s*\(\s*'({_NAME})'|{_SET}"?({_NAME})""",
    re.IGNORECASE,
)
# the same without the name: all that counts is the dot in it
_SETS_CUSTOM = re.compile(
    rf"""set_config"?\s*\(\s*'[^']*\.|{_SET}"?[\w$-]+"?\s*\.|{_SET}"[^"]*\.""", re.IGNORECASE
)
_UNKNOWN = re.compile(
    "|".join(
        (
            r"""set_config"?\s*\((?!\s*'[^']*'(?:::text)?\s*,)""",  # a name that is computed
            _SET + r"""[\w$.]*(?:['%{]|\|\||u&)""",  # the same, or a part of what is computed
            r"""\bload\s+(?:e|u&)?['$]""",  # no library is ever unloaded
            r"\bdeallocate\b",  # prepared statements that the driver looks for
            r"\bdiscard\s+all\b",
        )
    ),
    re.IGNORECASE,
)
# SET where a statement may begin, in a function's body or in a text that is executed, too; not
# that of UPDATE. EXECUTE in a function may run what a parameter brings, which is not heard.
_SETS = re.compile(
    r"""set_config|(?:^|[;'"$(]|\b(?:begin|then|else|loop|do)\b)\s*(?:re)?set\b"""
    r"""|\bexecute\b(?!\s+(?:function|procedure)\b)""",
    re.IGNORECASE,
)
_SIGNS = (
    "set",
    "load",
    "deallocate",
    "discard",
)  # without one of which there is nothing to look for
# how long a statement may take, and what is printed; Alembic's autocommit_block() sets
# transaction_isolation
_NO_CONTENTS = re.compile(
    r"(?:transaction|log|debug)_\w+|\w+_timeout|application_name|client_min_messages",
    re.IGNORECASE,
)
_COMMENTS = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)


def spoils(text: str) -> bool:
    """Whether a statement may leave what a reset of the session does not take away, and no query shows.

    In doubt it does: text is all that is known here, not what it means.
    """
    lower = text.lower()
    # most statements: this costs far less than the patterns
    if not any(sign in lower for sign in _SIGNS):
        return False
    versions = (text, _COMMENTS.sub(" ", text))  # what looks like a comment may be in a literal
    return any(_SETS_CUSTOM.search(version) or _UNKNOWN.search(version) for version in versions)


def sets(text: str) -> bool:
    """Whether a statement or a function may change a setting, if only for a moment."""
    lower = text.lower()
    if "set" not in lower and "execute" not in lower:
        return False
    return any(_SETS.search(version) for version in (text, _COMMENTS.sub(" ", text)))


@dataclass(slots=True)
class Traces:
    """What the statements that were sent in a session may have left there.

    `spoilt` is what no reset takes away. `settings` is a change of a setting: plans made
    meanwhile hold what literals meant under it.
    """

    spoilt: bool = False
    settings: bool = False

    def hear(self, statement: str) -> None:
        """A statement is about to be sent."""
        self.spoilt = self.spoilt or spoils(statement)
        self.settings = self.settings or sets(statement)


def custom_settings(text: str) -> set[str] | None:
    """The names of the custom settings (`app.tenant`) that a function or an expression sets or reads.

    None if it may leave anything else that no reset takes away, or a setting whose name is
    computed.
    """
    code = _COMMENTS.sub(" ", text)
    return None if _UNKNOWN.search(code) else named_settings(code)


def named_settings(text: str) -> set[str]:
    """The names of the custom settings that stand in a text."""
    return {(called or written).lower() for called, written in _CUSTOM.findall(text)}


def changes_contents(setting: str) -> bool:
    """Whether the same statements may leave other contents in a database under another value of a setting.

    Not under another timeout, for one: a statement that is cut short fails the whole migration.
    """
    return _NO_CONTENTS.fullmatch(setting) is None
