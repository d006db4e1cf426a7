"""Templates built upon layers: what is migrated again after an edit, and that the result is the one from zero."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from clonedb.revisions import config_at
from clonedb.settings.config import Config
from tests.campaigns import VARIANT
from tests.projects import ALEMBIC_INI, ENV_PY, Project, one
from tests.templates.conftest import contents, opened

Configured = Callable[..., Config]

FIRST = """
op.execute("create type state as enum ('new', 'old')")
op.execute("create table item (id serial primary key, name text not null, state state not null default 'new')")
op.execute("insert into item (name) select 'first ' || n from generate_series(1, 40) n")
op.execute("create view names as select name from item")
"""
IMPORTING = """
from shop.data import NAMES
for name in NAMES:
    op.execute(sa.text("insert into item (name) values (:name)").bindparams(name=name))
"""
THIRD = 'op.add_column("item", sa.Column("price", sa.Numeric, server_default="1.5"))'
FOURTH = """
op.execute("update item set state = 'old' where id % 3 = 0")
op.execute("delete from item where id % 7 = 0")
op.execute("create table part (id bigint generated always as identity, item int references item, note text)")
op.execute("insert into part (item, note) select id, repeat('x', id * 100) from item")
op.execute("create index on part (item)")
"""


def history(project: Project) -> None:
    """Four revisions, of which the second imports a module of the project's."""
    project.write("shop/__init__.py", "")
    project.write("shop/data.py", "NAMES = ['a', 'b']\n")
    project.revision("r1", FIRST)
    project.revision("r2", IMPORTING)
    project.revision("r3", THIRD)
    project.revision("r4", FOURTH)


def demand(configured: Configured, expected: str | None, **settings: object) -> None:
    """Build the template as usual, and from zero; fail unless both are the same, and it was begun as expected."""
    template, heard = opened(configured(**settings))
    with template:
        assert heard.built() == expected, heard.lines
        if expected == "from zero":
            return  # a second one would be built in the same way
        whole, said = opened(configured(salt="from zero", **settings), rebuild=True)
        with whole:
            assert said.built() == "from zero", said.lines
            assert contents(template) == contents(whole)
            assert template.heads == whole.heads


def demand_reused(configured: Configured) -> None:
    """Open the template as usual; fail unless it was there, compared with one from zero when it was built."""
    template, heard = opened(configured())
    template.close()
    assert heard.built() is None, heard.lines


@pytest.mark.campaign("long")
def test_an_edited_history_is_rebuilt_from_what_is_still_true(
    project: Project, configured: Configured
) -> None:
    """Appended, edited at the end, in the middle, in a module or env.py, reordered, removed: as from zero each time."""
    history(project)
    demand(configured, "from zero")
    demand_reused(configured)
    fifth = project.revision(
        "r5", 'op.execute("insert into part (item) select max(id) from item")'
    )
    demand(configured, "1 of 5")
    fifth.write_text(fifth.read_text().replace("max(id)", "min(id)"))
    demand(configured, "1 of 5")
    opened(config_at(configured(), "r1"))[0].close()
    project.write("shop/data.py", "NAMES = ['a', 'b', 'c']\n")
    demand(
        configured, "4 of 5"
    )  # of all templates only that at r1 has no revision that imports it
    project.write("shop/data.py", "NAMES = ['a', 'b']\n")
    demand_reused(configured)
    project.revision("r3", THIRD.replace("1.5", "2.5"), down="r2")
    demand(configured, "4 of 5")
    project.revision("r4", FOURTH, down="r2")
    project.revision("r3", THIRD, down="r4")
    project.revision("r5", 'op.drop_column("item", "price")', down="r3")
    demand(configured, "4 of 5")
    fifth.unlink()
    demand(configured, "3 of 4")
    project.write("migrations/env.py", ENV_PY + "\n# edited\n")
    demand(configured, "from zero")
    project.write("migrations/env.py", ENV_PY)
    demand_reused(configured)


