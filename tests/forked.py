"""Processes for tests that kill: each is forked from one that has imported everything, so it starts at once.

    with Forks() as forks:
        scheduler = forks.start("scheduler", "--port", "0", ...)

A process is the real command line of Dask or of coseis with the network of `fake_network`, in a session of
its own. Three seconds of imports a process would make sixty runs take minutes.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ENDS_S = 120.0
"""A process that has not ended by then hangs."""
TICK_S = 0.02
PR_SET_PDEATHSIG = 1
"""Of <sys/prctl.h>."""


@dataclass
class Fork:
    """One process."""

    pid: int
    out: Path
    ended: threading.Event = field(default_factory=threading.Event)
    code: int | None = None
    """Exit code, or minus the signal that killed it."""

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal, unless the process has ended."""
        with suppress(ProcessLookupError):
            if not self.ended.is_set():
                os.kill(self.pid, number)

    def kill_session(self) -> None:
        """Ends the process and all that it started."""
        with suppress(ProcessLookupError):
            if not self.ended.is_set() and os.getsid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout_s: float = ENDS_S) -> int:
        assert self.ended.wait(timeout_s), f"it hangs; it said {self.said()!r}"
        assert self.code is not None
        return self.code

    def said(self) -> str:
        """Standard output and standard error."""
        return self.out.read_text()


class Cluster:
    """A scheduler and its workers, two threads each."""

    def __init__(
        self,
        forks: "Forks",
        folder: Path,
        *,
        workers: int = 2,
        options: tuple[object, ...] = ("--no-nanny",),
        **environment: object,
    ) -> None:
        self._forks, self._options, self._environment = forks, options, environment
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        address = self._folder / "scheduler.json"
        self.scheduler = forks.start(
            "scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", address,
            **environment,
        )  # fmt: skip
        until(lambda: address.exists() and address.read_text().endswith("}"), "the scheduler")
        self.address = json.loads(address.read_text())["address"]
        self.workers = [self.add_worker() for _ in range(workers)]
        self.lost = 0

    def add_worker(self) -> Fork:
        return self._forks.start(
            "worker", self.address, "--nthreads", 2, "--no-dashboard", "--local-directory", self._folder,
            *self._options, **self._environment,
        )  # fmt: skip

    def tend(self) -> bool:
        """Starts a worker for each that has died, as a nanny or Kubernetes would."""
        for number, worker in enumerate(self.workers):
            if worker.ended.is_set():
                self.lost += 1
                self.workers[number] = self.add_worker()
        return True

    def close(self) -> None:
        for fork in (*self.workers, self.scheduler):
            fork.kill()


class Forks:
    """Starts processes, and ends those that are left."""

    def __init__(self, folder: Path, *, real: bool = False) -> None:
        """With `real` the network is the model's own."""
        self._folder, self._all, self._lock = folder, dict[int, Fork](), threading.Lock()
        self._server = subprocess.Popen(
            [sys.executable, __file__, *(["real"] if real else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started: list[Fork] = []
        self._answer = threading.Condition()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_: object) -> None:
        for fork in self._all.values():
            fork.kill_session()
        for fork in self._all.values():
            fork.wait()
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait(10)
        self._listener.join()
        assert self._server.stdout
        self._server.stdout.close()

    def start(self, what: str, *words: object, **environment: object) -> Fork:
        """`map` and other commands of coseis, `scheduler` or `worker` of Dask, with more environment."""
        with self._lock:
            out = self._folder / f"{len(self._all)}.txt"
            order = {
                "what": what,
                "words": [str(word) for word in words],
                "out": str(out),
                "environment": {name: str(value) for name, value in environment.items()},
            }
            assert self._server.stdin
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            with self._answer:
                assert self._answer.wait_for(lambda: self._started, 60), "the server of forks is gone"
                fork = self._started.pop()
            fork.out = out
            return fork

    def _listen(self) -> None:
        assert self._server.stdout
        for line in self._server.stdout:
            event, pid, code = json.loads(line)
            if event == "started":
                fork = self._all[pid] = Fork(pid, Path())
                with self._answer:
                    self._started.append(fork)
                    self._answer.notify()
            else:
                self._all[pid].code = code
                self._all[pid].ended.set()


def until(true: Callable[[], object], what: str, timeout_s: float = ENDS_S) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(TICK_S)


def _serve() -> None:
    """Reads orders, forks, says who was started and who ended."""
    # What makes threads when it is imported must not be: a fork has one thread.
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    import distributed.cli.dask_scheduler
    import distributed.cli.dask_worker

    import coseis.cli
    import coseis.pipeline
    import fake_network

    if "real" not in sys.argv:
        fake_network.install()
    assert threading.active_count() == 1, threading.enumerate()
    commands = {
        "scheduler": distributed.cli.dask_scheduler.main,
        "worker": distributed.cli.dask_worker.main,
    }
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    lock = threading.Lock()

    def say(*event: object) -> None:
        with lock:
            channel.write(json.dumps(event) + "\n")

    def reap(pid: int) -> None:
        say("ended", pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(order, commands, coseis.cli.main)
        say("started", pid, None)
        threading.Thread(target=reap, args=(pid,), daemon=True).start()
    # Those that are left have been killed, and are being reaped.


def _become(order: dict, commands: dict, coseis_main: Callable[[], None]) -> None:
    import dask

    os.setsid()
    # Nothing is left of a test run that is killed itself.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    file = os.open(order["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order["environment"])
    dask.config.refresh()
    code = 0
    try:
        if command := commands.get(order["what"]):
            command(order["words"], standalone_mode=False)
        else:
            sys.argv = ["coseis", order["what"], *order["words"]]
            coseis_main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    _run_exit_handlers()
    os._exit(code)


def _run_exit_handlers() -> None:
    """As at the end of any process, but for the threads of the server, which this one has not."""
    import atexit
    import logging

    threading._shutdown()
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    _serve()
