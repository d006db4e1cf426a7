"""Config: checked when it is set, frozen afterwards, and shown without passwords."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clonedb.errors import ConfigError
from clonedb.settings.config import Config
from clonedb.settings.keys import KEYS
from clonedb.settings.load import load

URL = "postgresql://me:SECRET@localhost/app"
EMPTY = Config(rootdir=Path("/project"))


def replaced(**values: Any) -> Config:
    """EMPTY with values that a type checker need not find right."""
    return EMPTY.replace("here", **values)


def test_every_key_has_a_default_of_its_type() -> None:
    """Zero configuration works: a key that was not set has its documented default, and says so."""
    assert {key.type for key in KEYS.values()} == {str, int, float, bool, tuple, dict}
    for name, key in KEYS.items():
        value = getattr(EMPTY, name)
        assert value is None or isinstance(value, Mapping if key.type is dict else key.type), (
            name
        )
        assert EMPTY.source(name) == "default"
        assert key.help, name
        assert not key.help.endswith("."), name
        assert key.option == "--clonedb-" + name.replace("_", "-")
        assert key.variable == "CLONEDB_" + name.upper()
    assert repr(EMPTY) == "Config(rootdir='/project')"


def test_replace_sets_what_it_is_told_and_remembers_the_place() -> None:
    """Each value comes from the place it was set at last; the first configuration stays as it was."""
    first = EMPTY.replace("pyproject.toml", target="base", keep_count=1)
    second = first.replace("CLONEDB_TARGET", target="heads")
    assert (first.target, first.source("target")) == ("base", "pyproject.toml")
    assert (second.target, second.source("target")) == ("heads", "CLONEDB_TARGET")
    assert (second.keep_count, second.source("keep_count")) == (1, "pyproject.toml")
    assert first.source("salt") == EMPTY.source("target") == "default"


def test_config_is_frozen() -> None:
    """Nobody changes the configuration under somebody else's feet, not even its tables."""
    config = EMPTY.replace("test", alembic={"script_location": "migrations"}, x=["a=b"])
    with pytest.raises(AttributeError):
        config.target = "base"  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.alembic["script_location"] = "elsewhere"  # type: ignore[index]
    with pytest.raises(TypeError):
        config.sources["x"] = "elsewhere"  # type: ignore[index]
    assert config.x == ("a=b",)


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("urll", "url"),
        ("lock-timeout", "lock_timeout"),
        ("keep_template", "keep_templates"),
        ("seeds", "seed"),
    ],
)
def test_unknown_key_is_told_the_nearest(word: str, nearest: str) -> None:
    """A mistyped key is an error that names the place and the key that was probably meant."""
    with pytest.raises(
        ConfigError,
        match=rf"^here: unknown setting '{word}' \(did you mean '{nearest}'\?\); `clonedb config`",
    ):
        replaced(**{word: 1})


@pytest.mark.parametrize("word", ["zzzzzz", "source", "rootdir", "sources", "self"])
def test_what_is_no_key_at_all(word: str) -> None:
    """Nor are the names of Config's own parts keys."""
    with pytest.raises(ConfigError, match=f"^here: unknown setting '{word}'"):
        replaced(**{word: "x"})


WRONG: dict[type, tuple[list[Any], str]] = {
    str: ([1, 1.5, True, ["a"], {"a": "b"}], "a string"),
    int: (["1", 1.5, True, [1]], "a whole number"),
    float: (["1", True, [1.0]], "a number"),
    bool: (["true", 1, 0, []], "true or false"),
    tuple: (["a", 1, {"a": "b"}, ["a", 1], [["a"]]], "a list of strings"),
    dict: (["a=b", 1, ["a"]], "a table of names and values"),
}


@pytest.mark.parametrize("name", KEYS)
def test_wrong_type_says_what_the_key_takes(name: str) -> None:
    """A value of another type is refused, never converted: `keep_count = "3"` is a mistake."""
    values, takes = WRONG[KEYS[name].type]
    takes = {"url": "a string or a list of strings", "servers": "a whole number or 'auto'"}.get(
        name, takes
    )
    key = KEYS[name]
    # which takes a text, too
    takes_text = key.split is not None or key.count is not None
    for value in values[takes_text:]:
        if name == "route" and isinstance(value, dict):  # which takes a table, too
            continue
        with pytest.raises(
            ConfigError, match=f"^here: {name} is {re.escape(repr(value))}; it takes {takes}$"
        ):
            replaced(**{name: value})
    if KEYS[name].default is None:
        for nothing in (None, ""):
            assert getattr(replaced(**{name: nothing}), name) is None
    else:
        with pytest.raises(ConfigError, match=f"here: {name} is None"):
            replaced(**{name: None})


