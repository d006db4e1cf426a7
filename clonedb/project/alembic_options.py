"""Alembic's main options as Alembic itself reads them from alembic.ini, pyproject.toml and overrides.

Importing Alembic costs 440 ms. So it is asked in an interpreter of its own, and its answer is
remembered as long as the contents of the files, the overrides and Alembic's version are the
same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from clonedb.errors import ConfigError, ServerError
from clonedb.private_files import PrivateDirectory, read_file
from clonedb.project.versions import version
from clonedb.settings.config import Config
from clonedb.url import redact

__all__ = ["AlembicFiles", "AlembicOptions"]

_READER = Path(__file__).with_name("alembic_reader.py")
_FORMAT = 1  # counted up when the reader answers in another way
_LOCALE = ("LC_ALL", "LC_CTYPE", "LANG")  # by which Alembic decodes an .ini file
_ATTEMPTS = 3  # readings that an edit may spoil
# control characters, which no option has in it
_WORDS = ("\x02here\x03", "\x02here of toml\x03")
_PREFIX = "alembic-"  # of the files that answers are in
_KEPT = 100  # the newest answers


class AlembicOptions(NamedTuple):
    """The main options of one project.

    `values` are all of them after interpolation, as text. The other fields are what Alembic
    makes of the ones of these names: `version_locations` and `prepend_sys_path` as they are
    written; `recursive` and `sourceless` say whether directories below are entered, and
    compiled revisions run.
    """

    values: Mapping[str, str]
    version_locations: tuple[str, ...]
    prepend_sys_path: tuple[str, ...]
    recursive: bool
    sourceless: bool

    def __repr__(self) -> str:
        """Without the values, which may hold a password."""
        return f"<options {', '.join(self.values)}>"


class AlembicFiles(NamedTuple):
    """What Alembic is asked about: `section` of an .ini file, the table `[tool.alembic]` of a TOML file, overrides.

    `ini` is the file that `%(here)s` is the directory of; it need not exist. `table` is empty
    if there is none.
    """

    ini: Path
    toml: Path
    table: Mapping[str, Any]
    section: str
    overrides: Mapping[str, str | tuple[str, ...]]

    def read(self, config: Config) -> AlembicOptions:
        """What Alembic makes of them, which is remembered in the state directory of a configuration.

        Raises ConfigError for a file that Alembic cannot read, and for what it refuses.
        """
        if not (self.table or self.overrides or self.ini.is_file()):
            return AlembicOptions({}, (), (), recursive=False, sourceless=False)
        memory = _memory(config)
        for _ in range(_ATTEMPTS):
            state = self._state()
            name = f"{_PREFIX}{state[:32]}.json"
            answer = _remembered(memory, name, state)
            if answer is None:
                answer = self._ask()
                # what Alembic read may be neither the old file nor the new one
                if self._state() != state:
                    continue  # edited while Alembic read it
                _remember(memory, name, state, answer)

            return self._options(answer)

        raise ConfigError(
            f"{str(self.ini)!r} was written each time that Alembic read it; what writes it?"
        )

    def _here(self) -> tuple[str, str]:
        """What `%(here)s` is to be in the two files.

        Words in place of the directories, so that checkouts share an answer; the directories
        themselves if Alembic may split an option within them.
        """
        places = self.ini.parent.as_posix(), self.toml.parent.as_posix()
        # blanks, commas and colons may separate the items of an option
        return _WORDS if all(re.fullmatch(r"[\w./-]+", place) for place in places) else places

    def _options(self, answer: Mapping[str, Any]) -> AlembicOptions:
        """An answer, in which the words are the directories again."""
        places = self.ini.parent.as_posix(), self.toml.parent.as_posix()

        def here(text: str) -> str:
            for word, place in zip(_WORDS, places, strict=True):
                text = text.replace(word, place)
            return text

        def listed(name: str) -> tuple[str, ...]:
            return tuple(here(stripped) for text in answer[name] if (stripped := text.strip()))

        return AlembicOptions(
            MappingProxyType({name: here(value) for name, value in answer["values"].items()}),
            listed("version_locations"),
            listed("prepend_sys_path"),
            answer["recursive"],
            answer["sourceless"],
        )

    def _state(self) -> str:
        """The digest of everything that the answer depends on."""
        try:
            text = read_file(self.ini)
        except (FileNotFoundError, IsADirectoryError):
            text = b""
        except OSError as error:
            raise ConfigError(f"{str(self.ini)!r} cannot be read: {error.strerror}") from None

        contents = [
            hashlib.sha256(text).hexdigest(),
            self.section,
            dict(self.table),
            dict(self.overrides),
        ]
        locale = [os.environ.get(name) for name in _LOCALE]
        state = [_FORMAT, version("alembic"), self._here(), contents, locale]
        return hashlib.sha256(
            # names of files that are no UTF-8 are surrogates
            json.dumps(state, sort_keys=True, default=str).encode("utf-8", "surrogatepass")
        ).hexdigest()

    def _ask(self) -> dict[str, Any]:
        import subprocess

        here, toml_here = self._here()
        question = {
            "sys_path": sys.path,
            "ini": str(self.ini),
            "here": here,
            "toml": str(self.toml) if self.table else "",
            "table": dict(self.table),  # as it was read: the file may be edited meanwhile
            "toml_here": toml_here,
            "section": self.section,
            "overrides": dict(self.overrides),
        }
        done = subprocess.run(
            # -P: or modules beside the program would hide others of their name
            [sys.executable, "-P", str(_READER)],
            input=json.dumps(question, default=str),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ConfigError(
                f"Alembic could not be asked how it reads {self._about()}: {redact(last)}"
            )

        # a sitecustomize may have printed something before
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if "error" in answer:
            # the message may quote lines
            raise ConfigError(
                f"{self._about()} cannot be read by Alembic: {redact(answer['error'])}"
            )

        return answer

    def _about(self) -> str:
        return repr(str(self.toml if self.table and not self.ini.is_file() else self.ini))


def _memory(config: Config) -> PrivateDirectory | None:
    """Where Alembic's answers are; None if that cannot be had, and what needs the state directory says why."""
    from clonedb.embedded.places import state_files

    try:
        return state_files(config) / "index"
    except (OSError, ServerError):
        return None


