"""What is found out in a fork of this process, which is thrown away: what it loads is not loaded here."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from clonedb.migrate.inside.failure import describe

__all__ = ["ForkedError", "forked"]


class ForkedError(Exception):
    """What was raised in the fork, as `describe` tells it."""

    def __init__(self, described: Mapping[str, Any]) -> None:
        super().__init__(described["message"])
        self.described = described


def forked(function: Callable[[], Any], setup: Mapping[str, Any], *, requests: int) -> Any:
    """The result of a function, which JSON can hold, from a fork of this process.

    The fork ends when the last writer of the pipe `requests` has closed it: then the process
    that asked is gone. Raises ForkedError for every exception of the function.
    """
    # or the fork would write once more what is in the buffers
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads; the only one waits in read(), and holds no lock
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()

    if pid == 0:
        os.close(reading)
        _be_fork(function, setup, writing, requests)

    # or what is read below would never end
    os.close(writing)
    with open(reading, "rb") as file:  # noqa: PTH123 - a descriptor
        text = file.read()
    os.waitpid(pid, 0)
    if not text:
        raise ForkedError(
            describe(
                RuntimeError("the process that loads the revisions ended without a word"), setup
            )
        )

    answer = json.loads(text)
    if "error" in answer:
        raise ForkedError(answer["error"])
    return answer["result"]


def _be_fork(
    function: Callable[[], Any], setup: Mapping[str, Any], writing: int, requests: int
) -> NoReturn:
    """Answer, and end: nothing may return from here into what the parent is doing."""
    try:
        threading.Thread(target=_end_with, args=(requests,), daemon=True).start()
        gc.disable()  # hundreds of modules are loaded, and none is given up
        try:
            answer = {"result": function()}
        except BaseException as error:  # noqa: BLE001 - SystemExit of a revision is a failure like others
            answer = {"error": describe(error, setup)}

        with open(writing, "wb") as file:
            file.write(json.dumps(answer).encode())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()

        os._exit(0)


def _end_with(requests: int) -> None:
    """End when the pipe has no writer, without reading what is meant for the parent."""
    poll = select.poll()
    # the end of a pipe is told without being asked for (POLLHUP)
    poll.register(requests, 0)
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)
