"""What waiting for an embedded server does when the clock is not what it was."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from clonedb.clone import create_empty
from clonedb.errors import ServerError
from clonedb.postgres import sql
from clonedb.postgres.embedded import _failure_since, _stamp
from clonedb.postgres.server import open_server
from clonedb.postgres.state import Place
from tests.postgres.sandbox import Sandbox


def test_an_old_failure_is_old_whatever_the_clock_says(tmp_path: Path) -> None:
    """A failure from the future, as a clock that was set back sees it, is no news; one after it is."""
    place = Place(tmp_path / "servers" / "one")
    place.prepare()
    assert _failure_since(place, _stamp(place)) is None
    place.files.write("failed", "no memory")
    os.utime(place.file("failed"), (time.time() + 1e6,) * 2)
    earlier = _stamp(place)
    assert _failure_since(place, earlier) is None
    place.files.write("failed", "no disk")
    assert _failure_since(place, earlier) == "no disk"


def test_a_stopped_process_of_the_server_stops_no_drop_for_ever(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DROP DATABASE waits for every process there is: within a limit, and with a message that says for what."""
    monkeypatch.setattr(sql, "DROP_LIMIT", 1.0)
    with contextlib.closing(open_server(sandbox.config)) as server:
        clone = create_empty(server)
        with contextlib.closing(server.connect("template1")) as other:
            os.kill(other.info.backend_pid, signal.SIGSTOP)
            try:
                with pytest.raises(ServerError, match=r"could not be dropped within 1 s: the server waits for one"):
                    clone.drop()
            finally:
                os.kill(other.info.backend_pid, signal.SIGCONT)
        clone.drop()
        assert server.run(lambda connection: sql.find_database(connection, clone.name)) is None
