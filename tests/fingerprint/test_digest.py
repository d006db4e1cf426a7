"""What a template's fingerprint does not depend on, and what it costs to look again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from clonedb.project.fingerprint import Fingerprint, Input, differences
from tests.fingerprint.sample import FILE_KINDS, FILES, Sample


def test_the_digest_is_that_of_the_inputs(sample: Sample) -> None:
    """64 hexadecimal digits, the first twelve for names; inputs are ordered and say everything."""
    found = sample.fingerprint()

    assert len(found.digest) == 64
    assert found.digest.startswith(found.short)
    assert len(found.short) == 12
    assert [item.kind for item in found.inputs] == sorted(item.kind for item in found.inputs)
    kinds = "env extension format import option revision role script seed server target version watch x"
    assert sorted({item.kind for item in found.inputs}) == kinds.split()
    assert json.loads(json.dumps(found.abbreviated())) == found.abbreviated()
    assert "sesame" not in repr(found)


def test_a_touch_changes_nothing(sample: Sample, tmp_path: Path) -> None:
    """Times are how changes are noticed, not what they are."""
    before = sample.fingerprint(index_dir=tmp_path / "index")
    for name in FILES:
        os.utime(sample.rootdir / name, (1, 1))
    assert sample.fingerprint(index_dir=tmp_path / "index") == before
    for name in FILES:
        os.utime(sample.rootdir / name, (4e9, 4e9))
    assert sample.fingerprint(index_dir=tmp_path / "index") == before


def test_moving_the_checkout_changes_nothing(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another directory, a link to it, and another current directory give the same fingerprint."""
    before = sample.fingerprint()
    copy = Sample(tmp_path / "a" / "copy with spaces", sample.settings)
    shutil.copytree(sample.rootdir, copy.rootdir)
    link = Sample(tmp_path / "link", sample.settings)
    link.rootdir.symlink_to(sample.rootdir)

    assert copy.fingerprint() == before
    assert link.fingerprint() == before
    monkeypatch.chdir("/")
    assert copy.fingerprint() == before
    assert link.fingerprint() == before


def test_migrations_reached_through_a_link_have_the_same_names(
    sample: Sample, tmp_path: Path
) -> None:
    """The project's directory by one path, the migrations by another: the files are still the project's."""
    before = sample.fingerprint()
    link = tmp_path / "link"
    link.symlink_to(sample.rootdir)
    sample.settings["alembic"] = {"script_location": str(link / "migrations")}

    assert sample.fingerprint() == before


PROGRAM = """
import json, sys
from pathlib import Path
from clonedb.settings.config import Config
from clonedb.project.fingerprint import ServerFacts, fingerprint
from clonedb.migrate.recipes import find_recipe
settings = json.loads(sys.argv[2])
config = Config(rootdir=Path(sys.argv[1])).replace("test", **settings)
server = ServerFacts(major=18, encoding="UTF8", locale="C.UTF-8", role="")
opened = []
index = Path(sys.argv[3]) if len(sys.argv) > 3 else None
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(sys.argv[1]):
        opened.append(arguments[0][len(sys.argv[1]) + 1:])
recipe = find_recipe(config)
sys.addaudithook(hook)
digest = fingerprint(config, recipe.inputs(index), server).digest
heavy = {"alembic", "sqlalchemy", "psycopg", "importlib.metadata"} & sys.modules.keys()
print(json.dumps([digest, sorted(opened), sorted(heavy)]))
"""


def run(
    sample: Sample, *arguments: str, **environment: str
) -> tuple[str, list[str], list[str]]:
    """The digest, the project's files that were opened, and heavy modules loaded, in an interpreter of its own."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            str(sample.rootdir),
            json.dumps(sample.settings),
            *arguments,
        ],
        env={**os.environ, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    digest, opened, modules = json.loads(done.stdout)
    return digest, opened, modules


def test_the_process_does_not_matter(sample: Sample) -> None:
    """Locale, hash seed, directory and sys.path leave the digest alone, and nothing heavy is imported."""
    sample.write("migrations/sql/größe.sql", "SELECT 1")
    here = sample.fingerprint().digest

    assert (
        run(sample, PYTHONHASHSEED="1", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")[0]
        == here
    )
    path = os.pathsep.join([str(sample.rootdir / "shop"), *sys.path])
    digest, _, modules = run(sample, PYTHONHASHSEED="2", LC_ALL="C.UTF-8", PYTHONPATH=path)
    assert (digest, modules) == (here, [])


@pytest.mark.campaign("long")
def test_only_changed_files_are_read_again(sample: Sample, tmp_path: Path) -> None:
    """A second look opens nothing; after an edit, only the file that was edited."""
    time.sleep(2.1)  # what was modified within two seconds is not remembered
    index = str(tmp_path / "index")
    first, opened, _ = run(sample, index)
    assert set(FILE_KINDS) <= set(opened)
    assert run(sample, index)[:2] == (first, [])
    sample.append("shop/rules.py", "RULE = 1\n")
    second, opened, _ = run(sample, index)
    assert opened == ["shop/rules.py"]
    assert second == sample.fingerprint().digest != first


INPUTS = st.lists(
    st.builds(
        Input,
        st.sampled_from(["revision", "import"]),
        st.sampled_from("abc"),
        st.sampled_from([letter * 64 for letter in "0123"]),
    ),
    max_size=8,
)


@given(INPUTS, INPUTS, st.sampled_from([12, 64]))
def test_differences_are_empty_only_for_equal_inputs(
    old: list[Input], new: list[Input], length: int
) -> None:
    """Whatever the order and however short the stored digests are; each difference is named once."""
    after = Fingerprint("", tuple(new))
    found = differences([(item.kind, item.name, item.digest[:length]) for item in old], after)

    key = lambda item: (item.kind, item.name, item.digest)  # noqa: E731
    assert (not found) == (sorted(old, key=key) == sorted(new, key=key))
    assert len({(d.kind, d.name) for d in found}) == len(found)
    for difference in found:
        was = any((item.kind, item.name) == (difference.kind, difference.name) for item in old)
        now = any((item.kind, item.name) == (difference.kind, difference.name) for item in new)
        assert difference.change == (
            "changed" if was and now else "added" if now else "removed"
        )
