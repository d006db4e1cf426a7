"""Clients of IntegreSQL as they are published, unchanged."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from integresql_client_python import DBInfo, IntegreSQL, errors

from clonedb.settings.config import Config
from tests.service.site import Site
from tests.service.stories import ITEMS, WAIT

TOKEN = "0123456789abcdef0123"
FILES, TESTS = 6, 10
NEEDED = ("@devoxa/integresql-client@2.1.1", "pg@8")

# as the client's own integration test does, with node's runner: each file is a process of its own
JS = """
const test = require("node:test");
const assert = require("node:assert");
const { Client } = require("pg");
const { IntegreSQLClient } = require("@devoxa/integresql-client");

const integreSQL = new IntegreSQLClient({ url: process.env.SERVICE });
const hash = "a".repeat(45);

async function connected(config, work) {
    const client = new Client({ connectionString: integreSQL.databaseConfigToConnectionUrl(config) });
    await client.connect();
    try { return await work(client); } finally { await client.end(); }
}

test.before(() => integreSQL.initializeTemplate(hash, (config) => connected(config, async (client) => {
    await client.query("create table users (id serial primary key, name text unique)");
    await client.query("insert into users (name) values ('David')");
})));

for (let number = 0; number < TESTS; number++) {
    test(`a fresh database ${number}`, async () => {
        const { id, database } = await integreSQL.api.getTestDatabase(hash);
        await connected(database.config, async (client) => {
            assert.strictEqual((await client.query("select id from users")).rows.length, 1);
            await client.query("insert into users (name) values ('Me')");
            await client.query("create table mine (x int)");
        });
        if (number % 2) await integreSQL.api.recreateTestDatabase(hash, id);
        else await integreSQL.api.reuseTestDatabase(hash, id);
    });
}
""".replace("TESTS", str(TESTS))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages of npm that the tests need."""
    directory = tmp_path_factory.mktemp("npm")
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs node and npm")
    (directory / "package.json").write_text("{}")
    command = [npm, "install", "--no-audit", "--no-fund", *NEEDED]
    try:
        done = subprocess.run(
            command, cwd=directory, check=False, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install {', '.join(NEEDED)} within 120 s")
    if done.returncode != 0:
        pytest.skip(f"npm could not install {', '.join(NEEDED)}: {done.stderr[-300:]}")
    return directory


@pytest.mark.campaign("applications")
def test_the_javascript_client(site: Site, packages: Path, tmp_path: Path) -> None:
    """Six files at once, ten tests each: one builds the template, and each test finds one user."""
    files = [packages / f"clonedb-{number}.test.js" for number in range(FILES)]
    for file in files:
        file.write_text(JS)
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", *(file.name for file in files)],
        cwd=packages,
        env={**os.environ, "SERVICE": site.url},
        check=False,
        capture_output=True,
        text=True,
        timeout=5 * WAIT,
    )
    assert f"# pass {FILES * TESTS}\n# fail 0" in done.stdout, done.stdout[-3000:] + done.stderr

    async def built() -> list[str]:
        return [event.text for event in site.service.events() if event.kind == "built"]

    assert len(site.run(built())) == 1


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A directory, whose files' digest is the client's hash."""
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "1.sql").write_text(";".join(ITEMS))
    return tmp_path / "migrations"


@pytest.fixture
def base_url(site: Site) -> str:
    """What the clients' INTEGRESQL_CLIENT_BASE_URL is."""
    return f"{site.url}api"


def use(base_url: str, migrations: Path) -> tuple[bool, list[tuple[int]]]:
    """One run of the Python client: whether it built, and what it found in a database."""
    with IntegreSQL(migrations, base_url=base_url) as template:
        with template.initialize() as database:
            if database is not None:
                run(database, (migrations / "1.sql").read_text())
        with template.get_database() as database:
            found = run(database, "select count(*) from item")
            run(database, "delete from item")
            template.get_database().mark_unmodified(database)
        return template.dbinfo is not None, found


def run(database: DBInfo, statement: str) -> list[tuple[int]]:
    """Run a statement as the client's users do: by the URL."""
    with psycopg.connect(str(database), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.mark.campaign("applications")
def test_the_python_client(base_url: str, migrations: Path) -> None:
    """Eight at once: it sends forms, and finalizes also what it was refused; one builds, all find both rows."""
    with ThreadPoolExecutor(8) as threads:
        runs = list(threads.map(lambda _: use(base_url, migrations), range(8)))
    assert [found for _, found in runs] == [[(2,)]] * 8
    assert sum(built for built, _ in runs) == 1


@pytest.mark.campaign("applications")
def test_the_python_clients_errors(base_url: str, migrations: Path) -> None:
    """It raises its own, by the statuses."""
    with IntegreSQL(migrations, base_url=base_url) as template:
        with pytest.raises(errors.TemplateNotFound):
            template.get_database().open()
        with pytest.raises(errors.TemplateNotFound):
            template.discard()
        template.integresql.reset_all_tracking()


@pytest.fixture
def closed(service_config: Config) -> Iterator[Site]:
    """The service with a token."""
    with Site(service_config, token=TOKEN) as site:
        yield site


@pytest.mark.campaign("applications")
def test_a_client_without_words_for_a_token(closed: Site, migrations: Path) -> None:
    """It shows the token as the password of its URL."""
    base_url = closed.url.replace("://", f"://clonedb:{TOKEN}@") + "api"
    assert use(base_url, migrations) == (True, [(2,)])
    with pytest.raises(errors.IntegreSQLError, match="401"):
        use(f"{closed.url}api", migrations)
