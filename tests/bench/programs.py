"""The programs that are measured: how each is asked for a test, and how its answer is read.

All evaluate random tokens: our `bench` command, and the `llama-bench` of llama.cpp and of
ik_llama.cpp. A program has ways of running (flash attention, run-time repack); the judge finds out
which is its best for a test.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Tokens of prompt from which on a peer's warm-up costs much and changes nothing: it would double the
# run, and the pages that it maps are a tenth of a second of half a minute.
COLD_FROM = 4096


class Failed(Exception):
    """A program did not measure what it was asked for; one line that says why."""


@dataclass(frozen=True)
class Test:
    """`n` tokens of prompt ("pp") or generated one by one ("tg"), behind `depth` tokens."""

    kind: str
    n: int
    depth: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind}{self.n}" + (f"@{self.depth}" if self.depth else "")

    @property
    def tokens(self) -> int:
        return self.n + self.depth

    @classmethod
    def parse(cls, text: str) -> Test:
        """pp512, tg64, tg32@4096"""
        found = re.fullmatch(r"(pp|tg)([1-9]\d*)(?:@(\d+))?", text)
        if not found:
            raise ValueError(f"a test is pp512, tg64 or tg32@4096 (behind 4096 tokens), not {text}")
        return cls(found[1], int(found[2]), int(found[3] or 0))


@dataclass(frozen=True)
class Run:
    samples: list[float]  # tokens/s of each repetition
    anonymous: int  # bytes: largest RssAnon seen, the weights' mapped pages not among them
    seconds: float  # the whole process

    @property
    def tps(self) -> float:
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Program:
    """An executable, and what the record calls it."""

    name: str
    path: Path

    def ways(self, test: Test) -> list[tuple[str, ...]]:
        """The sets of options to try for the best; empty if it cannot do this test."""
        del test
        return [()]

    def command(
        self, model: Path, test: Test, way: tuple[str, ...], threads: int, repeat: int
    ) -> list[str]:
        raise NotImplementedError

    def samples(self, output: str, test: Test) -> list[float]:
        raise NotImplementedError

    def run(self, model: Path, test: Test, way: tuple[str, ...], threads: int, repeat: int) -> Run:
        done = execute(self.command(model, test, way, threads, repeat))
        try:
            samples = self.samples(done.output, test)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Failed(f"{self.path.name}: cannot read its answer ({error!r})") from None
        if not samples or min(samples) <= 0:
            raise Failed(f"{self.path.name}: no figures in its answer")
        return Run(samples, done.anonymous, done.seconds)


@dataclass(frozen=True)
class Llamapack(Program):
    """Our executable; with the weights of -m, so that one serves for all models."""

    act: str = "int8"
    level: str = ""  # of instructions; empty: its choice

    def command(
        self, model: Path, test: Test, way: tuple[str, ...], threads: int, repeat: int
    ) -> list[str]:
        prompt, predict = (test.n, 0) if test.kind == "pp" else (0, test.n)
        sizes = ["-p", prompt, "-n", predict, "-r", repeat, "-t", threads]
        if test.depth:
            sizes += ["-d", test.depth]
        if self.level:
            sizes += ["--cpu", self.level]
        command = [self.path, "bench", "-m", model, *sizes, "--act", self.act, "--json", *way]
        return [str(word) for word in command]

    def samples(self, output: str, test: Test) -> list[float]:
        answer = json.loads(output)
        return [answer["prefill_tps" if test.kind == "pp" else "decode_tps"]]


class LlamaCpp(Program):
    """llama-bench of llama.cpp."""

    def ways(self, test: Test) -> list[tuple[str, ...]]:
        del test
        return [("-fa", "0"), ("-fa", "1")]

    def command(
        self, model: Path, test: Test, way: tuple[str, ...], threads: int, repeat: int
    ) -> list[str]:
        prompt, predict = (test.n, 0) if test.kind == "pp" else (0, test.n)
        sizes = ["-p", prompt, "-n", predict, "-d", test.depth, "-r", repeat, "-t", threads]
        cold = ["--no-warmup"] if test.kind == "pp" and test.n >= COLD_FROM else []
        command = [self.path, "-m", model, *sizes, "-o", "json", *cold, *way]
        return [str(word) for word in command]

    def samples(self, output: str, test: Test) -> list[float]:
        (row,) = json.loads(output)
        expected = (test.n, 0) if test.kind == "pp" else (0, test.n)
        if (row["n_prompt"], row["n_gen"], row["n_depth"]) != (*expected, test.depth):
            raise ValueError("another test than the one asked for")
        return [float(value) for value in row["samples_ts"]]


class IkLlamaCpp(Program):
    """llama-bench of ik_llama.cpp, an older relative: depth is its test -gp, for decode only."""

    def ways(self, test: Test) -> list[tuple[str, ...]]:
        if test.depth and test.kind == "pp":
            return []
        return [("-fa", fa, "-rtr", rtr) for rtr in "01" for fa in "01"]

    def command(
        self, model: Path, test: Test, way: tuple[str, ...], threads: int, repeat: int
    ) -> list[str]:
        sizes: list[object] = ["-p", test.n, "-n", 0]
        if test.kind == "tg":
            sizes = ["-p", 0, "-n", test.n]
        if test.depth:
            sizes = ["-p", 0, "-n", 0, "-gp", f"{test.depth},{test.n}"]
        cold = ["-w", "0"] if test.kind == "pp" and test.n >= COLD_FROM else []
        sizes += ["-r", repeat, "-t", threads]
        command = [self.path, "-m", model, *sizes, "-o", "json", *cold, *way]
        return [str(word) for word in command]

    def samples(self, output: str, test: Test) -> list[float]:
        # Notices may stand before the JSON.
        (row,) = json.loads(output[output.index("[\n") :])
        expected = (test.n, 0) if test.kind == "pp" else (test.depth, test.n)
        if (row["n_prompt"], row["n_gen"]) != expected:
            raise ValueError("another test than the one asked for")
        return [float(value) for value in row["samples_ts"]]


@dataclass(frozen=True)
class Done:
    output: str
    anonymous: int
    seconds: float


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process; 0 once it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def execute(command: list[str], poll: float = 0.05) -> Done:
    """Runs to the end, looking at its memory now and then; Failed with its last words."""
    begin = time.perf_counter()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from None
    peak = 0
    try:
        while True:
            try:
                output, complaint = process.communicate(timeout=poll)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, anonymous_bytes(process.pid))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        last = (complaint.strip() or output.strip() or "no message").splitlines()[-1]
        name = Path(command[0]).name
        raise Failed(f"{name} ended with status {process.returncode}: {last}")
    return Done(output, peak, time.perf_counter() - begin)


def find(path: Path, program: str = "llama-bench") -> Path:
    """The program itself, or the directory (or build tree) that it is in."""
    for candidate in (path, path / program, path / "bin" / program):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.resolve()
    raise Failed(f"{path}: neither a program nor a directory with {program}")


def describe(program: Program) -> dict[str, Any]:
    """What a published record says of a program; no directory of this machine."""
    return {
        "name": program.name,
        "file": program.path.name,
        "bytes": program.path.stat().st_size,
    }
