"""The memory of what files hold is never wrong: not when damaged, forged, shared, or too young to be trusted."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from clonedb.project import stat_index
from clonedb.project.contents import Contents, read_contents
from clonedb.project.stat_index import StatIndex


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> float:
    """Trust what is 20 ms old instead of two seconds, which suits a local file system's clock; seconds to wait."""
    monkeypatch.setattr(stat_index, "_SETTLED", 20_000_000)
    return 0.03


@pytest.fixture
def remembered(tmp_path: Path, quick: float) -> tuple[Path, Path]:
    """A file that the index knows, and the index's own file."""
    path = tmp_path / "project" / "a.py"
    path.parent.mkdir()
    path.write_text("import one")
    time.sleep(quick)
    index = StatIndex(tmp_path / "index", "key")
    index.contents(str(path))
    index.save()
    (stored,) = (tmp_path / "index").iterdir()
    return path, stored


def look(path: Path, stored: Path) -> Contents | None:
    return StatIndex(stored.parent, "key").contents(str(path))


def forge(stored: Path) -> bytes:
    """The index with another digest in it, and a checksum that fits."""
    head, _, body = stored.read_bytes().partition(b"\n")
    data = json.loads(body)
    ((entry,),) = (names.values() for names in data["files"].values())
    entry[4] = "forged"
    body = json.dumps(data).encode()
    return (
        head.rpartition(b" ")[0]
        + b" "
        + hashlib.sha256(body).hexdigest().encode()
        + b"\n"
        + body
    )


def test_what_is_remembered_is_used(remembered: tuple[Path, Path]) -> None:
    """An unchanged file is answered from the index: even what was put there by force."""
    path, stored = remembered
    stored.write_bytes(forge(stored))

    assert look(path, stored) == Contents("forged", ("one",))


def test_the_index_is_private(remembered: tuple[Path, Path]) -> None:
    """Nobody else can read or write it, nor what lies in its directory."""
    _, stored = remembered

    assert stored.stat().st_mode & 0o777 == 0o600
    assert stored.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("way", ["writable by others", "a link", "another owner"])
def test_an_index_that_another_account_may_have_written_is_not_used(
    remembered: tuple[Path, Path], tmp_path: Path, way: str
) -> None:
    """It could make a stale template look fresh."""
    path, stored = remembered
    stored.write_bytes(forge(stored))
    if way == "writable by others":
        stored.chmod(0o622)
    elif way == "a link":
        stored.rename(tmp_path / "elsewhere")
        stored.symlink_to(tmp_path / "elsewhere")
    elif os.geteuid() == 0:
        os.chown(stored, 65534, 65534)
    else:
        pytest.skip("only root can give a file away")

    assert look(path, stored) == read_contents("a.py", path.read_bytes())


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"clonedb stat index 4 x\n{}", b"{}", b"\x80\x04]\x94.", b"\0" * 10_000],
)
def test_a_foreign_file_is_ignored_and_replaced(
    remembered: tuple[Path, Path], quick: float, data: bytes
) -> None:
    """Of another version or of somebody else: what is in it does not count."""
    path, stored = remembered
    stored.write_bytes(data)
    index = StatIndex(stored.parent, "key")

    assert index.contents(str(path)) == read_contents("a.py", path.read_bytes())
    index.save()
    assert stored.read_bytes().startswith(b"clonedb stat index 3 ")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_index_is_ignored(remembered: tuple[Path, Path], data: st.DataObject) -> None:
    """Any byte changed, left out or put in, and any end cut off."""
    path, stored = remembered
    whole = stored.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.binary(max_size=2))
    damaged = data.draw(
        st.sampled_from(
            [whole[:at], whole[:at] + byte + whole[at + 1 :], whole[:at] + byte + whole[at:]]
        )
    )
    stored.write_bytes(damaged)
    try:
        assert look(path, stored) == read_contents("a.py", path.read_bytes())
    finally:
        stored.write_bytes(whole)


