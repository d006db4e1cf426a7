"""What statements and functions say of settings."""

from __future__ import annotations

import pytest

from clonedb.postgres.statements import custom_settings, sets, spoils


@pytest.mark.parametrize(
    "statement",
    [
        "set app.tenant = 1",
        "SET LOCAL app.tenant TO 'a'",
        "set session app.tenant.name = 1",
        "set /* whose */ app.tenant = 1",
        "set -- whose\n app.tenant = 1",
        'set "app.tenant" = 1',
        'set "app"."tenant" = 1',
        "select set_config('app.tenant', '1', true)",
        "select pg_catalog.set_config ( %s, '1', true)",
        "copy (select set_config('app.tenant', '1', false)) to stdout",
        "do $$ begin execute 'set ' || 'app.tenant = 1'; end $$",
        "do $$ begin execute format('set %I = 1', 'app.tenant'); end $$",
        "load 'auto_explain'",
        "deallocate all",
        "DISCARD ALL",
    ],
)
def test_statements_that_no_reset_undoes(statement: str) -> None:
    """Custom settings however they are written, libraries, and prepared statements behind the driver's back."""
    assert spoils(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "set work_mem = '5MB'",
        "select set_config('search_path', 'a', false)",
        "select current_setting('app.tenant', true)",
        "update t set name = 'a.b'",
        "insert into t values (1) on conflict (id) do update set name = excluded.name",
        "alter table t alter name set default 'x'",
        "select 1 from t offset 5",
    ],
)
def test_statements_that_a_reset_undoes(statement: str) -> None:
    """Ordinary settings, and what has the word in it only."""
    assert not spoils(statement)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("begin perform set_config('app.tenant', tenant, true); end", {"app.tenant"}),
        ("(tenant = (current_setting('App.tenant'::text, true))::integer)", {"app.tenant"}),
        ("begin perform set_config('search_path', '', false); end", set()),
        ("begin return 1; -- discard all that was set 'so'\n end", set()),
        ("begin perform set_config(name, value, true); end", None),
        ("begin execute 'set ' || name || ' = 1'; end", None),
    ],
)
def test_settings_of_functions(text: str, names: set[str] | None) -> None:
    """Their names, unless one is computed."""
    assert custom_settings(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "set time zone 'UTC'",
        "SET LOCAL timezone TO 'UTC'",
        "/* why */ set timezone = 'UTC'",
        "begin; set timezone = 'UTC'",
        "reset timezone",
        "select set_config('timezone', 'UTC', false)",
        "do $$ begin set timezone = 'UTC'; end $$",
        "do $$ begin if true then -- why\n set timezone = 'UTC'; end if; end $$",
        "do $$ begin execute 'set timezone = ' || quote_literal('UTC'); end $$",
        "do 'begin set timezone = ''UTC''; end'",
    ],
)
def test_statements_that_change_a_setting(text: str) -> None:
    """However they are written."""
    assert sets(text)


@pytest.mark.parametrize(
    "text",
    [
        "update t set name = 'a'",
        "insert into t values (1) on conflict (id) do update set name = excluded.name",
        "alter table t alter name set default 'x'",
        "select * from settings offset 5",
        "delete from t where id = 1",
    ],
)
def test_statements_that_change_no_setting(text: str) -> None:
    """Ordinary ones, after which plans are kept."""
    assert not sets(text)