def _remembered(
    memory: PrivateDirectory | None, name: str, state: str
) -> dict[str, Any] | None:
    """The answer that was remembered for a state, if there is one."""
    if memory is None:
        return None
    try:
        text = memory.read(name)
        found = json.loads(text)
    except (OSError, ServerError, ValueError):  # not there, or damaged
        return None
    match found:
        # a file of another form was written by another version: as good as none
        case {
            "state": known,
            "answer": {
                "values": dict(),
                "version_locations": list(),
                "prepend_sys_path": list(),
                "recursive": bool(),
                "sourceless": bool(),
            } as answer,
        } if known == state:
            return dict(answer)
    return None


def _remember(
    memory: PrivateDirectory | None, name: str, state: str, answer: Mapping[str, Any]
) -> None:
    """Keep an answer; one that cannot be kept costs time at the next start and is no error."""
    if memory is None:
        return
    with contextlib.suppress(OSError, ServerError):
        memory.make()
        memory.write(name, json.dumps({"state": state, "answer": answer}))
        # each state of the files leaves an answer, also that of every branch that was looked at
        known = [
            (found.st_mtime, each)
            for each in memory.names()
            if (found := _stat(memory, each)) is not None
        ]
        for _, old in sorted(known, reverse=True)[_KEPT:]:
            memory.unlink(old)


def _stat(memory: PrivateDirectory, name: str) -> os.stat_result | None:
    return memory.stat(name) if name.startswith(_PREFIX) else None
