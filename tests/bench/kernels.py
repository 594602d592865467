"""One thread's speed of every kernel level and weight type.

    python tests/bench/kernels.py [--levels avx512,avx2] [--types Q4_K,Q6_K]
                                  [--act int16] [--json]

GB/s: weight bytes per second of a product with one activation row, weights beyond the caches.
GOPS: 2 * M * N * K per second of a product with M = 512 rows. Each figure is the best of several
runs, since other work on the machine only ever slows one down; the first line is the same for a
plain read of memory (numpy), which bounds the GB/s.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "builder"), str(ROOT / "tests")]

import kernel_cases as cases  # noqa: E402
import numpy as np  # noqa: E402

K = 2048
STREAM_BYTES = 96 << 20
PREFILL = (512, 512)  # M, N


def best(work: Callable[[], object], seconds: float) -> float:
    """Shortest of at least three runs, for about this long."""
    work()
    shortest, runs, end = float("inf"), 0, time.perf_counter() + seconds
    while runs < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - begin)
        runs += 1
    return shortest


def decode_rate(
    ffi: Any, lib: Any, level: Any, kind: cases.WeightType, mode: int, seconds: float
) -> float:
    """GB/s of weights."""
    rng = np.random.default_rng(1)
    few = cases.random_weights(kind, 64, K, rng)
    weights = np.tile(few, (STREAM_BYTES // few.nbytes, 1))
    x = rng.standard_normal((1, K)).astype(np.float32)
    p = cases.Product(ffi, lib, kind, weights, x, mode)
    acts = p.acts(level)
    return weights.nbytes / best(lambda: p.run(level, acts), seconds) / 1e9


def prefill_rate(
    ffi: Any, lib: Any, level: Any, kind: cases.WeightType, mode: int, seconds: float
) -> float:
    """GOPS."""
    rows, n_out = PREFILL
    rng = np.random.default_rng(2)
    weights = cases.random_weights(kind, n_out, K, rng)
    x = rng.standard_normal((rows, K)).astype(np.float32)
    p = cases.Product(ffi, lib, kind, weights, x, mode)
    acts = p.acts(level)
    return 2 * rows * n_out * K / best(lambda: p.run(level, acts), seconds) / 1e9


def read_rate(seconds: float) -> float:
    data = np.ones(STREAM_BYTES // 8, np.int64)
    return data.nbytes / best(data.sum, seconds) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--levels", default="", help="comma-separated; default: all that run here")
    parser.add_argument("--types", default="", help="comma-separated; default: all")
    parser.add_argument("--seconds", type=float, default=0.5, help="per figure")
    parser.add_argument("--act", choices=["int8", "int16", "f32"], default="int8")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from llamapack import native

    loaded = native.load()
    ffi, lib = loaded.ffi, loaded.lib
    mode = {"int8": 0, "f32": 1, "int16": 2}[options.act]
    wanted = options.levels.split(",") if options.levels else []
    types = options.types.split(",") if options.types else cases.NAMES
    result: dict[str, Any] = {"read_gbps": round(read_rate(options.seconds), 1)}
    if not options.json:
        print(f"read {result['read_gbps']} GB/s")
    for level in cases.levels(lib):
        name = cases.name_of(ffi, level)
        if wanted and name not in wanted:
            continue
        for kind in (cases.BY_NAME[t] for t in types):
            figures = {
                "decode_gbps": round(decode_rate(ffi, lib, level, kind, mode, options.seconds), 2),
                "prefill_gops": round(
                    prefill_rate(ffi, lib, level, kind, mode, options.seconds), 1
                ),
            }
            result.setdefault(name, {})[kind.name] = figures
            if not options.json:
                line = f"{figures['decode_gbps']:7.2f} GB/s {figures['prefill_gops']:8.1f} GOPS"
                print(f"{name:8} {kind.name:5} {line}", flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