def test_route_takes_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of variables and URLs with the names of templates, also in CLONEDB_ROUTE; a name is a text."""
    table = {"SHOP_URL": "default", "REPORTS_URL": "reports"}
    assert replaced(route=table).route == table
    monkeypatch.setenv("CLONEDB_ROUTE", json.dumps(table))
    assert load(tmp_path).route == table
    for wrong in (1, "", None, ["reports"]):
        with pytest.raises(
            ConfigError, match=f"^here: route sends 'A' to {re.escape(repr(wrong))}"
        ):
            replaced(route={"A": wrong})


def test_whole_number_does_for_a_number() -> None:
    """`lock_timeout = 5` in TOML is a number of seconds."""
    config = EMPTY.replace("here", lock_timeout=5)
    assert config.lock_timeout == 5.0
    assert type(config.lock_timeout) is float


@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if key.choices])
def test_choices(name: str) -> None:
    """A key with choices takes each of them, and says which there are when it is given another."""
    for choice in KEYS[name].choices:
        assert getattr(replaced(**{name: choice}), name) == choice
    some = KEYS[name].choices[0]
    listed = ", ".join(KEYS[name].choices)
    with pytest.raises(
        ConfigError,
        match=rf"^here: {name} is '{some}x' \(did you mean '{some}'\?\); it takes one of {listed}$",
    ):
        replaced(**{name: some + "x"})


@pytest.mark.parametrize(
    "name", [name for name, key in KEYS.items() if key.minimum is not None]
)
def test_minimum(name: str) -> None:
    """The least value is taken, one below it is not, and neither is what is no number."""
    least = KEYS[name].minimum
    assert least is not None
    assert getattr(replaced(**{name: KEYS[name].type(least)}), name) == least
    with pytest.raises(
        ConfigError, match=rf"^here: {name} is -1(\.0)?; the least it takes is {least:g}$"
    ):
        replaced(**{name: -1})
    if KEYS[name].type is float:
        for value in (float("inf"), float("nan")):
            with pytest.raises(
                ConfigError, match=f"^here: {name} is {value}; it takes a finite number$"
            ):
                replaced(**{name: value})


@pytest.mark.parametrize(
    ("size", "count"),
    [("20GB", 20 * 1024**3), ("1.5 MB", 1572864), ("12kb", 12288), ("800", 800), (7, 7)],
)
def test_a_size_is_a_number_or_has_a_unit(size: Any, count: int) -> None:
    assert replaced(keep_bytes=size).keep_bytes == count
    if isinstance(size, str):
        assert KEYS["keep_bytes"].parse(size, "--x") == count


@pytest.mark.parametrize("size", ["much", "", "GB", "3 PB", "1e999", "-1MB"])
def test_what_is_no_size(size: str) -> None:
    with pytest.raises(ConfigError, match=r"^here: keep_bytes is "):
        replaced(keep_bytes=size)


def test_a_command_is_split_as_a_shell_does() -> None:
    """In a file as in a variable; a list is taken as it is."""
    words = ("yoyo", "apply", "a b,", "$HOME")
    for value in ("yoyo apply 'a b,' $HOME", list(words)):
        assert EMPTY.replace("here", migrate=value).migrate == words
    with pytest.raises(
        ConfigError,
        match=r"^here: migrate is \"yoyo 'a\", which cannot be split into words: No closing quotation$",
    ):
        EMPTY.replace("here", migrate="yoyo 'a")
    # psql ignores the second half with a warning
    with pytest.raises(ConfigError, match="'&&' is a shell's, and it is run without a shell"):
        EMPTY.replace("here", migrate="psql -f a.sql && psql -f b.sql")
    quoted = EMPTY.replace("here", migrate="psql -c 'select 1 && 2;'")
    assert quoted.migrate == ("psql", "-c", "select 1 && 2;")


def test_alembic_options_become_the_text_of_an_ini_file() -> None:
    """[tool.clonedb.alembic] holds TOML's types; Alembic reads its options from text, and lists by a separator."""
    table = {
        "script_location": "migrations",
        "recursive_version_locations": True,
        "truncate_slug_length": 40,
        "version_locations": ["a", "b"],
    }
    assert dict(EMPTY.replace("here", alembic=table).alembic) == {
        "script_location": "migrations",
        "recursive_version_locations": "true",
        "truncate_slug_length": "40",
        "version_locations": ("a", "b"),
    }


