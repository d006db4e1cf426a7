"""What a setting takes: each value checked, and brought into its own type."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from clonedb.errors import ConfigError
from clonedb.settings.key import Key, nearest, shown
from clonedb.settings.keys import KEYS, TEMPLATE_KEYS
from clonedb.settings.urls import check_urls

__all__ = ["check"]

_KINDS = MappingProxyType(
    {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
)


def check(name: str, value: Any, source: str) -> Any:
    """The value of a key in its own type, or a ConfigError that says what the key takes."""
    key = KEYS.get(name)
    if key is None:
        raise ConfigError(
            f"{source}: unknown setting {name!r}{nearest(name, KEYS)}; `clonedb config` lists them all"
        )

    if key.default is None and (value is None or value == ""):
        return None  # CLONEDB_URL= in the environment takes back what pyproject.toml says
    if key.type in (tuple, dict):
        return _check_several(key, value, source)
    if _is_word(key, value):
        return value
    value = _counted(key, value, source)
    # `type() is` here and below, because True is an int
    if key.type is float and type(value) is int:
        value = float(value)
    right_type: bool = type(value) is key.type
    # a module and a function: partition() gives three parts, none of which may be empty
    if not right_type or (name == "prepare" and not all(map(str.strip, value.partition(":")))):
        kind = "package.module:function" if right_type else _KINDS[key.type]
        kind += f" or {key.word!r}" if key.word else ""
        raise ConfigError(f"{source}: {name} is {shown(value)}; it takes {kind}")

    if key.choices and value not in key.choices:
        hint = nearest(value, dict.fromkeys(key.choices))
        raise ConfigError(
            f"{source}: {name} is {shown(value)}{hint}; it takes one of {', '.join(key.choices)}"
        )

    _check_range(key, value, source)
    if name == "role":
        _refuse_reserved(value, f"{source}: role")
    return value


def _counted(key: Key, value: Any, source: str) -> Any:
    """The number that a text means, for a setting that takes one in place of a number; any other value as it is."""
    if key.count is None or not isinstance(value, str):
        return value
    try:
        return key.count(value)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{source}: {key.name} is {shown(value)}; it takes a number of bytes, or a size such as 800MB or 20GB"
        ) from None


def _is_word(key: Key, value: Any) -> bool:
    return key.word is not None and value == key.word


def _check_several(key: Key, value: Any, source: str) -> Any:
    if key.name == "route" and isinstance(value, Mapping):
        return _check_route(value, source)
    if key.type is tuple:
        return _check_list(key, value, source)
    return (_check_templates if key.name == "templates" else _check_table)(key, value, source)


def _check_range(key: Key, value: Any, source: str) -> None:
    # neither nan nor inf: their difference from themselves is nan
    if key.type is float and not value - value == 0:
        raise ConfigError(f"{source}: {key.name} is {value!r}; it takes a finite number")
    if key.minimum is not None and value < key.minimum:
        raise ConfigError(
            f"{source}: {key.name} is {value!r}; the least it takes is {key.minimum:g}"
        )


def _refuse_reserved(role: str, what: str) -> None:
    """Raises ConfigError for a name that PostgreSQL lets no role have, quoted or not."""
    if role in ("", "public", "none") or role.startswith("pg_"):
        raise ConfigError(
            f"{what} is {role!r}, which is no role that anybody can create; write another name"
        )


def _check_list(key: Key, value: Any, source: str) -> tuple[str, ...]:
    if key.split is not None and isinstance(value, str):
        try:
            value = key.split(value)
        except ValueError as error:
            raise ConfigError(
                f"{source}: {key.name} is {shown(value)}, which cannot be split into words: {error}"
            ) from None

    kind = "a string or a list of strings" if key.name == "url" else "a list of strings"
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{source}: {key.name} is {shown(value)}; it takes {kind}")
    for variable in value if key.name == "watch_env" else ():
        if not variable or "=" in variable:
            raise ConfigError(
                f"{source}: watch_env names {variable!r}; it takes names of environment variables"
            )

    for role in value if key.name == "roles" else ():
        _refuse_reserved(role, f"{source}: one of roles")
    for name in value if key.name == "metadata" else ():
        module, colon, attribute = name.partition(":")
        if not colon or not all(
            part.isidentifier() for part in (*module.split("."), *attribute.split("."))
        ):
            raise ConfigError(
                f"{source}: metadata is {shown(name)}; it takes package.module:Base.metadata"
            )

    return check_urls(value, source) if key.name == "url" else tuple(value)


def _check_route(value: Mapping[Any, Any], source: str) -> Mapping[str, str]:
    for entry, template in value.items():
        if not isinstance(template, str) or not template:
            raise ConfigError(
                f"{source}: route sends {shown(entry)} to {shown(template)}; it takes the name of a template"
                " ('default' is the project's own)"
            )
    return MappingProxyType({str(entry): template for entry, template in value.items()})


def _check_table(key: Key, value: Any, source: str) -> Mapping[str, str | tuple[str, ...]]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{source}: {key.name} is {shown(value)}; it takes a table of names and values"
        )
    if key.name == "server":
        from clonedb.settings.parameters import check_parameters

        return check_parameters(value, source)
    return MappingProxyType({str(name): _as_ini(item) for name, item in value.items()})


def _check_templates(key: Key, value: Any, source: str) -> Mapping[str, Mapping[str, Any]]:
    """Named templates: a table of tables, whose settings are those that a template is made of."""
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{source}: {key.name} is {shown(value)}; it takes a table of names and values"
        )

    checked: dict[str, Mapping[str, Any]] = {}
    for name, table in value.items():
        place = f"{source}.templates.{name}"
        # names of templates that clonedb derives from a configuration
        if name in ("default", "revision", "schema"):
            raise ConfigError(
                f"{place}: {name!r} is a template of clonedb's own making; give this one another name"
            )

        if not isinstance(table, Mapping):
            raise ConfigError(
                f"{place}: a named template is {shown(table)}; it takes a table of settings"
            )

        if unknown := sorted(table.keys() - TEMPLATE_KEYS):
            hint = nearest(unknown[0], dict.fromkeys(TEMPLATE_KEYS))
            takes = ", ".join(sorted(TEMPLATE_KEYS))
            raise ConfigError(
                f"{place}: a template has no setting {unknown[0]!r}{hint}; it takes {takes}"
            )

        checked[name] = MappingProxyType(
            {key: check(key, item, place) for key, item in table.items()}
        )

    return MappingProxyType(checked)


def _as_ini(item: Any) -> str | tuple[str, ...]:
    """An Alembic option as the text that an .ini file would hold; a list stays one, because no separator is known."""
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, (list, tuple)):
        return tuple(map(str, item))
    return str(item)
