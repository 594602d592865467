"""Compiles and asks probes.c; keeps its busy neighbours.

    with Probes(threads=2) as probes:
        probes.measure()            # {"read_gbps": 38.1, "int8_gops": 1870.0, ...}
        with probes.neighbours(2):  # two processes that do nothing but spin
            ...

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "builder")]

FLAGS = ("-std=c11", "-O2", "-mcpu=native", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wconversion")


class Probes:
    """A process that answers, with its memory touched, for as long as the measurements last."""

    def __init__(self, threads: int, milliseconds: int = 100) -> None:
        self.threads, self.milliseconds = threads, milliseconds

    def __enter__(self) -> Probes:
        from llamapack import toolchain

        self._folder = tempfile.TemporaryDirectory(prefix="llamapack-probes-")
        folder = Path(self._folder.name)
        self._program = folder / "probes"
        # Not through the cache of objects: what -mcpu=native means is not part of its key.
        source = str(HERE / "probes.c")
        arguments = ["cc", *FLAGS, source, "-o", str(self._program), "-lpthread"]
        toolchain.run_zig(arguments, folder, "compiling the probes")
        self._process = subprocess.Popen(
            [str(self._program), str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.measure()  # the first one also brings in its memory
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def measure(self) -> dict[str, float | None]:
        """Rates by name; None where the machine lacks the instructions."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self.milliseconds}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("error: the probes ended; is there memory for 128 MiB a thread?")
        rates: dict[str, float | None] = json.loads(line)
        return rates

    @contextmanager
    def neighbours(self, n: int) -> Iterator[None]:
        """n spinning processes for as long as the block runs."""
        processes = [subprocess.Popen([str(self._program), "spin"]) for _ in range(n)]
        try:
            yield
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()
