"""An interpreter that migrates, and the pipes to it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

__all__ = ["Interpreter"]

_PROGRAM = Path(__file__).with_name("inside") / "program.py"
_SILENCE = 1.0  # seconds without an event after which the caller may look what keeps a migration waiting
_LAST_BREATH = 2.0  # seconds that it may take to end after it has closed its pipe


class Interpreter:
    """The process, and the pipes to it; `end()` kills it, and so does being forgotten.

    `setup["grace"]`, if there is one, is how many seconds it has then to end what it has started.
    """

    def __init__(self, setup: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        # a file never fills as a pipe does, so that nothing has to read it meanwhile
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        requests, asking = os.pipe()
        self._events, writing = os.pipe()
        self._requests = os.fdopen(asking, "wb")
        self._rest = b""
        try:
            process = subprocess.Popen(
                # -P keeps its directory off sys.path, in which there is a `models.py`
                [sys.executable, "-P", str(_PROGRAM), str(writing)],
                stdin=requests,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                env=environment,
                # a signal to the caller's group (Ctrl-C, timeout, a cancelled job) would end it
                # before it has ended what it started
                start_new_session=True,
            )
        except BaseException:
            os.close(self._events)
            self._requests.close()
            self._output.close()
            raise
        finally:
            # the child has its own; with a copy open here its end would go unnoticed
            os.close(requests)
            os.close(writing)

        self._process = process
        # killed by whichever comes first: end(), being forgotten, or the end of this process
        self.end: Callable[[], object] = weakref.finalize(
            self,
            _end,
            process,
            self._events,
            self._requests,
            self._output,
            setup.get("grace", 0.0),
        )
        self._send(setup)

    def ask(
        self, request: Mapping[str, Any], waiting: Callable[[], None] | None
    ) -> Iterator[dict[str, Any]]:
        """Send a request; the events that come, up to the last."""
        self._send(request)
        for line in self._lines(waiting):
            event: dict[str, Any] = json.loads(line)
            yield event
            if event["event"] in ("done", "failed"):
                return

    def _send(self, request: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # why it ended is in its output
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()

    def _lines(self, waiting: Callable[[], None] | None) -> Iterator[bytes]:
        poll = select.poll()  # not select(), which refuses descriptors above 1023
        poll.register(self._events, select.POLLIN)
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                yield line
            while waiting is not None and not poll.poll(_SILENCE * 1000):
                waiting()
            if not (more := os.read(self._events, 65536)):
                return
            # the last line may not be whole
            self._rest += more

    def ending(self) -> str:
        """How it ended, after the last event: `exit status 3`, `killed by SIGKILL`."""
        try:
            code = self._process.wait(_LAST_BREATH)
        except subprocess.TimeoutExpired:
            return "it still runs, but has closed its side"
        if code >= 0:
            return f"exit status {code}"
        name = signal.Signals(-code).name
        hint = ", as the kernel does when memory is short" if -code == signal.SIGKILL else ""
        return f"killed by {name}{hint}"

    def printed(self) -> int:
        """How many bytes it has printed so far."""
        return os.fstat(self._output.fileno()).st_size

    def output(self, start: int) -> str:
        """What it has printed since then: it writes at the offset that both processes share, so that is not moved."""
        fileno = self._output.fileno()
        return os.pread(fileno, self.printed() - start, start).decode(errors="replace")


def _end(
    process: subprocess.Popen[bytes],
    events: int,
    requests: IO[bytes],
    output: IO[bytes],
    grace: float,
) -> None:
    """End it; it has `grace` seconds to end what it has started, and itself, when its requests are closed."""
    if grace:
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            requests.close()
            process.wait(grace)

    # what goes on after the grace, or has none, is in the middle of a migration
    process.kill()
    process.wait()
    os.close(events)
    output.close()
    with contextlib.suppress(BrokenPipeError):
        requests.close()
