"""URLs: read in every form that libpq and SQLAlchemy read, written so that both read the same."""

from __future__ import annotations

import json
import string
import time
from urllib.parse import quote

import pytest
import sqlalchemy
from hypothesis import example, given, settings, strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from clonedb.errors import ConfigError
from clonedb.url import DatabaseURL, redact, redact_url

many = settings(max_examples=50, deadline=None, database=None)

anything = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
)
awkward = st.text("ab%@/:?#&=+ '\"\\[],ß√", min_size=1, max_size=12)
names = st.text(string.ascii_lowercase + string.digits + ".-_", min_size=1, max_size=20)
addresses = st.ip_addresses().map(str)
directories = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
several = st.lists(names, min_size=2, max_size=3).map(",".join)
parameters = st.lists(
    st.tuples(
        st.sampled_from(
            ["application_name", "options", "sslmode", "sslcert", "target_session_attrs"]
        ),
        anything,
    ),
    unique_by=lambda pair: pair[0],
    max_size=3,
).map(tuple)
urls = st.builds(
    DatabaseURL,
    driver=st.sampled_from([None, "psycopg", "psycopg2", "asyncpg"]),
    user=st.none() | anything | awkward,
    password=st.none() | anything | awkward,
    host=st.none() | names | addresses | directories | several,
    port=st.none() | st.integers(1, 65535),
    database=st.none() | anything | awkward,
    query=parameters | st.just((("ssl", "require"), ("prepared_statement_cache_size", "0"))),
)


@many
@given(urls)
@example(DatabaseURL(password="only a password"))
@example(DatabaseURL(port=5433))
@example(DatabaseURL(host="h1,h2", database="x", query=(("port", "1,2"),)))
def test_written_url_is_read_back(url: DatabaseURL) -> None:
    """Whatever characters its parts have, a URL that was written is read as the same URL."""
    assert DatabaseURL.parse(url.render()) == url


@many
@given(urls, anything)
def test_password_is_not_shown(url: DatabaseURL, password: str) -> None:
    """Neither str() nor repr() of a URL depends on what its password is."""
    with_password = url.replace(password=password)
    assert str(with_password) == str(url.replace(password="another"))
    assert repr(with_password) == repr(url.replace(password="another"))


@many
@given(urls.filter(lambda url: ("ssl", "require") not in url.query))
def test_libpq_reads_the_same(url: DatabaseURL) -> None:
    """libpq takes the written URL for the keywords that conninfo() gives."""
    plain = url.replace(driver=None)
    assert conninfo_to_dict(plain.render()) == plain.conninfo()


@many
@given(urls.map(lambda url: url.replace(database="app", query=())))
def test_sqlalchemy_reads_the_same(url: DatabaseURL) -> None:
    """SQLAlchemy takes the written URL for the same parts."""
    read = sqlalchemy.make_url(url.render())
    assert (read.username or None, read.password, read.database) == (
        url.user,
        url.password,
        url.database,
    )
    assert read.drivername == ("postgresql+" + url.driver if url.driver else "postgresql")
    assert read.host == url.host or read.query["host"] == url.host
    assert read.port == url.port or read.query["port"] == str(url.port)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://",
        "postgresql:///app",
        "postgresql://localhost/",
        "postgresql://db.example.org:5433/app",
        "postgresql://me@localhost/app",
        "postgresql://me:secret@localhost/app",
        "postgresql://me:%40%2F%3A%3F%23%25@localhost/app",
        "postgresql://me:@localhost/app",
        "postgresql://[2001:db8::1]:5432/app",
        "postgresql://localhost/app?sslmode=verify-full&application_name=a%20b",
        "postgresql://%2Fvar%2Frun%2Fpostgresql/app",
        "postgresql://me@%2Ftmp:5433/app",
        "postgresql:///app?host=/tmp&port=5433&user=me",
        "postgresql://one:1,two:2/app",
        "postgresql://one,two:5433/app",
        "postgresql://[::1]:1,two/app",
        "postgresql://one/app?dbname=other&user=me&password=secret&port=5433&host=two",
        "postgresql:///?service=app",
    ],
)
def test_ordinary_urls_mean_what_libpq_says(text: str) -> None:
    """Each form that libpq documents leads where libpq goes, before and after being written anew."""
    meant = conninfo_to_dict(text)
    kept = {name: value for name, value in meant.items() if (name, value) != ("password", "")}
    found = DatabaseURL.parse(text).conninfo()
    assert {
        name: value for name, value in found.items() if (name, value) != ("password", "")
    } == kept
    assert DatabaseURL.parse(DatabaseURL.parse(text).render()).conninfo() == found


def test_several_hosts_as_sqlalchemy_writes_them() -> None:
    """`?host=one:1&host=two:2` is SQLAlchemy's; libpq wants the hosts and the ports in lists."""
    url = DatabaseURL.parse("postgresql+psycopg://me@/app?host=one:1&host=two:2")
    assert url.conninfo() == {"user": "me", "dbname": "app", "host": "one,two", "port": "1,2"}
    alone = DatabaseURL.parse("postgresql+psycopg:///app?host=one:5433")
    assert (alone.host, alone.port) == ("one", 5433)


