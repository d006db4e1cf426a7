"""Histories that others wrote, from their published packages: built, cloned, reused, and built again after an edit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.published import (
    HISTORIES,
    Environment,
    InstallationError,
    NotInstalledError,
    install,
)
from tests.histories.usage import HEADS_AND_TABLES, Usage, metadata_of

OPTUNA = """
import optuna
import pytest


@pytest.mark.parametrize("number", range(6))
def test_a_study_has_its_trials(clonedb_url, number):
    study = optuna.create_study(storage=clonedb_url, study_name="line")
    study.optimize(lambda trial: trial.suggest_float("x", -1, 1), n_trials=2)
    assert len(optuna.load_study(storage=clonedb_url, study_name="line").trials) == 2
"""

DSTACK = """
import asyncio

import dstack._internal.server.services.encryption
import pytest
from dstack._internal.core.models.users import GlobalRole
from dstack._internal.server.db import Database
from dstack._internal.server.models import DecryptedString, ProjectModel, UserModel
from sqlalchemy import select


async def store(url):
    database = Database(url)
    token = DecryptedString(plaintext="secret")
    async with database.session_maker() as session:
        owner = UserModel(name="ann", token=token, token_hash="hash", global_role=GlobalRole.ADMIN)
        session.add(ProjectModel(name="main", owner=owner, ssh_private_key="", ssh_public_key=""))
        await session.commit()
    async with database.session_maker() as session:
        found = (await session.execute(select(ProjectModel.name, UserModel.name).join(UserModel))).all()
    await database.engine.dispose()
    return [tuple(row) for row in found]


@pytest.mark.parametrize("number", range(6))
def test_a_project_has_its_owner(clonedb_url, number):
    assert asyncio.run(store(clonedb_url)) == [("main", "ann")]
"""

PREFECT = """
import asyncio

import pytest
from prefect.server.database.orm_models import Flow
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine


async def store(url):
    engine = create_async_engine(url)
    async with AsyncSession(engine) as session:
        session.add(Flow(name="nightly"))
        await session.commit()
    async with AsyncSession(engine) as session:
        found = list(await session.scalars(select(Flow.name)))
    await engine.dispose()
    return found


@pytest.mark.parametrize("number", range(6))
def test_a_flow_is_stored(clonedb_url, number):
    assert asyncio.run(store(clonedb_url)) == ["nightly"]
"""

TESTS = {"optuna": OPTUNA, "dstack": DSTACK, "prefect": PREFECT}


@pytest.mark.campaign("histories")
def test_a_clone_is_at_the_head(usage: Usage, admin_dsn: str) -> None:
    """Every revision has run, and a clone has the head in its version table and the tables of that head."""
    history = usage.environment.history
    usage.clonedb("build")
    (metadata,) = metadata_of(admin_dsn, usage.prefix)
    assert (metadata.heads, metadata.revisions) == ((history.head,), history.revisions)
    found = json.loads(usage.on_a_clone(HEADS_AND_TABLES).out)
    assert found["heads"] == [history.head]
    assert len(found["tables"]) == history.tables


@pytest.mark.campaign("histories")
def test_a_second_build_does_nothing(usage: Usage, admin_dsn: str) -> None:
    """The template of the first build is found by its fingerprint, and left as it is."""
    usage.clonedb("build")
    before = metadata_of(admin_dsn, usage.prefix)
    again = usage.clonedb("build")
    assert "already there" in again.out
    assert again.err == ""
    assert metadata_of(admin_dsn, usage.prefix) == before


@pytest.mark.campaign("histories")
def test_an_edited_revision_is_built_anew(copy: tuple[Usage, Path], admin_dsn: str) -> None:
    """A statement added to the newest revision gives another template, whose clones have what it made."""
    usage, directory = copy
    usage.clonedb("build")
    head = re.compile(
        rf"""^revision(: str)? = ["']{re.escape(usage.environment.history.head)}["']""",
        re.MULTILINE,
    )
    (newest,) = (path for path in directory.rglob("*.py") if head.search(path.read_text()))
    with newest.open("a") as file:
        file.write(
            "\n\nbefore = upgrade\n\n\ndef upgrade():\n    before()\n    op.execute('create table edited ()')\n"
        )
    usage.clonedb("build")
    assert "edited" in json.loads(usage.on_a_clone(HEADS_AND_TABLES).out)["tables"]
    old, new = metadata_of(admin_dsn, usage.prefix)
    changed = {
        (kind, name)
        for kind, name, _ in set(map(tuple, new.inputs)) - set(map(tuple, old.inputs))
    }
    assert changed == {("revision", newest.relative_to(usage.directory).as_posix())}


@pytest.mark.campaign("histories")
def test_parallel_tests_store_rows(usage: Usage) -> None:
    """The package's own code stores rows in six tests of two workers, and each finds its own only."""
    name = usage.environment.history.name
    (usage.directory / "test_rows.py").write_text(TESTS[name])
    route: Any = usage.environment.history.settings.get("route", ())
    for variable in route:  # what the application would be started with
        usage.variables[variable] = "postgresql+asyncpg://nobody@127.0.0.1:1/never"
    for isolation in ("clone", "auto"):
        option = f"--clonedb-isolation={isolation}"
        ran = usage.run(
            "-m",
            "pytest",
            "-n",
            "2",
            "-p",
            "no:cacheprovider",
            "-q",
            "--clonedb-report",
            option,
        ).demand()
        assert "6 passed" in ran.out
    # optuna's storage makes a table that its migrations do not make
    assert ("not rewound" in ran.out) == (name == "optuna"), ran.out


@pytest.mark.campaign("histories")
def test_installing_again_does_nothing(published: Environment) -> None:
    """An environment is found by the digest of its pins, and used as it is."""
    again = install(published.history)
    assert not again.made
    assert (again.directory, again.clonedb) == (published.directory, published.clonedb)


def test_every_distribution_is_pinned() -> None:
    """The pins name one version of each, the history's own among them."""
    assert {history.name for history in HISTORIES} == set(TESTS)
    for history in HISTORIES:
        pins = [
            line for line in history.pins.read_text().splitlines() if not line.startswith("#")
        ]
        assert f"{history.name}=={history.version}" in pins
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+( ; .*)?", pin) for pin in pins)


@pytest.mark.campaign("histories")
def test_an_installation_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a package index the error has pip's words and the way to leave these tests out; nothing counts as done."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("CLONEDB_TEST_OFFLINE", raising=False)
    for _ in range(2):
        with pytest.raises(InstallationError, match="optuna could not be installed") as caught:
            install(HISTORIES[0], cache=tmp_path)
        assert "No matching distribution found" in str(caught.value)
        assert "CLONEDB_TEST_OFFLINE=1" in str(caught.value)


def test_offline_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CLONEDB_TEST_OFFLINE=1 what is not there is refused at once."""
    monkeypatch.setenv("CLONEDB_TEST_OFFLINE", "1")
    with pytest.raises(NotInstalledError, match="is not installed yet"):
        install(HISTORIES[0], cache=tmp_path)
