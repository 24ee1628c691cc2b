"""The processes of one run on several devices: started, joined, watched, and ended together.

Process 0 is the job itself; the others are ``python -m pipeline.train.launch``, which it starts. It tells them on
their standard input what to do, and they answer on their standard output; both are lifelines too: a process whose
input ends leaves, so that nobody outlives a killed job, and one that ends early ends the run in one line. They meet at
a port of the loopback interface that the system chooses. Imports torch only when it is needed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError, RunError

if TYPE_CHECKING:
    from pipeline.train.world import World

END = "end\n"
SETTLE_S = 0.5  # in which the ends of several processes are told apart
GRACE_S = 10.0  # for what must end by itself, before it is made to
PATIENCE = timedelta(days=7)  # of processes that wait for each other: a dead one is noticed otherwise
LOOPBACK = {"linux": "lo", "darwin": "lo0"}


@contextmanager
def processes(job: dict[str, Any], size: int, work: Path, log: Callable[[str], None]) -> Iterator[World]:
    """Yield the world of a run; its other processes work at `job` until the block ends.

    Args:
        job: JSON; keyword arguments of `pipeline.train.engine.take_part`, paths as text.
        size: processes of the run.
        work: an existing folder; what process k has to say in its last words goes to ``process-<k>.log`` there.
        log: takes one line of text.

    Raises:
        RunError: for fewer GPUs than processes, unless there is none, and when another process fails or ends.
    """
    if size == 1:
        yield _world(0, 1)
        return
    first = _world(0, size)
    team = _Team(job, size, work, log)
    try:
        team.join(first)
        yield first
    except Exception as error:
        team.ending.set()
        failure = None if isinstance(error, PipelineError) else team.failure(isinstance(error, RuntimeError))
        if failure is None:
            raise
        raise failure from None
    else:
        team.ending.set()
        team.dismiss(first)
    finally:
        team.close()


class _Team:
    """The other processes, as process 0 sees them."""

    def __init__(self, job: dict[str, Any], size: int, work: Path, log: Callable[[str], None]) -> None:
        from torch import distributed

        self.ending = threading.Event()
        self._log = log
        self._changed = threading.Condition()
        self._store = distributed.TCPStore(  # type: ignore[attr-defined]
            "127.0.0.1", 0, size, is_master=True, wait_for_workers=False, timeout=PATIENCE
        )
        self._others: list[_Other] = []
        if sys.platform in LOOPBACK:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
        for rank in range(1, size):
            other = _Other(rank, work / f"process-{rank}.log")
            self._others.append(other)
            threading.Thread(target=self._follow, args=(other,), daemon=True).start()
            other.tell(json.dumps({"rank": rank, "size": size, "port": self._store.port, "job": job}) + "\n")

    def join(self, world: World) -> None:
        """Meet all others; RunError when one of them ends before."""
        with self._changed:
            self._changed.wait_for(lambda: all(other.ready or other.status is not None for other in self._others))
        failure = self.failure(False)
        if failure is not None:
            raise failure
        _meet(world, self._store)

    def failure(self, wait: bool) -> Exception | None:
        """Why another process has ended, the first cause of all that are known; with `wait`, one may be about to."""
        with self._changed:
            self._changed.wait_for(self._any_ended, GRACE_S / 2 if wait else 0)
        if not self._any_ended():
            return None
        time.sleep(SETTLE_S)
        return min((other for other in self._others if other.status is not None), key=_Other.importance).failure()

    def dismiss(self, world: World) -> None:
        """Let the others end now that the run is complete."""
        from torch import distributed

        for other in self._others:
            other.tell(END)
        distributed.destroy_process_group()
        deadline = time.monotonic() + GRACE_S
        with self._changed:
            self._changed.wait_for(
                lambda: all(other.status is not None for other in self._others), deadline - time.monotonic()
            )

    def close(self) -> None:
        """End whoever is left."""
        from torch import distributed

        self.ending.set()
        for other in self._others:
            other.process.kill()
        for other in self._others:
            other.process.wait()
        if distributed.is_initialized() and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()

    def _any_ended(self) -> bool:
        return any(other.status is not None for other in self._others)

    def _follow(self, other: _Other) -> None:
        """In a thread: take in what a process says and how it ends.

        Where the job does not notice that end, because it waits on a GPU for one that is no more, it is ended here.
        """
        assert other.process.stdout is not None
        for line in other.process.stdout:
            with self._changed, suppress(ValueError):  # half a line of one that was killed
                other.said |= json.loads(line)
                self._changed.notify_all()
        status = other.process.wait()
        with self._changed:
            other.status = status
            self._changed.notify_all()
        if not self.ending.wait(GRACE_S):
            self._log(f"error: {' '.join(str(self.failure(False)).split())}")
            os._exit(1)


class _Other:
    """Another process of the run."""

    def __init__(self, rank: int, words: Path) -> None:
        self.rank = rank
        self.words = words
        self.said: dict[str, Any] = {}
        self.status: int | None = None
        with open(words, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pipeline.train.launch"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # an interrupt from the terminal is the job's alone
            )

    @property
    def ready(self) -> bool:
        """Whether it is about to meet the others."""
        return "ready" in self.said

    def tell(self, line: str) -> None:
        """Write a line to it; one that has ended is noticed elsewhere."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def importance(self) -> int:
        """Low for causes, high for consequences: the others of a process that dies lose their connection."""
        assert self.status is not None
        return 0 if "error" in self.said else 1 if self.status < 0 else 2

    def failure(self) -> Exception:
        """How it ended, for people."""
        assert self.status is not None
        if "error" in self.said:
            return RunError(self.said["error"])
        if "traceback" in self.said:
            return RuntimeError(f"in process {self.rank} of the run:\n{self.said['traceback']}")
        how = f"ended with status {self.status}"
        if self.status < 0:
            how = f"was ended by signal {-self.status} ({signal.Signals(-self.status).name})"
        return RunError(
            f"process {self.rank} of the run (pid {self.process.pid}) {how}; start the run again, it resumes from its "
            f"last saved epoch; what it said is in {self.words}"
        )


