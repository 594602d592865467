"""Weights, activations and calls that the kernel tests and benchmarks share.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class WeightType:
    name: str
    id: int
    block: int  # elements
    size: int  # bytes
    halves: tuple[int, ...]  # where f16 scales stand in a block

    def row_bytes(self, n: int) -> int:
        return n // self.block * self.size


TYPES = [
    WeightType("F32", 0, 1, 4, ()),
    WeightType("F16", 1, 1, 2, ()),
    WeightType("BF16", 30, 1, 2, ()),
    WeightType("Q4_0", 2, 32, 18, (0,)),
    WeightType("Q4_1", 3, 32, 20, (0, 2)),
    WeightType("Q5_0", 6, 32, 22, (0,)),
    WeightType("Q5_1", 7, 32, 24, (0, 2)),
    WeightType("Q8_0", 8, 32, 34, (0,)),
    WeightType("Q2_K", 10, 256, 84, (80, 82)),
    WeightType("Q3_K", 11, 256, 110, (108,)),
    WeightType("Q4_K", 12, 256, 144, (0, 2)),
    WeightType("Q5_K", 13, 256, 176, (0, 2)),
    WeightType("Q6_K", 14, 256, 210, (208,)),
]
BY_NAME = {kind.name: kind for kind in TYPES}
NAMES = [kind.name for kind in TYPES]
INTEGER_NAMES = [kind.name for kind in TYPES if kind.block > 1]


def random_weights(kind: WeightType, rows: int, n: int, rng: np.random.Generator) -> U8:
    """(rows, row_bytes): every bit pattern of the quants, scales of a sane size."""
    if kind.name == "F32":
        return rng.standard_normal((rows, n)).astype(np.float32).view(np.uint8)
    if kind.name == "F16":
        return rng.standard_normal((rows, n)).astype(np.float16).view(np.uint8)
    if kind.name == "BF16":
        top = rng.standard_normal((rows, n)).astype(np.float32).view(np.uint32) >> 16
        return top.astype(np.uint16).view(np.uint8)
    blocks = rng.integers(0, 256, (rows, n // kind.block, kind.size), dtype=np.uint8)
    for at in kind.halves:
        scale = rng.uniform(0.001, 0.02, blocks.shape[:2]) * rng.choice([-1, 1], blocks.shape[:2])
        blocks[:, :, at : at + 2] = scale.astype(np.float16)[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def dequantized(kind: WeightType, weights: U8) -> F32:
    """By the gguf package, which knows nothing of our code."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return np.asarray(dequantize(weights, GGMLQuantizationType(kind.id)), np.float32)


def levels(lib: Any) -> list[Any]:
    """The levels that this machine can run, best first; ref is the last."""
    found = [lib.lp_kernels_at(i) for i in range(lib.lp_kernels_count())]
    return [level for level in found if lib.lp_kernels_runs_here(level)]


def name_of(ffi: Any, level: Any) -> str:
    return str(ffi.string(level.name).decode())


def has_fma(ffi: Any, level: Any) -> bool:
    return name_of(ffi, level) not in ("ref", "sse2", "avx")


def aligned(size: int) -> U8:
    """Uninitialized bytes on a 64-byte border."""
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


class Product:
    """Weights, activations and what is needed to multiply them on any level."""

    def __init__(
        self, ffi: Any, lib: Any, kind: WeightType, weights: U8, x: F32, mode: int
    ) -> None:
        self.ffi, self.lib, self.kind = ffi, lib, kind
        self.weights, self.x = weights, np.ascontiguousarray(x, np.float32)
        self.act_kind = lib.lp_act_kind_for(kind.id, mode)
        self.n_out, self.n_in = weights.shape[0], x.shape[1]

    def act_bytes(self, level: Any) -> int:
        return int(level.act_bytes(self.act_kind, self.x.shape[0], self.n_in))

    def acts(self, level: Any, room: U8 | None = None) -> U8:
        """The activations as the level stores them, in `room` or memory of their own."""
        rows = self.x.shape[0]
        acts = aligned(self.act_bytes(level)) if room is None else room
        level.quantize_acts(
            self.act_kind,
            self.ffi.from_buffer("float[]", self.x),
            self.x.shape[1],
            rows,
            0,
            rows,
            self.n_in,
            self.ffi.from_buffer(acts),
        )
        return acts

    def task(self, acts: U8, rows: list[int] | None = None, pad: int = 0) -> tuple[Any, F32, Any]:
        """A product's description, its output, and what else has to be kept while it is used."""
        ffi = self.ffi
        count = self.x.shape[0] if rows is None else len(rows)
        out = np.full((count, self.n_out + pad), np.nan, np.float32)
        row_list = ffi.new("int32_t[]", rows) if rows is not None else ffi.NULL
        task = ffi.new(
            "lp_matmul *",
            {
                "type": self.kind.id,
                "weights": ffi.from_buffer(self.weights),
                "row_bytes": self.weights.shape[1],
                "n_in": self.n_in,
                "n_out": self.n_out,
                "kind": self.act_kind,
                "acts": ffi.from_buffer(acts),
                "n_rows": self.x.shape[0],
                "row_list": row_list,
                "n_list": count,
                "out": ffi.from_buffer("float[]", out),
                "out_stride": out.shape[1],
            },
        )
        return task, out, (row_list, acts)

    def run(
        self,
        level: Any,
        acts: U8 | None = None,
        rows: list[int] | None = None,
        columns: tuple[int, int] | None = None,
        pad: int = 0,
        scratch: U8 | None = None,
    ) -> F32:
        """(rows, n_out); columns not computed and padding stay NaN."""
        ffi = self.ffi
        acts = self.acts(level) if acts is None else acts
        task, out, _keep = self.task(acts, rows, pad)
        scratch = aligned(level.matmul_scratch) if scratch is None else scratch
        begin, end = columns or (0, self.n_out)
        level.matmul(task, begin, end, ffi.from_buffer(scratch))
        return out


def dequantized_acts(
    lib: Any, act_kind: int, acts: U8, rows: int, n: int
) -> npt.NDArray[np.float64]:
    """What the quantized activations stand for, as (rows, n)."""
    if act_kind == lib.LP_ACT_KIND_F32:
        return acts.view(np.float32).reshape(rows, -1)[:, :n].astype(np.float64)
    if act_kind == lib.LP_ACT_KIND_BF16:
        words = acts.view(np.uint16).reshape(rows, -1)[:, :n].astype(np.uint32) << 16
        return words.view(np.float32).astype(np.float64)
    if act_kind in (lib.LP_ACT_KIND_I16_32, lib.LP_ACT_KIND_I16_256):
        narrow = (
            lib.LP_ACT_KIND_I8_32 if act_kind == lib.LP_ACT_KIND_I16_32 else lib.LP_ACT_KIND_I8_256
        )
        halves = dequantized_acts(lib, narrow, acts, 2 * rows, n)
        return np.asarray(halves[::2] + halves[1::2])
    if act_kind == lib.LP_ACT_KIND_I8_32:
        fields = [("d", "<f4"), ("s", "<f4"), ("correction", "<i4"), ("q", "i1", (32,))]
    else:
        fields = [("d", "<f4"), ("owed", "<i4", (16,)), ("sums", "<i2", (16,))]
        fields += [("sums32", "<i2", (8,)), ("q", "i1", (256,))]
    blocks = acts.view(np.dtype(fields)).reshape(rows, -1)
    scaled = blocks["d"][..., None].astype(np.float64) * blocks["q"]
    return np.asarray(scaled.reshape(rows, n))