@pytest.mark.campaign("long")
def test_branches_and_merges(project: Project, configured: Configured) -> None:
    """A layer is a beginning in Alembic's order: columns come in the order of a build from zero."""
    history(project)
    demand(configured, "from zero")
    project.revision(
        "left", 'op.execute("alter table item add left_side int default 1")', down="r4"
    )
    demand(configured, "1 of 5")
    project.revision(
        "right", 'op.execute("alter table item add right_side int default 2")', down="r4"
    )
    demand(configured, _begun(configured))
    project.revision(
        "merged", 'op.execute("update item set left_side = right_side")', down=("left", "right")
    )
    demand(configured, _begun(configured))
    project.revision(
        "last", 'op.execute("create table last as select * from item")', down="merged"
    )
    demand(configured, "1 of 8")
    project.revision("other", 'op.execute("alter table item add another int")', down="left")
    demand(configured, _begun(configured))


def _begun(configured: Configured) -> str | None:
    """Whatever it begins with: which branch Alembic takes first is its own business."""
    template, heard = opened(configured())
    template.close()
    assert heard.built() is not None
    return None


@pytest.mark.campaign("long")
@pytest.mark.parametrize(
    ("seed", "edits"), [(0, 3), *(pytest.param(n, 6, marks=VARIANT) for n in (0, 1))]
)
def test_histories_at_random(
    project: Project, configured: Configured, seed: int, edits: int
) -> None:
    """Whatever is edited, a template is what it would be from zero."""
    chance = random.Random(seed)
    history(project)
    names = ["r1", "r2", "r3", "r4"]
    upon = 0
    for number in range(edits):
        edit = chance.choice(["append", "append", "edit", "branch", "module", "remove"])
        if edit == "append":
            project.revision(
                f"n{number}",
                f'op.execute("create table n{number} as select * from item")',
                down=_heads(project),
            )
            names.append(f"n{number}")
        elif edit == "branch":
            project.revision(
                f"n{number}",
                f'op.execute("alter table item add n{number} int")',
                down=chance.choice(names),
            )
            names.append(f"n{number}")
        elif edit == "edit":
            path = project.directory / f"migrations/versions/{chance.choice(names)}.py"
            path.write_text(path.read_text() + f"\n# edit {number}\n")
        elif edit == "module":
            project.write("shop/data.py", f"NAMES = ['{number}']\n")
        elif len(heads := _heads(project)) == 1 and heads[0] != "r4":
            (project.directory / f"migrations/versions/{heads[0]}.py").unlink()
            names.remove(heads[0])
        template, heard = opened(configured())
        template.close()
        upon += " of " in (heard.built() or "")
        demand(configured, None)
    assert upon


def _heads(project: Project) -> tuple[str, ...]:
    files = sorted((project.directory / "migrations/versions").glob("*.py"))
    below = "".join(
        line
        for path in files
        for line in path.read_text().splitlines()
        if line.startswith("down_revision")
    )
    return tuple(path.stem for path in files if f"'{path.stem}'" not in below)


def test_seeds_are_a_layer_of_their_own(project: Project, configured: Configured) -> None:
    """A changed seed costs the seeds, and a new revision runs before them, not after."""
    history(project)
    seed = project.write("seed.sql", "insert into item (name) values ('seeded')")
    settings = {"seed": ["seed.sql"]}
    template, heard = opened(configured(**settings))
    template.close()
    assert [line.split("'")[0] for line in heard.lines] == [
        "building template ",
        "template ",
    ] * 2
    demand(configured, None, **settings)
    seed.write_text("insert into item (name) values ('seeded anew')")
    template, heard = opened(configured(**settings))
    template.close()
    assert heard.lines[-1].partition(" is ready: ")[2].startswith("0 revisions")
    demand(configured, None, **settings)
    project.revision("r5", 'op.execute("update item set name = upper(name)")')
    template, heard = opened(configured(**settings))
    with template:
        assert any(line.endswith(": 1 of 5 revisions") for line in heard.lines)
        with template.clone() as clone, clone.connect() as connection:
            row = connection.execute(
                "select max(name) from item where lower(name) like 'seed%'"
            ).fetchone()
            assert row == ("seeded anew",)
    demand(configured, None, **settings)
    demand(configured, None)  # the schema's template is that of the project without seeds