def _world(rank: int, size: int) -> World:
    """The place of process `rank`; RunError for fewer GPUs than processes, unless there is none."""
    import torch

    from pipeline.train.world import World

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus == 0:
        return World(torch.device("cpu"), rank, size)
    if size == 1:
        return World(torch.device("cuda"))
    if gpus < size:
        raise RunError(f"the run asks for devices: {size}, and {gpus} GPU{'s are' if gpus > 1 else ' is'} visible")
    torch.cuda.set_device(rank)
    return World(torch.device("cuda", rank), rank, size)


def _meet(world: World, store: Any) -> None:
    from torch import distributed

    backend = "gloo" if world.device.type == "cpu" else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=PATIENCE)


def main() -> None:
    """Be one of the other processes: take the job from standard input, do it, say on standard output what fails."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    orders = sys.stdin
    given = json.loads(orders.readline() or "null")
    done = threading.Event()
    threading.Thread(target=_listen, args=(orders, done), daemon=True).start()

    def answer(**words: Any) -> None:
        print(json.dumps(words), file=answers, flush=True)

    try:
        _work(given, lambda: answer(ready=True))
        done.wait()
        _part()
    except PipelineError as error:
        answer(error=str(error))
        os._exit(1)
    except BaseException:
        answer(traceback=traceback.format_exc())
        os._exit(1)


def _listen(orders: Any, done: threading.Event) -> None:
    """In a thread: leave at once when the job has ended, and in a while when the run is complete."""
    if orders.readline() == END:
        done.set()
        time.sleep(GRACE_S)
    os._exit(1)


def _work(given: dict[str, Any], ready: Callable[[], None]) -> None:
    from torch import distributed

    from pipeline.train.engine import take_part

    world = _world(given["rank"], given["size"])
    ready()
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", given["port"], given["size"], is_master=False, timeout=PATIENCE
    )
    _meet(world, store)
    take_part(**given["job"], world=world)


def _part() -> None:
    from torch import distributed

    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
