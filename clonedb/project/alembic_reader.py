"""The program that asks Alembic how it reads a project's configuration, run in an interpreter of its own.

It reads a question from standard input and writes Alembic's answer to standard output, a JSON
object each; what Alembic refuses is an `error`. Nothing of the project is imported, and nothing
of clonedb.
"""

from __future__ import annotations

import configparser
import json
import sys
import warnings
from collections.abc import Mapping
from typing import Any


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """How Alembic reads the section and the table of a question, with its overrides as `set_main_option` sets them."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    section = question["section"]
    toml: dict[str, Any] = {}
    if question["toml"]:
        if not hasattr(Config, "toml_file_name"):
            return {
                "error": "Alembic is configured in pyproject.toml, which this version of it does not read;"
                " install alembic >= 1.16"
            }

        toml = {"toml_file": question["toml"]}

    # a file that is not there has no options, and a directory, which `%(here)s` is
    config = Config(question["ini"], ini_section=section, **toml)
    table: Mapping[str, Any] = question["table"]
    if toml:
        vars(config)["toml_alembic_config"] = (
            table  # which Alembic reads from the file when it is first asked for
        )
    if not config.file_config.has_section(section):
        config.file_config.add_section(section)
    config.file_config[configparser.DEFAULTSECT]["here"] = question["here"]
    if toml:
        config.toml_args = {**config.toml_args, "here": question["toml_here"]}
    for name, value in question["overrides"].items():
        _set(config, section, name, value if isinstance(value, str) else "\n".join(value))

    names = dict.fromkeys([*table, *config.file_config.options(section)])
    values = {
        name: _text(_value(config, section, table, name)) for name in names if name != "here"
    }

    # the rest is what Alembic makes of them for its own use; the place itself is looked up by
    # the caller
    config.set_main_option("script_location", "/")
    # `from_config` puts prepend_sys_path in front: what sys.path has gained
    before = len(sys.path)
    script = ScriptDirectory.from_config(config)
    found = {
        "version_locations": list(map(str, script.version_locations or ())),
        "prepend_sys_path": sys.path[: len(sys.path) - before],
    }
    for name, value in question["overrides"].items():
        if isinstance(value, list):  # no separator is known to have split it
            found[name] = [_here(item, question["here"]) for item in value]

    return {
        "values": values,
        "version_locations": found["version_locations"],
        "prepend_sys_path": found["prepend_sys_path"],
        "recursive": script.recursive_version_locations,
        "sourceless": script.sourceless,
    }


def _set(config: Any, section: str, name: str, value: str) -> None:
    try:
        config.set_main_option(name, value)
    except ValueError:  # a lone percent sign stands for itself
        config.file_config.set(section, name, value.replace("%", "%%"))


def _value(config: Any, section: str, table: Mapping[str, Any], name: str) -> Any:
    """An option; as it is written if that refers to what env.py sets at run time, or is no option of Alembic's."""
    from alembic.util import CommandError

    try:
        return config.get_alembic_option(name) if table else config.get_main_option(name)
    except configparser.InterpolationError:
        return config.file_config.get(section, name, raw=True)
    except (KeyError, ValueError, TypeError, CommandError):
        return table[name]


def _here(text: str, here: str) -> str:
    try:
        return text % {"here": here}
    except (KeyError, ValueError, TypeError):
        return text


def _text(value: Any) -> str:
    """An option as the text that an .ini file would hold."""
    if isinstance(value, bool):
        return str(value).lower()
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def main() -> None:
    """Answer the question on standard input."""
    question = json.load(sys.stdin)
    sys.path[:] = question["sys_path"]
    warnings.simplefilter(
        "ignore"
    )  # of old ways to write options, which Alembic says when it migrates
    try:
        found = answer(question)
    except Exception as error:  # noqa: BLE001 - the caller says it
        found = {"error": str(error) or type(error).__name__}
    sys.stdout.write("\n" + json.dumps(found))  # below what a sitecustomize may have printed


if __name__ == "__main__":
    main()