@pytest.mark.parametrize("kind", ["directory", "pipe", "directory is a file"])
def test_an_index_that_cannot_be_kept_is_no_error(
    tmp_path: Path, quick: float, kind: str
) -> None:
    """It costs time, and leaves nothing behind."""
    path = tmp_path / "a.py"
    path.touch()
    time.sleep(quick)
    index_dir = tmp_path / "index"
    place = index_dir / f"files-{hashlib.sha256(b'key').hexdigest()[:20]}.index"
    if kind == "directory is a file":
        index_dir.touch()
    else:
        index_dir.mkdir()
        place.mkdir() if kind == "directory" else os.mkfifo(place)
    for _ in range(2):
        index = StatIndex(index_dir, "key")
        assert index.contents(str(path)) == read_contents("a.py", b"")
        index.save()
    if kind != "directory is a file":
        assert list(index_dir.iterdir()) == [place]


def test_what_changed_lately_is_not_remembered(tmp_path: Path) -> None:
    """Within two seconds a second change may leave the same times behind, so such files are read every time."""
    path = tmp_path / "a.txt"
    for number in range(300):
        path.write_text(f"{number:04}")
        for _ in range(2):
            index = StatIndex(tmp_path / "index", "key")
            contents = index.contents(str(path))
            index.save()
            assert contents is not None
            assert contents.digest == hashlib.sha256(f"{number:04}".encode()).hexdigest()
    assert not (tmp_path / "index").exists()


def test_restored_times_do_not_hide_a_change(remembered: tuple[Path, Path]) -> None:
    """Same size and mtime, as rsync and some editors leave it: ctime tells; so does the inode of a replaced file."""
    path, stored = remembered
    status = path.stat()
    path.write_text("import two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns

    contents = look(path, stored)

    assert contents is not None
    assert contents.imports == ("two",)


def test_entries_of_files_that_are_gone_are_forgotten_and_others_kept(
    remembered: tuple[Path, Path], quick: float
) -> None:
    """The index does not grow for ever, and two configurations of one project share it."""
    path, stored = remembered
    other, third = path.with_name("b.py"), path.with_name("c.py")
    for new in (other, third):
        new.touch()
        time.sleep(quick)
        index = StatIndex(stored.parent, "key")
        index.contents(str(new))
        index.save()
        if new is other:
            path.unlink()
    names = json.loads(stored.read_bytes().partition(b"\n")[2])["files"][str(path.parent)]

    assert set(names) == {"b.py", "c.py"}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "replace", "remove", "touch", "look"]),
        st.sampled_from("abc"),
        st.sampled_from("xyz"),
    ),
    max_size=6,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_with_and_without_an_index_the_contents_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, quick: float, steps: list[tuple[str, str, str]]
) -> None:
    """After any sequence of edits, with looks in between."""
    root = tmp_path_factory.mktemp("project")
    for step, name, text in [*steps, ("look", "", "")]:
        path = root / f"{name}.py"
        if step == "write":
            path.write_text(f"import {text}")
        elif step == "replace":
            (root / "new").write_text(f"import {text}")
            (root / "new").replace(path)
        elif step == "remove":
            path.unlink(missing_ok=True)
        elif step == "touch":
            path.touch()
        else:
            time.sleep(quick)
            index, fresh = StatIndex(root / "index", "key"), StatIndex()
            index.listing(str(root))
            for letter in "abc":
                assert index.contents(f"{root}/{letter}.py") == fresh.contents(
                    f"{root}/{letter}.py"
                )
            index.save()


WRITER = """
import sys, time
from pathlib import Path
from clonedb.project import stat_index
from clonedb.project.contents import read_contents
stat_index._SETTLED = 20_000_000
root = Path(sys.argv[1])
mine = root / (sys.argv[2] + ".py")
for number in range(30):
    mine.write_text(f"import m{number}")
    time.sleep(number * 7 % 40 / 1000)
    index = stat_index.StatIndex(root / "index", "key")
    for path in sorted(root.glob("*.py")):
        contents = index.contents(str(path))
        if path == mine:
            assert contents == read_contents(path.name, path.read_bytes()), (contents, path.read_bytes())
        else:
            assert contents is not None
    index.save()
"""


def test_writers_at_once_do_not_mislead_each_other(tmp_path: Path, quick: float) -> None:
    """Four processes that edit, look and save: each sees its own edits, and no temporary file is left."""
    for name in "01234":
        (tmp_path / f"{name}.py").touch()
    time.sleep(quick)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name],
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "0123"
    ]
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    (stored,) = (tmp_path / "index").iterdir()
    time.sleep(quick)
    for name in "01234":
        path = tmp_path / f"{name}.py"
        assert look(path, stored) == read_contents(path.name, path.read_bytes())
