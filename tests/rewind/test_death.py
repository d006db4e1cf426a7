"""A process that dies in the middle of a rewind leaves nothing that anybody is given."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from clonedb.clones.gc import collect
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.templates.ensure import TemplateRecord

WORKER = """
import json, sys
from pathlib import Path
from clonedb.clones.clone import create
from clonedb.settings.config import Config
from clonedb.postgres.servers import open_server
from clonedb.rewind.rewinder import Pristine, Rewinder
from clonedb.templates.ensure import find
settings, name = json.loads(sys.argv[1]), sys.argv[2]
server = open_server(Config(rootdir=Path("/")).replace("the test", **settings))
template = find(server, name)
clone = create(server, template)
rewinder = Rewinder(clone, Pristine(server, template))
with clone.connect(autocommit=True) as connection:
    keep = [connection.info.backend_pid]
    for number in range(1_000_000):
        connection.execute("delete from plain where id < 15; insert into keyless select 1 from generate_series(1, 50)")
        outcome = rewinder.rewind(keep)
        assert outcome.kind == "rewound", outcome
        if number == 3:
            print("rewinding", flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01])
def test_a_worker_killed_while_it_rewinds(
    delay: float, shared: Server, template: TemplateRecord
) -> None:
    """Its clone and the one that it read rows from have no owner any more, and are collected."""
    names = ("state_dir", "postgres_bin", "idle_timeout", "prefix")
    settings = {
        name: value for name in names if (value := getattr(shared.config, name)) is not None
    }
    command = [sys.executable, "-c", WORKER, json.dumps(settings), template.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "rewinding\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    before = _clones(shared)
    deadline = time.monotonic() + 10
    dropped: set[str] = set()
    while (
        len(dropped) < 2 and time.monotonic() < deadline
    ):  # the server notices the death a moment later
        dropped |= {one.name for one in collect(shared)}
    assert len(dropped) == 2
    assert _clones(shared) == before - dropped


def _clones(server: Server) -> set[str]:
    return {
        found.name
        for found in server.run(sql.databases, server.config.prefix)
        if not found.is_template
    }
