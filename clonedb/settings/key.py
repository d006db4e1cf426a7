"""What one setting is: its type, what it may be, and how a text of it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clonedb.errors import ConfigError

__all__ = ["Key", "nearest", "parts", "shown", "words"]


class Key:
    """One setting: its name, type, default, help, and the values it takes. Not a dataclass: those cost 1 ms to make.

    `split` makes a list of a text, for a setting that takes both; `count` makes a number of one;
    `word` is a text that a number's setting takes, too.
    """

    __slots__ = (
        "choices",
        "count",
        "default",
        "help",
        "minimum",
        "name",
        "secret",
        "split",
        "type",
        "word",
    )

    def __init__(
        self,
        name: str,
        kind: type,
        default: Any,
        about: str,
        *,
        choices: tuple[str, ...] = (),
        minimum: float | None = None,
        secret: bool = False,
        split: Callable[[str], list[str]] | None = None,
        count: Callable[[str], int] | None = None,
        word: str | None = None,
    ) -> None:
        self.name: str = name
        self.type: type = kind
        self.default: Any = default
        self.help: str = about
        self.choices: tuple[str, ...] = choices
        self.minimum: float | None = minimum
        self.secret: bool = secret
        self.split: Callable[[str], list[str]] | None = split
        self.count: Callable[[str], int] | None = count
        self.word: str | None = word

    @property
    def option(self) -> str:
        """The command-line option: --clonedb-lock-timeout for lock_timeout."""
        return "--clonedb-" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable: CLONEDB_LOCK_TIMEOUT for lock_timeout."""
        return "CLONEDB_" + self.name.upper()

    def parse(self, text: str, source: str) -> Any:
        """A value from a command line or an environment variable; lists are JSON or separated by commas.

        Raises ConfigError.
        """
        if self.type is bool:
            if (word := text.strip().lower()) in {"1", "true", "yes", "on"}:
                return True
            if word in {"0", "false", "no", "off", ""}:
                return False
            raise ConfigError(f"{source}: {self.name} is {shown(text)}; write true or false")

        if self.type in (tuple, dict):
            return self._parse_json(text, source)
        if self.type in (int, float):
            if text == self.word:
                return text
            try:
                return (self.count or self.type)(text)
            except (ValueError, OverflowError):
                kind = "a whole number" if self.type is int else "a number"
                kind += f" or {self.word!r}" if self.word else ""
                raise ConfigError(
                    f"{source}: {self.name} is {shown(text)}; write {kind}"
                ) from None

        return text

    def _parse_json(self, text: str, source: str) -> Any:
        # `check` splits a text where the setting takes one
        if self.type is tuple and not text.lstrip().startswith(("[", "{")):
            return text if self.split is not None else tuple(parts(text))
        import json

        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(
                f"{source}: {self.name} is {shown(text)}, which is not JSON: {error}"
            ) from None


_OPERATORS = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"})


def words(text: str) -> list[str]:
    """The words of a command, as a shell splits them.

    Raises ValueError for a quotation that is not ended, and for what only a shell understands: some
    programs ignore words that they do not know, psql for one, and would do the first half only.
    """
    import shlex

    found = shlex.split(text)
    for word in found:
        if word in _OPERATORS:
            raise ValueError(
                f'{word!r} is a shell\'s, and it is run without a shell: migrate = ["sh", "-c", "..."] runs one'
            )

    return found


def parts(text: str) -> list[str]:
    """What commas separate."""
    return [part.strip() for part in text.split(",") if part.strip()]


def nearest(word: str, words: Mapping[str, Any]) -> str:
    """` (did you mean 'x'?)`, or nothing when no word is close."""
    import difflib

    close = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def shown(value: Any) -> str:
    """The repr of a value without any password; they are looked for before quoting adds quotes and backslashes."""
    from clonedb.url import redact

    return redact(repr(_hidden(value)))


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        from clonedb.url import redact_url

        return redact_url(value)
    if isinstance(value, Mapping):
        return {name: _hidden(item) for name, item in value.items()}
    return [_hidden(item) for item in value] if isinstance(value, (list, tuple)) else value
