"""The README's workflow for GitHub: its steps are run as they stand there, each job on a machine of its own."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clonedb.embedded import leases
from clonedb.settings.config import Config
from tests.campaigns import VARIANT
from tests.guides.test_guides import guide
from tests.projects import Outcome, Project, ran

ACTIONS = {  # what each may be given, as its action.yml says
    "actions/checkout": set[str](),
    "actions/setup-python": {"python-version", "cache"},
    "actions/cache": {"path", "key"},
    "actions/upload-artifact": {"name", "path"},
    "actions/download-artifact": {"name"},
}
EXPRESSION = re.compile(r"\$\{\{\s*([\w.-]+)\s*\}\}")

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_a_row_of_ones_own(clonedb_connection, number):
    clonedb_connection.execute("insert into item (name) values ('mine')")
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (2,)
"""


@pytest.fixture
def workflow() -> dict[Any, Any]:
    """The YAML in the README."""
    found = yaml.safe_load(guide("ci")["yaml"])
    assert isinstance(found, dict)
    return found


class GitHub:
    """As much of a runner as the workflow needs: a checkout, a cache between runs, files between jobs."""

    def __init__(self, project: Project, directory: Path) -> None:
        self.project = project
        self.directory = directory
        self.cache: dict[str, bytes] = {}
        self.artifacts: dict[str, bytes] = {}
        self.ran: list[tuple[str, Outcome]] = []
        self.machines: list[Path] = []

    def run(self, workflow: dict[Any, Any], *jobs: str) -> list[tuple[str, Outcome]]:
        """Some jobs, and of a matrix each shard, on cold machines; the `run:` steps and how they ended."""
        self.artifacts, self.ran = {}, []
        for job in (workflow["jobs"][name] for name in jobs):
            shards = job.get("strategy", {}).get("matrix", {}).get("shard", [""])
            for shard in shards:
                self._job(job, {"matrix.shard": shard})
        return self.ran

    def _job(self, job: dict[str, Any], known: dict[str, str]) -> None:
        machine = Machine(
            self.project, Path(tempfile.mkdtemp(prefix="machine-", dir=self.directory))
        )
        self.machines.append(machine.state)
        to_be_cached = {}
        for step in job["steps"]:
            values = {
                name: _filled(value, known) for name, value in step.get("with", {}).items()
            }
            path = machine.checkout / values.get("path", "")
            match step.get("uses", "").partition("@")[0]:
                case "actions/checkout":
                    shutil.copytree(self.project.directory, machine.checkout)
                case "actions/cache":
                    if values["key"] in self.cache:
                        path.write_bytes(self.cache[values["key"]])
                    else:
                        to_be_cached[values["key"]] = path
                case "actions/upload-artifact":
                    self.artifacts[values["name"]] = path.read_bytes()
                case "actions/download-artifact":
                    (machine.checkout / "template.clonedb").write_bytes(
                        self.artifacts[values["name"]]
                    )
                case "":
                    self._step(machine, step, known)
        self.cache |= {
            key: path.read_bytes() for key, path in to_be_cached.items()
        }  # after the job's last step

    def _step(self, machine: Machine, step: dict[str, Any], known: dict[str, str]) -> None:
        script = _filled(step["run"], known)
        if script.startswith("pip install"):
            return
        outcome = machine.run(script).demand()
        self.ran.append((script, outcome))
        for line in machine.output.read_text().splitlines():
            name, _, value = line.partition("=")
            known[f"steps.{step['id']}.outputs.{name}"] = value
        machine.output.write_text("")


class Machine:
    """A runner: a directory for the checkout, and a state directory that nothing is in."""

    def __init__(self, project: Project, directory: Path) -> None:
        directory.chmod(0o711)
        self.checkout = directory / "work" / "shop"
        self.checkout.parent.mkdir()
        self.state = directory / "state"
        self.output = directory / "output"
        self.output.touch()
        self.environment = {
            **project.environment,
            "CLONEDB_STATE_DIR": str(self.state),
            "GITHUB_OUTPUT": str(self.output),
            "PYTEST_XDIST_AUTO_NUM_WORKERS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def run(self, script: str) -> Outcome:
        """Run a script as a step is run that names no shell."""
        return ran(
            ["bash", "-e", "-c", script], cwd=self.checkout, environment=self.environment
        )


def _filled(text: str, known: dict[str, str]) -> str:
    return EXPRESSION.sub(lambda match: known[match[1]], text)


@pytest.fixture
def github(items: Project, config: Config, workflow: dict[Any, Any]) -> Iterator[GitHub]:
    """A repository with a test in the directory of each shard."""
    for shard in workflow["jobs"]["tests"]["strategy"]["matrix"]["shard"]:
        items.write(f"{shard}/test_items.py", TESTS)
    items.write("pytest.ini", "[pytest]\naddopts = --import-mode=importlib\n")
    memory = Path("/dev/shm")
    base = memory if os.access(memory, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="clonedb-ci-", dir=base))
    directory.chmod(0o711)  # the account that the server drops to must pass
    github = GitHub(items, directory)
    yield github
    for state in github.machines:
        leases.stop(config.replace("the test", state_dir=str(state)))
    shutil.rmtree(directory)


