"""Work that runs side by side in threads and outside programs, and stops as one.

At most as many jobs at a time as there are cores that this process may use. The first error, or
Ctrl-C, ends all: waiting jobs do not begin and the programs of running ones are killed, so that
nothing goes on in the background and nothing is left to wait for.

SPDX-License-Identifier: Apache-2.0
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

__all__ = ["Jobs", "cores"]


class Stopped(Exception):
    """A job that ends because another one failed; nobody gets to see it."""


def cores() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


class Jobs:
    """Use it in a `with` block: `submit` what is to be done, `run` until all of it is."""

    def __init__(self, workers: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(workers or cores())
        self._waiting: dict[Future[object], Callable[[], None] | None] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._programs: set[subprocess.Popen[str]] = set()
        self._failure: BaseException | None = None

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, *failure: object) -> None:
        if failure[0] is not None:
            self._end(None)
        self._pool.shutdown(cancel_futures=True)

    def submit(self, job: Callable[[], object], then: Callable[[], None] | None = None) -> None:
        """job runs in some thread; then (in the thread that called `run`) when it is done."""
        self._waiting[self._pool.submit(self._guarded, job)] = then

    def run(self) -> None:
        """Until nothing is left to do, also of what `then` functions submit; raises the first
        job's error."""
        while self._waiting:
            for future in wait(self._waiting, return_when=FIRST_COMPLETED).done:
                then = self._waiting.pop(future)
                if self._failure is not None:
                    raise self._failure
                if then is not None:
                    then()

    def _guarded(self, job: Callable[[], object]) -> object:
        if self._stop.is_set():
            raise Stopped
        try:
            return job()
        except BaseException as error:
            self._end(error)
            raise

    def call(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end and keeps what it says."""
        with self._program(command, folder, environment) as program:
            out, err = program.communicate()
            if self._stop.is_set():
                raise Stopped
            return subprocess.CompletedProcess(command, program.returncode, out, err)

    @contextlib.contextmanager
    def _program(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[str]]:
        with self._lock:
            if self._stop.is_set():
                raise Stopped
            program = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                # A group of its own, so that what it starts itself can be ended with it.
                process_group=0 if sys.platform != "win32" else None,
            )
            self._programs.add(program)
        try:
            yield program
        except BaseException:  # Ctrl-C while the main thread itself waits for it
            _kill(program)
            raise
        finally:
            with self._lock:
                self._programs.discard(program)
            program.wait()

    def _end(self, failure: BaseException | None) -> None:
        with self._lock:
            if not self._stop.is_set():
                self._failure = failure
            self._stop.set()
            for program in self._programs:
                _kill(program)


def _kill(program: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(OSError):
        if sys.platform != "win32":
            os.killpg(program.pid, signal.SIGKILL)
        else:
            program.kill()
