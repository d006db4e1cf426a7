"""`url` with several servers, and `servers`: how they are written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedb.errors import ConfigError
from clonedb.settings.config import Config
from clonedb.settings.keys import KEYS
from clonedb.settings.load import load

A, B = "postgresql://me:SECRET@a/", "postgresql+asyncpg://me:SECRET@b:5433/?sslmode=require"
EMPTY = Config(rootdir=Path("/project"))


@pytest.mark.parametrize("between", [" ", ",", ", ", "\n", " ,\t"])
def test_a_text_lists_urls_by_spaces_or_commas(
    between: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the variable, in the option, and in TEST_DATABASE_URL; the first is the one to use until one is chosen."""
    (tmp_path / ".git").mkdir()
    for name in ("CLONEDB_URL", "TEST_DATABASE_URL"):
        with monkeypatch.context() as patch:
            patch.setenv(name, f"{A}{between}{B}\n")
            found = load(tmp_path)
        assert (found.urls, found.url, found.source("url")) == ((A, B), A, name)
    assert EMPTY.replace("here", url=f"{A}{between}{B}").urls == (A, B)
    for given in ([A, B], [f"{A}{between}{B}"]):
        assert EMPTY.replace("--clonedb-url", url=given).urls == (A, B)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h1:1,h2:2/app",
        "postgresql://me:pass,word with:all@h1,h2/app",
        "postgresql://me@/app?host=h1,h2&port=1,2",
    ],
)
def test_commas_and_spaces_within_a_url_are_its_own(url: str) -> None:
    """libpq's several hosts of one server, and a password, are no list: only what a scheme follows separates."""
    assert EMPTY.replace("here", url=url).urls == (url,)
    assert EMPTY.replace("here", url=f"{A},{url}".replace(" ", "%20")).urls == (
        A,
        url.replace(" ", "%20"),
    )


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        (
            "postgresql://me:SECRET,postgresql://SECRET@h/",
            r"the port after 'me' .*write %20 or %2C$",
        ),
        (f"{A} {B} db3", r"url 2 of 2, .* has a space or ends in a comma; several"),
        ([A, f"{B} db3"], r"url 2 of 2, .* has a space"),
        ([A, "mysql://me:SECRET@h/"], r"url 2 of 2: .* is not the URL of a PostgreSQL server"),
        ([A, B, A], r"url 3 of 3, 'postgresql://me:\*\*\*@a/', is there twice; take one away$"),
    ],
)
def test_what_is_no_list_of_urls_is_refused(url: str | list[str], complaint: str) -> None:
    """With what to write instead, and without a password."""
    with pytest.raises(ConfigError, match=f"^here: .*{complaint}") as caught:
        EMPTY.replace("here", url=url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://h1/db,h2/db", "postgresql://h1/db,h2/db"),
        ("postgresql://h1/db h2/db", "postgresql://h1/db h2/db"),
        ("postgresql://h1:5432/,h2:5432/", "postgresql://h1:5432/,h2:5432/"),
        ("postgresql://h1,h2:5433/db,h3/db", "postgresql://h1,h2:5433/db,h3/db"),
        ("postgresql://[::1]:5432/db,[::2]/db", "postgresql://[::1]:5432/db,[::2]/db"),
        ("postgresql://me@h1/db,me@h2/db", r"postgresql://me@h1/db,***@h2/db"),
        ("postgresql://me@h1/db me:SECRET@h2/db", "postgresql://me@h1/db ***@h2/db"),
        ("postgresql://h1/db,me:SECRET@h2/db", "postgresql://h1/db,***@h2/db"),
        # the whole is one user, one password and h2
        ("postgresql://me:SECRET@h1/db,me:SECRET@h2/db", "postgresql://me:***@h2/db"),
        (
            "postgresql://me:SE,CRET@h1/db, h2/db?application_name=x",
            "postgresql://me:***@h1/db",
        ),
    ],
)
def test_a_second_server_without_its_scheme_is_refused(url: str, shown: str) -> None:
    """It would be a part of the database's name; the error says what was read, and how to write two servers."""
    for given, what in ((url, "url"), (f"{A} {url}", "url 2 of 2"), ([url, A], "url 1 of 2")):
        with pytest.raises(ConfigError) as caught:
            EMPTY.replace("here", url=given)
        text = str(caught.value)
        assert text.startswith(f"here: {what}, '{shown}")
        assert "several are written as postgresql://h1/db,postgresql://h2/db, and a" in text
        assert "CRET" not in text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h1,h2/db",
        "postgresql://h1:1,h2:2/db?options=-csearch_path%3Da,b",
        "postgresql:///db?host=/run/a,/run/b",
        "postgresql://%2Frun%2Fpostgresql/db",
        "postgresql://h1/one%2Ctwo%20three",
        "postgresql://me:pass/word,more@h1/db",
        "postgresql://me:pass@word@h1,h2/db",
        "postgresql://h1/db?application_name=me@h2/a,b",
    ],
)
def test_one_server_with_commas_is_one_server(url: str) -> None:
    """Several hosts of libpq's, parameters, passwords, and names that are written with %2C."""
    assert EMPTY.replace("here", url=url).urls == (url,)
    assert EMPTY.replace("here", url=[A, url]).urls == (A, url)


def test_an_empty_list_is_no_url() -> None:
    """As an empty text takes back what another place says."""
    config = EMPTY.replace("file", url=[A, B])
    for nothing in ([], ["", " "], "", None):
        found = config.replace("here", url=nothing)
        assert (found.url, found.urls, found.server_count(4)) == (None, (), 1)


def test_one_server_of_several() -> None:
    """The configuration of one has its url, also for named templates; all are shown without passwords."""
    config = EMPTY.replace("file", url=[A, B], templates={"more": {"salt": "x"}})
    assert (config.server_count(1), config.server_count(16)) == (2, 2)
    named = config.of_template("more", "test")
    for number, url in enumerate((A, B)):
        assert config.on_server(number).url == url
        chosen = named.on_server(number)
        assert chosen.url == url
        assert chosen.of_template("default", "test").url == url
        assert chosen.of_server().url == url
        assert chosen.of_server().number == number
    assert config.shown("url") == str(
        ["postgresql://me:***@a/", "postgresql+asyncpg://me:***@b:5433/?sslmode=require"]
    )
    assert config.on_server(0).shown("url") == "'postgresql://me:***@a/'"
    assert "SECRET" not in repr(config)


@pytest.mark.parametrize(
    ("text", "workers", "count"),
    [
        ("1", 64, 1),
        ("3", 1, 3),
        ("auto", 1, 1),
        ("auto", 8, 1),
        ("auto", 9, 2),
        ("auto", 32, 4),
    ],
)
def test_how_many_embedded_servers(text: str, workers: int, count: int) -> None:
    """A number, or one for each 8 workers; where there is a url, there is no embedded server."""
    config = EMPTY.replace("here", servers=KEYS["servers"].parse(text, "here"))
    assert config.server_count(workers) == count
    assert config.replace("here", url=A).server_count(workers) == 1


def test_servers_takes_a_number_from_1() -> None:
    """Or one word."""
    with pytest.raises(ConfigError, match=r"servers is 0; the least it takes is 1$"):
        EMPTY.replace("here", servers=0)
    with pytest.raises(
        ConfigError, match=r"servers is 'many'; write a whole number or 'auto'$"
    ):
        KEYS["servers"].parse("many", "here")
