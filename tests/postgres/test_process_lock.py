"""What a forked child finds of a lock that another thread of its parent has."""

from __future__ import annotations

import os
import threading

from clonedb.postgres.process_lock import ProcessLock


def test_a_forked_child_does_not_wait_for_its_parents_threads() -> None:
    """It takes the lock at once, and its parent's stays taken."""
    lock, taken, end = ProcessLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock, lock:
            taken.set()
            end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(60)
    assert not lock.acquire(blocking=False)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if lock.acquire(blocking=False) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not lock.acquire(blocking=False)
    end.set()
    thread.join()
    assert lock.acquire(blocking=False)
