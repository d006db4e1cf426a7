"""The types of the settings say what the table of keys says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_type_hints

import pytest

from clonedb.settings.key import Key
from clonedb.settings.keys import KEYS, TEMPLATE_KEYS
from clonedb.settings.typed import Settings, Strings, TemplateSettings

HINTS = get_type_hints(Settings)


def expected(key: Key) -> Any:
    """The type that a key of the table means."""
    if key.name == "templates":
        return Mapping[str, TemplateSettings]
    special = {
        "url": str | Strings | None,
        "servers": int | Literal["auto"],
        "route": Strings | Mapping[str, str],
    }
    if key.name in special:
        return special[key.name]
    if key.split is not None:
        return str | Strings
    if key.count is not None:
        return int | str
    if key.choices:
        return Literal[key.choices]
    wider: dict[type, Any] = {tuple: Strings, dict: Mapping[str, object]}
    base: Any = wider.get(key.type, key.type)
    return base | None if key.default is None else base


def test_settings_have_the_keys_of_the_table() -> None:
    assert set(HINTS) == set(KEYS)


def test_named_templates_have_the_keys_that_a_template_takes() -> None:
    assert set(get_type_hints(TemplateSettings)) == TEMPLATE_KEYS


@pytest.mark.parametrize("name", KEYS)
def test_setting_has_the_type_and_the_choices_of_its_key(name: str) -> None:
    assert HINTS[name] == expected(KEYS[name])
    if KEYS[name].choices:
        assert get_args(HINTS[name]) == KEYS[name].choices
