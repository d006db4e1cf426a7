"""Virtual environments for the published histories: installed once from exact pins, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.published.histories import History

__all__ = ["Environment", "InstallationError", "NotInstalledError", "install"]

CHECKOUT = Path(__file__).parents[2]
OFFLINE = "CLONEDB_TEST_OFFLINE"
_DONE = "installed-in-seconds"
_DAYS = {
    "history": 90,
    "clonedb": 2,
}  # unused for so long, a directory is deleted when the next is made


class InstallationError(Exception):
    """A published history could not be installed."""


class NotInstalledError(InstallationError):
    """A published history is not installed, and nothing may be: CLONEDB_TEST_OFFLINE=1."""


@dataclass(frozen=True, slots=True)
class Environment:
    """One history's virtual environment, and beside it clonedb as the wheel of this checkout installs it.

    Beside it, because the environment is shared by all checkouts and runs, and clonedb changes from one to the next.
    `seconds` is what installing it took, now or when it was made; `made` says whether that was now.
    """

    history: History
    directory: Path
    clonedb: Path
    seconds: float
    made: bool

    @property
    def python(self) -> str:
        """The interpreter."""
        return str(self.directory / "bin" / "python")

    @property
    def site_packages(self) -> Path:
        """Where the distributions are."""
        return (
            self.directory
            / "lib"
            / f"python{sys.version_info[0]}.{sys.version_info[1]}"
            / "site-packages"
        )

    def variables(self, before: Mapping[str, str], scratch: Path) -> dict[str, str]:
        """The environment for programs run here."""
        path = os.pathsep.join(filter(None, [str(self.clonedb), before.get("PYTHONPATH", "")]))
        return {**before, **self.history.environment(scratch), "PYTHONPATH": path}


def install(history: History, *, cache: Path | None = None) -> Environment:
    """The environment of a history, made if it is not there; of many processes that ask, one makes it.

    Raises InstallationError, which says what pip said, and NotInstalledError.
    """
    cache = cache or _cache()
    name = f"{history.name}-{_key(history.pins.read_bytes())}"
    directory, made = _once(
        cache, "history", name, lambda path: _make_environment(history, path)
    )
    python = directory / "bin" / "python"
    layer, _ = _once(
        cache, "clonedb", f"clonedb-{_key(*_sources())}", lambda path: _make_layer(python, path)
    )
    return Environment(history, directory, layer, float((directory / _DONE).read_text()), made)


def _cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("clonedb-histories")


def _key(*contents: bytes) -> str:
    """Names what was installed, and the kind of interpreter it was installed for."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return f"{digest.hexdigest()[:12]}-{sys.implementation.cache_tag}"


def _sources() -> Iterator[bytes]:
    """What clonedb's wheel is made of."""
    paths = [CHECKOUT / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    paths += sorted(
        path for path in (CHECKOUT / "clonedb").rglob("*") if "__pycache__" not in path.parts
    )
    for path in paths:
        if path.is_file():
            yield path.relative_to(CHECKOUT).as_posix().encode() + b"\0" + path.read_bytes()


def _once(cache: Path, kind: str, name: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
    """A directory of the cache, complete, and whether it was made now: by the first who asks, while the others wait."""
    import filelock

    directory = cache / kind / name
    done = directory / _DONE
    directory.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory.with_name(f"{name}.lock")):
        if missing := not done.exists():
            if os.environ.get(OFFLINE) == "1":
                raise NotInstalledError(
                    f"{name} is not installed yet, and {OFFLINE}=1 forbids it"
                )
            shutil.rmtree(directory, ignore_errors=True)
            start = time.monotonic()
            make(directory)
            done.write_text(f"{time.monotonic() - start:.3f}")
            _forget(directory.parent, _DAYS[kind])
        os.utime(done)
    return directory, missing


def _forget(kind: Path, days: int) -> None:
    for done in kind.glob(f"*/{_DONE}"):
        if time.time() - done.stat().st_mtime > days * 86400:
            shutil.rmtree(done.parent, ignore_errors=True)


def _make_environment(history: History, directory: Path) -> None:
    _run(history.name, [sys.executable, "-m", "venv", str(directory)])
    _pip(
        history.name,
        directory / "bin" / "python",
        "--only-binary",
        ":all:",
        "-r",
        str(history.pins),
    )


def _make_layer(python: Path, directory: Path) -> None:
    _pip("clonedb", python, "--target", str(directory), str(CHECKOUT))


def _pip(name: str, python: Path, *arguments: str) -> None:
    pip = [
        str(python),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "install",
        "--no-deps",
        "--quiet",
    ]
    _run(name, [*pip, *arguments])


def _run(name: str, command: list[str]) -> None:
    """Run a program that installs; its compiled modules are wanted, whatever this process was told."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        said = "\n".join(
            f"  {line}" for line in (ended.stdout + ended.stderr).strip().splitlines()[-12:]
        )
        raise InstallationError(
            f"{name} could not be installed: {' '.join(command)} ended with {ended.returncode}\n{said}\n"
            f"the published histories need pip and a package index; {OFFLINE}=1 leaves out what is not installed yet"
        )
