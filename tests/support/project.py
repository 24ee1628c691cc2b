"""A copy of the project in which tests run snakemake, dvc and make as a user would, and look at what happened."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.project import ROOT, copy_project

FILE_BLOCK = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOTHING = "Nothing to be done"
RUNS_OF = """
import dataclasses, json, sys
from pipeline.runs import expand_runs
print(json.dumps([dataclasses.asdict(run) for run in expand_runs(sys.argv[1]).runs]))
"""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def text(self) -> str:
        """Everything it printed."""
        return self.stdout + self.stderr


@dataclass(frozen=True)
class Job:
    """One job of a dry run; `inputs` and `wildcards` as snakemake prints them."""

    rule: str
    wildcards: dict[str, str]
    inputs: tuple[str, ...]


class Running:
    """A command in a process group of its own, its output in files: nothing waits for a pipe that a survivor holds."""

    def __init__(self, folder: Path, command: tuple[str, ...], environment: dict[str, str]) -> None:
        self.command = command
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - closed in `wait`
        self._begin = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._files[0],
            stderr=self._files[1],
            start_new_session=True,
        )

    def read(self) -> list[str]:
        """What was printed so far: standard output, standard error."""
        texts = []
        for handle in self._files:
            handle.seek(0)
            texts.append(handle.read())
        return texts

    def wait(self, timeout_s: float) -> Done:
        """Wait for the command itself, not for what it left running."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{' '.join(self.command)} did not end within {timeout_s:.0f} s:\n" + "".join(self.read())
            ) from None
        return Done(status, *self.read(), time.monotonic() - self._begin)

    def kill_group(self) -> None:
        """SIGKILL for the command and everything that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


class Project:
    """A folder with a copy of the project; `.venv` is a link to the real one, so nothing may install into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def of_sources(folder: Path) -> Project:
        """A copy of the sources without any result."""
        copy_project(folder)
        return Project(folder)

    def link_venv(self) -> None:
        """Give the folder the packages that run this test."""
        (self.folder / ".venv").symlink_to(Path(sys.prefix))

    def copy(self, folder: Path, leave_out: tuple[str, ...] = ()) -> Project:
        """A copy with data, results and snakemake's records, all times kept; `leave_out` names top-level entries."""
        folder.mkdir(parents=True)
        kept = [str(path) for path in self.folder.iterdir() if path.name not in leave_out]
        subprocess.run(["cp", "-a", *kept, str(folder)], check=True)
        return Project(folder)

    def path(self, name: str) -> Path:
        """A file of this copy."""
        return self.folder / name

    def environment(self, **extra: str) -> dict[str, str]:
        """The caller's variables without those that would reach into a copy, one thread, no one's git settings."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAKEMAKE_", "DVC_"))}
        for name in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
            kept.pop(name, None)
        return kept | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"} | extra

    @contextmanager
    def started(self, *command: str, **environment: str) -> Iterator[Running]:
        """A command in the background; the whole process group is killed at the end."""
        running = Running(self.folder, command, self.environment(**environment))
        try:
            yield running
        finally:
            running.kill_group()

    def run(self, *command: str, timeout_s: float = 120, status: int | None = 0, **environment: str) -> Done:
        """Run a command to its end and check its exit status (None: any)."""
        with self.started(*command, **environment) as running:
            done = running.wait(timeout_s)
        if status is not None and done.status != status:
            raise AssertionError(f"{' '.join(command)} ended with {done.status}, not {status}:\n{done.text}")
        return done

    def snakemake(self, *words: str, **options: Any) -> Done:
        """Run the venv's snakemake."""
        return self.run(".venv/bin/snakemake", *words, **options)

    def jobs(self, *words: str) -> list[Job]:
        """The jobs of a dry run."""
        return jobs_of(self.snakemake("--quiet", "host", "-n", "--cores", "2", *words).text)

    def runs(self, study: str) -> list[dict[str, Any]]:
        """The runs of a study as this copy's config resolves them: id, kind, name, spec, varied."""
        source = {"PYTHONPATH": str(self.folder / "src")}
        return list(json.loads(self.run(sys.executable, "-c", RUNS_OF, study, **source).stdout))

    @contextmanager
    def edited(self, name: str, edit: Callable[[str], str]) -> Iterator[None]:
        """A file changed as an editor would; afterwards content and time are as before."""
        path = self.path(name)
        before, stat = path.read_text(), path.stat()
        after = edit(before)
        assert after != before, f"the edit of {name} changes nothing"
        path.write_text(after)
        try:
            yield
        finally:
            path.write_text(before)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    @contextmanager
    def added(self, name: str, text: str) -> Iterator[None]:
        """A new file, gone afterwards."""
        path = self.path(name)
        assert not path.exists()
        path.write_text(text)
        try:
            yield
        finally:
            path.unlink()


def jobs_of(text: str) -> list[Job]:
    """Parse what a dry run prints; either it lists jobs or it says that there is nothing to do."""
    jobs: list[Job] = []
    for block in re.split(r"(?m)^(?=(?:local)?rule \w+:$)", text)[1:]:
        rule = re.match(r"(?:local)?rule (\w+):", block)
        assert rule is not None
        fields = dict(re.findall(r"(?m)^    (input|wildcards): (.*)$", block))
        pairs = re.findall(r"(\w+)=([^,]*)", fields.get("wildcards", ""))
        inputs = tuple(filter(None, fields.get("input", "").split(", ")))
        jobs.append(Job(rule[1], dict(pairs), inputs))
    assert bool(jobs) != (NOTHING in text), f"neither jobs nor {NOTHING!r}:\n{text}"
    return jobs


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    """Poll until `condition` is true and return its value."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def write_blocks(project: Project, document: str) -> dict[str, str]:
    """Write every block of a document that has a path above it; returns the texts by path."""
    blocks = dict(FILE_BLOCK.findall((ROOT / document).read_text(encoding="utf-8")))
    for name, text in blocks.items():
        path = project.path(name)
        assert not path.exists(), f"{document} would overwrite {name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return blocks
