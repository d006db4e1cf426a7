"""`clonedb serve`: the command, its options, how it starts and how it stops."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.projects import Project
from tests.service.stories import WAIT

Start = Callable[..., "Running"]


class Running:
    """The command, and where it listens."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log
        self.url = self._url()

    def _url(self) -> str:
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"listening on (http://[^\s\"]+)", self.log.read_text()):
                return found[1]
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """The JSON of a reply; None for one without a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        with urllib.request.urlopen(request, timeout=WAIT) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it: its exit status."""
        self.process.send_signal(number)
        return self.process.wait(WAIT)


@pytest.fixture
def start(project: Project, tmp_path: Path) -> Iterator[Start]:
    """A function that starts the command outside of any project."""
    made: list[Running] = []
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()

    def run(*options: str, **variables: str) -> Running:
        log = tmp_path / f"log{len(made)}"
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "clonedb", "serve", "--port", "0", *options],
                cwd=nowhere,
                env=project.environment | variables,
                stderr=file,
                text=True,
            )
        made.append(Running(process, log))
        return made[-1]

    yield run
    for running in made:
        running.process.kill()
        running.process.wait()


def test_it_runs_outside_of_any_project(start: Start) -> None:
    """It serves a template and a database, and ends by SIGTERM with status 0, streams and all; leases stay."""
    running = start()
    assert running.ask("/healthz") == {"status": "ok"}
    assert running.ask("/readyz") == {"status": "ready"}
    running.ask("/api/v1/templates", "POST", {"hash": "abc"})
    running.ask("/api/v1/templates/abc", "PUT")
    got = running.ask("/api/v1/templates/abc/tests")
    with urllib.request.urlopen(f"{running.url}/page/stream", timeout=WAIT) as stream:
        assert stream.readline() == b"event: tables\n"
        assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()
    again = start()
    (lease,) = again.ask("/v1/leases")["leases"]
    assert (lease["id"], lease["database"]) == (
        got["id"],
        got["database"]["config"]["database"],
    )
    again.ask("/api/v1/admin/templates", "DELETE")


@pytest.mark.campaign("kills")
def test_stopped_while_a_project_is_built(start: Start, project: Project) -> None:
    """It ends in seconds, and the build with it; who waits is told, and the next start collects what was left."""
    begun = project.directory / "begun"
    project.revision(
        "slow",
        f"open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(300)",
    )
    running = start()
    with ThreadPoolExecutor(1) as threads:
        body = {"project": str(project.directory), "wait": 60}
        waiting = threads.submit(running.ask, "/v1/leases", "POST", body)
        deadline = time.monotonic() + WAIT
        while not (begun.exists() and begun.read_text()):
            assert time.monotonic() < deadline, running.log.read_text()
            assert not waiting.done(), waiting.result()
            time.sleep(0.05)
        before = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - before < 20
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            waiting.result()
        refused.value.close()
    assert "Traceback" not in running.log.read_text()
    assert not Path(f"/proc/{begun.read_text()}").exists()


def test_those_who_wait_are_told(start: Start) -> None:
    """A GET that waits for a template does not hold up the end; it gets 503."""
    running = start()
    running.ask("/templates", "POST", {"hash": "abc"})
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(running.ask, "/templates/abc/tests")
        while running.ask("/v1/templates")["templates"][0]["waiting"] == 0:
            pass
        begin = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - begin < 15
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            waiting.result(WAIT)
        refused.value.close()
    assert "Traceback" not in running.log.read_text()
    start().ask("/admin/templates", "DELETE")


def test_ctrl_c(start: Start) -> None:
    """It ends as by SIGTERM."""
    running = start()
    assert running.stop(signal.SIGINT) == 0
    assert "Traceback" not in running.log.read_text()


def test_a_log_for_programs(start: Start) -> None:
    """Each line is a JSON object."""
    running = start("--log-format", "json")
    running.stop()
    lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    assert any(line["message"].startswith("listening on http://127.0.0.1:") for line in lines)
    assert all({"time", "level", "message"} <= set(line) for line in lines)


@pytest.mark.campaign("long")
def test_another_service_on_the_server(start: Start) -> None:
    """The second one says so and ends: two would hand out the same databases."""
    first = start()
    with pytest.raises(AssertionError, match="another `clonedb serve` works there"):
        start()
    assert first.ask("/healthz") == {"status": "ok"}


@pytest.mark.parametrize(
    ("options", "variables", "said"),
    [
        (["--host", "0.0.0.0"], {}, "give a token (--token-file FILE), or use 127.0.0.1"),
        ([], {"INTEGRESQL_ADDRESS": "::"}, "host '::' can be reached from other machines"),
        (
            ["--token-file", "nobody"],
            {},
            "the token file 'nobody' cannot be read: No such file",
        ),
        (["--token-file", "short"], {}, "has to hold one word of 16 ASCII characters or more"),
        (
            [],
            {"INTEGRESQL_TEST_MAX_POOL_SIZE": "many"},
            "INTEGRESQL_TEST_MAX_POOL_SIZE is 'many'",
        ),
        ([], {"INTEGRESQL_TEST_MAX_POOL_SIZE": "0"}, "which is 1 at least"),
        (
            [],
            {
                "INTEGRESQL_PGHOST": "127.0.0.1",
                "INTEGRESQL_PGPORT": "1",
                "INTEGRESQL_PGPASSWORD": "s3cr3t!",
            },
            "127.0.0.1",
        ),
        (["--host", "192.0.2.7", "--token-file", "good"], {}, "cannot listen on 192.0.2.7:"),
    ],
)
def test_what_it_refuses(
    project: Project, options: list[str], variables: dict[str, str], said: str
) -> None:
    """One message with what to do, no traceback, and no password."""
    project.write("short", "abc\n")
    project.write("good", "0123456789abcdef0123\n")
    outcome = project.clonedb("serve", "--port", "0", *options, **variables).demand(1)
    assert said in outcome.err
    assert "Traceback" not in outcome.text
    assert "s3cr3t!" not in outcome.text


def test_a_port_in_use(project: Project) -> None:
    """The message names it, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        outcome = project.clonedb("serve", "--port", port).demand(1)
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in outcome.err
    assert "give another --port" in outcome.err


def test_without_the_extra(project: Project) -> None:
    """It says what to install."""
    blocked = "import sys; sys.modules['uvicorn'] = None; from clonedb.cli import main; main(['serve'])"
    outcome = project.run(sys.executable, "-c", blocked)
    assert "clonedb serve needs uvicorn: install clonedb[service]" in outcome.err


def test_integresqls_pool_sizes(start: Start) -> None:
    """The first is how many are ready before anybody asks."""
    running = start(INTEGRESQL_TEST_INITIAL_POOL_SIZE="3", INTEGRESQL_TEST_MAX_POOL_SIZE="3")
    running.ask("/templates", "POST", {"hash": "abc"})
    running.ask("/templates/abc", "PUT")
    deadline = time.monotonic() + WAIT
    while running.ask("/v1/templates")["templates"][0]["ready"] != 3:
        assert time.monotonic() < deadline
    running.ask("/admin/templates", "DELETE")