def test_paths_start_at_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is the project's, whatever directory pytest was started in; `~` is the user's home."""
    monkeypatch.setenv("HOME", "/home/me")
    assert EMPTY.path("seeds/shop.sql") == Path("/project/seeds/shop.sql")
    assert EMPTY.path("/etc/shop.sql") == Path("/etc/shop.sql")
    assert EMPTY.path("~/shop.sql") == Path("/home/me/shop.sql")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rebuild", "1", True),
        ("rebuild", " Yes ", True),
        ("rebuild", "on", True),
        ("rebuild", "FALSE", False),
        ("rebuild", "", False),
        ("keep_count", "7", 7),
        ("lock_timeout", "2.5", 2.5),
        ("seed", "a.sql, shop.seeds:load ,", ("a.sql", "shop.seeds:load")),
        ("seed", "", ()),
        ("x", '["tenant=a,b", "c"]', ["tenant=a,b", "c"]),
        ("migrate", "yoyo apply 'a b', --all", "yoyo apply 'a b', --all"),
        ("migrate", '["yoyo", "apply"]', ["yoyo", "apply"]),
        ("alembic", '{"script_location": "migrations"}', {"script_location": "migrations"}),
        ("prefix", "shop", "shop"),
        ("target", "a@head", "a@head"),
    ],
)
def test_text_is_read_by_the_type_of_the_key(name: str, text: str, value: Any) -> None:
    """Command lines and the environment hold text: lists are JSON or separated by commas."""
    assert KEYS[name].parse(text, "here") == value


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("rebuild", "maybe", "rebuild is 'maybe'; write true or false"),
        ("keep_count", "2.5", "keep_count is '2.5'; write a whole number"),
        ("lock_timeout", "5s", "lock_timeout is '5s'; write a number"),
        ("x", '["a"', "x is '[\"a\"', which is not JSON"),
        ("alembic", "script_location=x", "alembic is 'script_location=x', which is not JSON"),
    ],
)
def test_text_that_cannot_be_read(name: str, text: str, complaint: str) -> None:
    """The error names the place, the key, the text, and what to write."""
    with pytest.raises(ConfigError, match="^here: " + re.escape(complaint)):
        KEYS[name].parse(text, "here")


def test_passwords_are_never_shown() -> None:
    """Neither repr() nor what `clonedb config` shows has the password of a URL, wherever it was written."""
    config = EMPTY.replace(
        "here",
        url="postgresql://me:SECRET of many words, it's@localhost/app",
        x=[f"url={URL}", "password=SECRET"],
        alembic={"sqlalchemy.url": URL, "shadow_url": URL.replace("SECRET", "'SECRET\"")},
        route=[URL],
    )
    shown = [config.shown(name) for name in KEYS] + [repr(config), str(config), f"{config}"]
    assert [text for text in shown if "SECRET" in text or "words" in text] == []
    assert config.shown("url") == "'postgresql://me:***@localhost/app'"
    assert config.shown("x") == "['url=postgresql://me:***@localhost/app', 'password=***']"
    assert config.shown("keep_count") == "3"
    assert "SECRET" not in repr(EMPTY.replace("here", url="me:SECRET@localhost"))


@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if key.type is not str])
def test_passwords_are_never_in_a_complaint(name: str) -> None:
    """A URL in the wrong place is complained about without its password."""
    for value in (URL, [URL, 1], {"password": "SECRET"}, {"url": [URL]}):
        takes_tables = KEYS[name].type is dict or name == "route"
        is_right = isinstance(value, dict if takes_tables else str) and (
            takes_tables or name in ("migrate", "url")
        )
        if not is_right:
            with pytest.raises(ConfigError) as caught:
                replaced(**{name: value})
            assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name, key in KEYS.items() if key.type not in (str, tuple)]
)
def test_passwords_are_never_in_a_complaint_about_text(name: str) -> None:
    """Nor when it came from the environment or the command line."""
    for text in (URL, '{"sqlalchemy.url": "' + URL, '{"password": "SECRET"'):
        with pytest.raises(ConfigError) as caught:
            KEYS[name].parse(text, "here")
        assert "SECRET" not in str(caught.value)


def test_keys_are_read_only() -> None:
    """The table of keys is made once, from Config's own fields, in their order."""
    parts = ("rootdir", "sources", "project_wide", "urls", "number")
    assert list(KEYS) == [name for name in Config._fields if name not in parts]
    with pytest.raises(TypeError):
        KEYS["other"] = KEYS["url"]  # type: ignore[index]
