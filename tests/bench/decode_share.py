"""Share of the machine's read bandwidth that products with one activation row get.

    python tests/bench/decode_share.py [--threads 2] [--types Q4_0,Q4_K,Q6_K,Q8_0] [--k 2048]
                                       [--rounds 20] [--json]

All threads multiply at once, each its part of weights beyond the caches, between two runs of the
read probe. A round counts when its probes agree within 10 %; figures are medians of those. "cached"
is the same product with weights that stay in the L2 cache, times the threads: more than that the
instructions do not allow.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "builder"), str(ROOT / "tests"), str(Path(__file__).resolve().parent)]

import kernel_cases as cases  # noqa: E402
import numpy as np  # noqa: E402
from probes import Probes  # noqa: E402

STREAM_BYTES = 128 << 20  # of all threads
CACHED_BYTES = 256 << 10
SECONDS = 0.1


class Decode:
    """Weights of one type and the product of them that threads share."""

    def __init__(self, ffi: Any, lib: Any, level: Any, kind: cases.WeightType, k: int) -> None:
        rng = np.random.default_rng(1)
        few = cases.random_weights(kind, 64, k, rng)
        weights = np.tile(few, (STREAM_BYTES // few.nbytes, 1))
        x = rng.standard_normal((1, k)).astype(np.float32)
        self.level, self.row_bytes, self.rows = level, few.shape[1], len(weights)
        self.product = cases.Product(ffi, lib, kind, weights, x, 0)
        self.acts = self.product.acts(level)

    def calls(self, columns: tuple[int, int]) -> Callable[[], None]:
        """The product of these weight rows, without what Python adds to it."""
        task, out, keep = self.product.task(self.acts)
        scratch = cases.aligned(self.level.matmul_scratch)
        place = self.product.ffi.from_buffer(scratch)

        def call(_keep: Any = (out, keep, scratch)) -> None:
            self.level.matmul(task, *columns, place)

        return call

    def rate(self, threads: int) -> float:
        """GB/s of weights; a thread takes its part again and again until SECONDS are over."""
        done = [0.0] * threads
        start = threading.Barrier(threads)
        part = self.rows // threads

        def work(index: int) -> None:
            call = self.calls((index * part, (index + 1) * part))
            start.wait()
            begin, runs = time.perf_counter(), 0
            while runs == 0 or time.perf_counter() - begin < SECONDS:
                call()
                runs += 1
            done[index] = runs * part * self.row_bytes / (time.perf_counter() - begin) / 1e9

        workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(done)

    def cached_rate(self) -> float:
        """GB/s of one thread over weights that it has just read."""
        rows, best = CACHED_BYTES // self.row_bytes, float("inf")
        call = self.calls((0, rows))
        for _ in range(2000):
            begin = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - begin)
        return rows * self.row_bytes / best / 1e9


def measure(decode: Decode, probes: Probes, threads: int, rounds: int) -> dict[str, Any]:
    counted = []
    for _ in range(rounds):
        before = probes.measure()["read_gbps"]
        rate = decode.rate(threads)
        after = probes.measure()["read_gbps"]
        assert before is not None
        assert after is not None
        if abs(before - after) <= 0.1 * max(before, after):
            counted.append((rate, (before + after) / 2))
    row: dict[str, Any] = {"counted": len(counted), "rounds": rounds}
    if counted:
        row["gbps"] = round(statistics.median(rate for rate, _ in counted), 1)
        row["probe_gbps"] = round(statistics.median(probe for _, probe in counted), 1)
        row["share"] = round(statistics.median(rate / probe for rate, probe in counted), 3)
    row["cached_gbps"] = round(decode.cached_rate() * threads, 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--types", default="Q4_0,Q4_K,Q6_K,Q8_0")
    parser.add_argument("--k", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from llamapack import native

    loaded = native.load()
    ffi, lib = loaded.ffi, loaded.lib
    level = cases.levels(lib)[0]
    result: dict[str, Any] = {"level": cases.name_of(ffi, level), "k": options.k}
    with Probes(options.threads) as probes:
        for name in options.types.split(","):
            decode = Decode(ffi, lib, level, cases.BY_NAME[name], options.k)
            row = measure(decode, probes, options.threads, options.rounds)
            result[name] = row
            if not options.json:
                print(name, *(f"{key} {value}" for key, value in row.items()), flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
