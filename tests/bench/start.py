"""Cold start to first token and peak anonymous memory, beside another program on one model.

A part of judge.py (--start). "warm": the files are in the page cache; "cold": every page of
executable and model was dropped before (POSIX_FADV_DONTNEED). First token: from exec to the first
byte on standard output, or to the end where the first token has no text to show. Memory: the
largest RssAnon seen in /proc while it runs (read every 2 ms).

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from programs import Failed, anonymous_bytes

PROMPT = "The capital of France is"  # as it is, no template: both go on with a word
CONTEXT = 2048
CACHES = ("warm", "cold")


@dataclass(frozen=True)
class Starter:
    """A program that answers PROMPT with one token; the files it reads."""

    name: str
    command: tuple[str, ...]
    files: tuple[Path, ...]


def ours(name: str, path: Path, model: Path | None, threads: int, act: str) -> Starter:
    """Our executable, packed with the model, or given one by -m."""
    weights = ("-m", str(model)) if model else ()
    command = (str(path), *weights, *common(threads), "--raw", "--act", act)
    return Starter(name, command, (path, model) if model else (path,))


def llama_completion(path: Path, model: Path, threads: int) -> Starter:
    # --no-display-prompt: else its first byte is the prompt itself.
    own = ("-no-cnv", "--no-display-prompt", "--no-warmup")
    command = (str(path), "-m", str(model), *common(threads), *own)
    return Starter("llama.cpp", command, (path, model))


def common(threads: int) -> tuple[str, ...]:
    return ("-p", PROMPT, "-n", "1", "--temp", "0", "-c", str(CONTEXT), "-t", str(threads))


def drop_from_cache(files: Sequence[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(starter: Starter, cache: str) -> dict[str, Any]:
    """{"contender", "first_token" in seconds, "whole" in seconds, "anonymous" in bytes}"""
    if cache == "cold":
        drop_from_cache(starter.files)
    begin = time.perf_counter()
    process = subprocess.Popen(
        starter.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    first, peak = 0.0, 0
    try:
        while True:
            ready, _, _ = select.select([process.stdout], [], [], 0.002)
            peak = max(peak, anonymous_bytes(process.pid))
            if ready:
                if not os.read(process.stdout.fileno(), 65536):
                    break
                first = first or time.perf_counter() - begin
    except BaseException:
        process.kill()
        raise
    finally:
        process.stdout.close()
        status = process.wait()
    if status != 0:
        raise Failed(f"{Path(starter.command[0]).name} ended with status {status}")
    whole = time.perf_counter() - begin
    return {
        "contender": starter.name,
        "first_token": first or whole,
        "whole": whole,
        "anonymous": peak,
    }