@pytest.mark.campaign("long")
def test_what_one_session_leaves_to_the_next_is_no_layer(
    project: Project, configured: Configured
) -> None:
    """SET in a revision holds for those after it only when all run in one session; and so does ALTER DATABASE."""
    project.revision("r1", 'op.execute("create schema own; set search_path to own, public")')
    project.revision("r2", 'op.execute("create table here (id int)")')
    demand(configured, "from zero")
    project.revision("r3", 'op.execute("create table there (id int)")')
    demand(configured, "from zero")
    project.revision("r1", 'op.execute("create schema own")', down=None)
    change = "op.get_bind().exec_driver_sql(\"do $$ begin execute format('alter database %%I set timezone to ''Asia/Tokyo''', current_database()); end $$\")"
    project.revision("r4", change, down="r3")
    demand(configured, "from zero")
    project.revision("r5", 'op.execute("create table where_from (id int)")')
    demand(configured, "from zero")


TIMEOUTS = """
op.execute("set lock_timeout = '4s'; set local statement_timeout = '1min'; set client_min_messages = warning")
op.get_bind().exec_driver_sql("do $$ begin execute format('alter database %%I set idle_session_timeout = 0', current_database()); end $$")
"""


@pytest.mark.parametrize("driver", ["psycopg", pytest.param("psycopg2", marks=VARIANT)])
def test_settings_that_change_no_contents_are_no_reason(
    project: Project, configured: Configured, driver: str
) -> None:
    """A timeout, and what autocommit_block() does to the connection, leave a history its layers."""
    project.write("alembic.ini", ALEMBIC_INI.replace("+psycopg:", f"+{driver}:"))
    project.write(
        "migrations/env.py",
        ENV_PY.replace("target_metadata)", "None, transaction_per_migration=True)"),
    )
    project.revision("r1", 'op.execute("create table item (id int)")' + TIMEOUTS)
    project.revision(
        "r2",
        'with op.get_context().autocommit_block():\n    op.execute("create index concurrently on item (id)")',
    )
    demand(configured, "from zero")
    project.revision("r3", 'op.execute("create table last ()")')
    demand(configured, "1 of 3")


def test_revisions_that_import_what_env_py_configures(
    project: Project, configured: Configured
) -> None:
    """Alembic runs env.py before it loads any revision; a plan that needs it runs it first, too."""
    project.write("shop/__init__.py", "settings = None\n")
    project.write("shop/models.py", "import shop\nNAME = shop.settings['name']\n")
    project.write(
        "migrations/env.py", "import shop\nshop.settings = {'name': 'item'}\n" + ENV_PY
    )
    project.revision(
        "r1", 'from shop.models import NAME\nop.execute(f"create table {NAME} (id int)")'
    )
    path = project.directory / "migrations/versions/r1.py"
    path.write_text("from shop.models import NAME\n" + path.read_text())
    demand(configured, "from zero")
    project.revision("r2", 'op.execute("create table more ()")')
    demand(configured, "1 of 2")