@pytest.mark.parametrize("parameter", ["dbname", "database"])
def test_parameter_cannot_lead_to_the_old_database(parameter: str) -> None:
    """A database named by a parameter is replaced too: libpq and the drivers let parameters win."""
    url = DatabaseURL.parse(f"postgresql://localhost/app?{parameter}=production").replace(
        database="clone"
    )
    assert url.conninfo()["dbname"] == "clone"
    assert "production" not in url.render()


@pytest.mark.parametrize(
    "password",
    ["p@ss", "pa:ss", "pa/ss", "pa?ss", "p@a/s?s#1", "50%", "100%zz", "pass word", "it's"],
)
def test_password_that_nobody_escaped(password: str) -> None:
    """A password with characters that should have been escaped is read all the same, up to the last @."""
    url = DatabaseURL.parse(
        f"postgresql://me:{password}@localhost:5433/app?application_name=me@x"
    )
    assert (url.user, url.password, url.host, url.port, url.database) == (
        "me",
        password,
        "localhost",
        5433,
        "app",
    )
    assert url.query == (("application_name", "me@x"),)


def test_at_sign_outside_of_credentials() -> None:
    """An @ in a user's or a database's name, or in a parameter, makes no password of what stands before it."""
    assert DatabaseURL.parse("postgresql://me@corp@localhost/app").user == "me@corp"
    assert DatabaseURL.parse("postgresql://localhost/app@home").database == "app@home"
    assert (
        DatabaseURL.parse("postgresql://localhost:5433/app?application_name=me@x").host
        == "localhost"
    )


def test_parameters_of_drivers_stay_out_of_conninfo() -> None:
    """libpq would refuse asyncpg's parameters; its `ssl` is said in libpq's word."""
    text = "postgresql+asyncpg://me@localhost/app?ssl={}&prepared_statement_cache_size=0&application_name=app"
    for given_value, meant in {
        "require": "require",
        "verify-full": "verify-full",
        "true": "require",
    }.items():
        url = DatabaseURL.parse(text.format(given_value))
        expected = {
            "user": "me",
            "host": "localhost",
            "dbname": "app",
            "application_name": "app",
            "sslmode": meant,
        }
        assert url.conninfo() == expected
        assert sqlalchemy.make_url(url.render()).query["ssl"] == given_value


def test_urls_as_they_come() -> None:
    """One read from a file ends with a newline; a hosting company's begins with what SQLAlchemy refuses."""
    assert (
        DatabaseURL.parse(" postgres://localhost/app\n").render()
        == "postgresql://localhost/app"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost/app",
        "mysql://me:SECRET@localhost/app",
        "mysql://me:SEC RET@localhost/app",
        "postgresql:/me:SECRET@localhost/app",
        "me:SECRET@localhost/app",
        "host=localhost password=SECRET user=me@corp",
        "host=localhost password='SEC RET' user=me",
        "options=a:b password=x@SECRET",
    ],
)
def test_what_is_no_url_of_postgresql(text: str) -> None:
    """The error names the place, shows the text without its password, and says what to write."""
    with pytest.raises(
        ConfigError, match=r"^CLONEDB_URL: '.*' is not the URL .* write postgresql://"
    ) as caught:
        DatabaseURL.parse(text, "CLONEDB_URL")
    assert "SEC" not in str(caught.value)
    assert "RET" not in str(caught.value)


@pytest.mark.parametrize(
    "place",
    [
        "localhost:0",
        "localhost:65536",
        "localhost:x",
        "localhost:٣",
        "one:1,two:x",
        "::1:5432",
        "[::1",
        "a[b",
        "h:-1",
    ],
)
def test_bad_port(place: str) -> None:
    """A port is a number from 1 to 65535, said without a traceback of urllib's."""
    with pytest.raises(ConfigError, match="is not a number from 1 to 65535"):
        DatabaseURL.parse(f"postgresql://me:SECRET@{place}/app")
    with pytest.raises(ConfigError, match="is not a number from 1 to 65535"):
        DatabaseURL.parse("postgresql:///app?host=localhost&port=x")


def test_bad_port_may_be_a_password() -> None:
    """Who forgets the host has a password where the port should be; it is not shown."""
    with pytest.raises(ConfigError, match="the port after 'me' is not a number") as caught:
        DatabaseURL.parse("postgresql://me:SECRET")
    assert "SECRET" not in str(caught.value)


@many
@given(awkward)
def test_whole_url_hides_any_password(password: str) -> None:
    """When all of a text is one URL, even spaces do not end its password."""
    secret = f"FIRST{password}LAST"
    for text in (f"postgresql://me:{secret}@localhost/app", f"me:{secret}@localhost"):
        shown = redact_url(text)
        assert shown == text.replace(secret, "***") or (
            "FIRST" not in shown and "LAST" not in shown
        )