def commands(ran: list[tuple[str, Outcome]]) -> list[str]:
    """What was run, in a word or two each."""
    return [" ".join(script.split()[:2]) for script, _ in ran]


@pytest.mark.campaign("applications")
def test_the_workflow_follows_github_s_rules(workflow: dict[Any, Any]) -> None:
    """Jobs have a runner and steps; a step runs or uses one thing; what is named in an expression is there by then."""
    assert workflow.keys() == {
        True,
        "jobs",
    }  # YAML 1.1, which this parser reads, takes `on` for a truth value
    for name, job in workflow["jobs"].items():
        assert job.keys() <= {"needs", "runs-on", "strategy", "steps"}, name
        assert job["runs-on"] == "ubuntu-latest"
        assert job.get("needs", "template") in workflow["jobs"]
        known = {f"matrix.{axis}" for axis in job.get("strategy", {}).get("matrix", {})}
        for step in job["steps"]:
            assert step.keys() <= {"id", "uses", "with", "run"}
            assert ("uses" in step) != ("run" in step)
            texts = [step.get("run", ""), *map(str, step.get("with", {}).values())]
            assert {found for text in texts for found in EXPRESSION.findall(text)} <= known
            if "uses" in step:
                action, version = re.fullmatch(
                    r"(actions/[\w-]+)@(v\d+)", step["uses"]
                ).groups()  # type: ignore[union-attr]
                assert step.get("with", {}).keys() <= ACTIONS[action], version
            if "id" in step:
                written = re.findall(r'echo "(\w+)=.*GITHUB_OUTPUT', step["run"])
                known |= {f"steps.{step['id']}.outputs.{output}" for output in written}


@pytest.mark.campaign("applications")
@pytest.mark.parametrize("shards", [1, pytest.param(2, marks=VARIANT)])
def test_the_workflow_is_run(github: GitHub, workflow: dict[Any, Any], shards: int) -> None:
    """The first run builds; shards restore, migrate nothing and pass; the second run finds the file in the cache, a
    changed migration has another key and refuses the former file, and what is damaged in the cache is built anew.
    """
    matrix = workflow["jobs"]["tests"]["strategy"]["matrix"]
    matrix["shard"] = matrix["shard"][:shards]
    first = github.run(workflow, "template", "tests")
    template, shard = (
        ["key=$(clonedb fingerprint)", "clonedb import"],
        ["clonedb import", "pytest -n"],
    )
    assert commands(first) == [*template, *shard * shards]
    assert "building template" in first[1][1].err
    for script, outcome in first[2:]:
        assert "building template" not in outcome.text
        if script.startswith("pytest"):
            assert "3 passed" in outcome.out
            assert re.search(r"clonedb: template '\w+' reused", outcome.out)
        else:
            assert re.search(r": restored in \d+\.\d s, at two", outcome.out)
    ((key, file),) = github.cache.items()
    assert re.fullmatch(r"template-[0-9a-f]{64}", key)
    second = github.run(workflow, "template")
    assert "building template" not in second[1][1].err
    assert [*github.artifacts.values()] == [*github.cache.values()]
    assert [*github.cache] == [key]
    github.cache[key] = github.cache[key][:1000]
    third = github.run(workflow, "template")
    assert "is damaged" in third[1][1].err
    assert "building template" in third[1][1].err
    assert len(github.artifacts["template"]) > 1000
    github.project.revision("three", 'op.execute("alter table item add column price int")')
    demand_refusal(github, workflow, file)


def demand_refusal(github: GitHub, workflow: dict[Any, Any], stale: bytes) -> None:
    """A stale file has another key and is refused by the import, and a frozen shard without a template fails, rather
    than migrate.
    """
    machine = Machine(
        github.project, Path(tempfile.mkdtemp(prefix="machine-", dir=github.directory))
    )
    github.machines.append(machine.state)
    shutil.copytree(github.project.directory, machine.checkout)
    key = machine.run("clonedb fingerprint").demand().out.strip()
    assert f"template-{key}" not in github.cache
    (machine.checkout / "template.clonedb").write_bytes(stale)
    restore, tests = (step["run"] for step in workflow["jobs"]["tests"]["steps"][-2:])
    refused = machine.run(restore).demand(1)
    assert refused.out == ""
    assert re.search(
        r"(?m)^clonedb: 'template\.clonedb' holds another template than the one of this project as it is: revision"
        r" 'migrations/versions/three\.py' added; check out what it was exported from, or build",
        refused.err,
    )
    shard = machine.run(_filled(tests, {"matrix.shard": "tests/api"})).demand(1)
    assert (
        "it is not built here because frozen is set (--clonedb-frozen); run `clonedb build` first"
        in shard.out
    )
    assert "building template" not in shard.text