@pytest.mark.campaign("long")
def test_what_is_built_from_nothing_says_why(project: Project, configured: Configured) -> None:
    """Whenever there is a template of the project that might have been a beginning."""

    def reason(**settings: object) -> str | None:
        template, heard = opened(configured(**settings))
        template.close()
        (line,) = [line for line in heard.lines if line.startswith("building template")]
        return (
            re.sub(r"'\w+_t_\w+'", "TEMPLATE", line.partition(", from nothing because ")[2])
            or None
        )

    project.revision("r1", "pass")
    assert reason() is None
    project.revision("r2", 'op.execute("set search_path to own, public")')
    assert reason(x=["tenant=1"]) == "x 'tenant' was added since TEMPLATE"
    project.revision("r3", "pass")
    assert reason(x=["tenant=1"]) == (
        "TEMPLATE is no beginning for another template: the revisions left settings to those after them in their session"
        " (search_path)"
    )
    project.revision("r2", "pass", down="r1")
    assert reason() is None  # it is built upon the first
    project.write("migrations/env.py", ENV_PY + "\n# edited")
    project.write("migrations/other.txt", "")
    assert (
        reason()
        == "env 'migrations/env.py' was changed, script 'migrations/other.txt' was added since TEMPLATE"
    )
    project.revision("r1", 'op.execute("select 1")', down=None)
    assert reason() == "revision 'migrations/versions/r1.py' was changed since TEMPLATE"
    template, heard = opened(configured(), rebuild=True)
    template.close()
    assert heard.lines[0].endswith(", from nothing because it is to be built anew")
    assert reason(locale="C") == "locale was added since TEMPLATE"


def test_what_a_revision_reads_when_it_is_loaded_is_warned_of(
    project: Project, configured: Configured
) -> None:
    """Alembic loads all revisions before it says in which order they run; what they read then counts, too."""
    project.write("names.txt", "x")
    path = project.revision("r1", 'op.execute("create table item (id int)")')
    path.write_text(
        path.read_text()
        + "\nNAMES = open(os.path.join(os.path.dirname(__file__), '../../names.txt')).close()\n"
    )
    template, heard = opened(configured())
    template.close()
    assert [line for line in heard.lines if 'add watch = ["names.txt"]' in line]


def test_a_watched_module_counts_for_everything(
    project: Project, configured: Configured
) -> None:
    """What `watch` names may be read by env.py: no layer survives a change of it, whichever revision imports it."""
    history(project)
    settings = {"watch": ["shop/data.py"]}
    opened(config_at(configured(**settings), "r1"))[0].close()
    template, heard = opened(configured(**settings))
    template.close()
    assert heard.built() == "3 of 4"
    project.write("shop/data.py", "NAMES = ['b']\n")
    template, heard = opened(configured(**settings))
    template.close()
    assert heard.built() == "from zero"


FOUND_BY_PATH = """
op.execute("create schema app; set search_path to public, app")
op.execute("create function app.norm(t text) returns text language sql immutable as 'select lower(t)'")
op.execute("create function outer_norm(t text) returns text language plpgsql immutable as 'begin return norm(t); end'")
op.execute("create table item (id int primary key, name text, code text, unique (code))")
op.execute("create index on item (outer_norm(name))")
op.execute("insert into item select n, 'Name ' || n, n::text from generate_series(1, 100) n")
op.execute("reset search_path")
"""


def test_an_index_whose_function_is_found_by_search_path_only(
    project: Project, configured: Configured
) -> None:
    """ANALYZE and VACUUM FULL cannot compute it; the template is built nevertheless, with all other statistics."""
    project.revision(
        "r1",
        FOUND_BY_PATH
        + 'op.execute("create table other as select n from generate_series(1, 9) n")',
    )
    query = "select count(*) filter (where tablename = 'item'), count(*) from pg_stats where schemaname = 'public'"
    template, _ = opened(configured())
    with template, template.clone() as clone:
        assert one(clone, query) == (3, 5)
        assert one(
            clone,
            "select reltuples::int, relallvisible > 0 from pg_class where relname = 'item'",
        ) == (
            100,
            True,
        )
    project.revision("r2", 'op.execute("alter table item add extra int default 1")')
    template, heard = opened(configured())
    with template, template.clone() as clone:
        assert heard.built() == "1 of 2"
        assert one(clone, query) == (4, 6)