words = st.text(
    string.ascii_uppercase + string.digits, min_size=6, max_size=10
)  # the messages are in lower case
prose = st.text(string.ascii_lowercase + " \n,.;:()'\"@=/&?", max_size=20)


@st.composite
def passwords(
    draw: st.DrawFn, between: st.SearchStrategy[str] = awkward
) -> tuple[list[str], str]:
    """The words of a password, none of which may be seen, and the password."""
    parts = draw(st.lists(words, min_size=1, max_size=3))
    return parts, parts[0] + "".join(draw(between) + part for part in parts[1:])


def assert_hidden(parts: list[str], text: str) -> None:
    """No word of a password is left of the text, of its repr, and of that text in JSON."""
    for form in (text, repr(text), json.dumps({"message": text})):
        assert [part for part in parts if part in redact(form)] == [], redact(form)


@many
@given(passwords(), passwords(awkward.map(lambda text: text.replace(" ", "_"))), prose, prose)
def test_no_password_of_a_url_is_left(
    written: tuple[list[str], str], raw: tuple[list[str], str], before: str, after: str
) -> None:
    """Two URLs in one text, one written by a program and one by a person who escapes nothing but spaces."""
    first = DatabaseURL(
        user="me", password=written[1], host="localhost", port=5432, database="app"
    ).render()
    second = f"postgresql://me:{raw[1]}@localhost/app"
    assert_hidden(written[0] + raw[0], f"{before} {first} or {second} {after}")
    assert_hidden(written[0] + raw[0], f"{before}'{second}','{first}'{after}")


@many
@given(passwords(), prose, prose)
def test_no_password_of_a_connection_string_is_left(
    secret: tuple[list[str], str], before: str, after: str
) -> None:
    """Quoted, unquoted and escaped values in libpq's form, which psycopg writes."""
    parts, password = secret
    assert_hidden(
        parts,
        f"{before} {make_conninfo(host='localhost', password=password, user='me')} {after}",
    )
    unquoted = password.replace("\\", "\\\\").replace(" ", "\\ ").replace("'", "\\'")
    assert_hidden(parts, f"{before} host=localhost sslpassword={unquoted} user=me {after}")


@many
@given(passwords(), prose)
def test_no_password_of_parameters_is_left(secret: tuple[list[str], str], after: str) -> None:
    """In a URL's query, in a mapping's repr, in JSON, in an assignment and in CREATE ROLE."""
    parts, password = secret
    literal = "'" + password.replace("'", "''") + "'"
    for text in (
        f"postgresql://localhost/app?user=me&password={quote(password, safe='')}&sslmode=require {after}",
        f"connect({ {'user': 'me', 'password': password, 'host': 'localhost'}!r}) {after}",
        f"{json.dumps({'passwd': password, 'host': 'localhost'})} {after}",
        f"create role app login password {literal} {after}",
    ):
        assert [part for part in parts if part in redact(text)] == [], redact(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@localhost/app", "postgresql://me:***@localhost/app"),
        (
            "cannot reach 'postgresql://me:secret@h/app'; is it up?",
            "cannot reach 'postgresql://me:***@h/app'; is it up?",
        ),
        (
            "postgresql://me:a@h/x, postgresql://me:b@h/y",
            "postgresql://me:***@h/x, postgresql://me:***@h/y",
        ),
        ("host=h password=secret user=me", "host=h password=*** user=me"),
        ("host=h password = 'it\\'s' user=me", "host=h password = *** user=me"),
        (
            "postgresql://h/x?password=secret&sslmode=require",
            "postgresql://h/x?password=***&sslmode=require",
        ),
        ("PGPASSWORD=secret psql", "PGPASSWORD=*** psql"),
        ("['host=h', 'password=secret']", "['host=h', 'password=***']"),
        ("{'password': 'secret', 'user': 'me'}", "{'password': ***, 'user': 'me'}"),
        (
            "input 'postgresql://me:secre...', shortened",
            "input 'postgresql://me:***...', shortened",
        ),
        (
            "{'url': 'postgresq...ecret@localhost/app'}",
            "{'url': 'postgresq...***@localhost/app'}",
        ),
    ],
)
def test_only_the_password_is_hidden(text: str, shown: str) -> None:
    """What stands around a password stays readable."""
    assert redact(text) == shown


def test_long_output_is_searched_quickly() -> None:
    """Output of a migration may be one line of progress, and takes milliseconds where backtracking took minutes."""
    start = time.monotonic()
    for text in (
        "." * 100_000,
        "://a:" * 20_000,
        "password='" + "\\" * 50_000,
        "password=" + "a\\" * 50_000,
        "x" * 100_000,
    ):
        redact(text)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@localhost:5432/app?sslmode=require",
        "postgresql://localhost:5432/app is not there; ask me@example.org",
        'password authentication failed for user "me"',
        "(Background on this error at: https://sqlalche.me/e/20/f405)",
        "a password is needed, see 'the documentation'",
        "host=localhost port=5432 dbname=app",
    ],
)
def test_text_without_a_password_stays(text: str) -> None:
    """Nothing is hidden where there is nothing to hide."""
    assert redact(text) == text
