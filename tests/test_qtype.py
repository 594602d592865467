"""qtype.c: the type table and dequantization, against the gguf package.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from typing import Any

import kernel_cases as cases
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType


def test_table_matches_gguf(lib: Any, ffi: Any) -> None:
    for kind in GGMLQuantizationType:
        row = lib.lp_type_get(kind.value)
        assert row != ffi.NULL, kind.name
        assert ffi.string(row.name).decode() == kind.name
        # Q8_1 exists at run time only; the package's 40 bytes are of an older layout.
        if kind.name != "Q8_1":
            assert (row.block_len, row.block_bytes) == GGML_QUANT_SIZES[kind], kind.name
        assert row.can_compute == (kind.name in cases.NAMES), kind.name


def test_unknown_ids(lib: Any, ffi: Any) -> None:
    known = {kind.value for kind in GGMLQuantizationType} | {42}
    for number in [*range(64), 2**31, 2**32 - 1]:
        assert (lib.lp_type_get(number) != ffi.NULL) == (number in known), number


def test_row_bytes(lib: Any, ffi: Any) -> None:
    out = ffi.new("size_t *")
    q4_k = lib.lp_type_get(12)
    assert lib.lp_type_row_bytes(q4_k, 512, out)
    assert out[0] == 288
    assert not lib.lp_type_row_bytes(q4_k, 511, out)
    assert lib.lp_type_row_bytes(q4_k, 0, out)
    assert out[0] == 0
    assert not lib.lp_type_row_bytes(lib.lp_type_get(28), 2**62, out)


def values_of(lib: Any, ffi: Any, kind: cases.WeightType, blocks: cases.U8, n: int) -> cases.F32:
    out = np.empty(n, np.float32)
    lib.lp_dequantize(kind.id, ffi.from_buffer(blocks), ffi.from_buffer("float[]", out), n)
    return out


@pytest.mark.parametrize("name", cases.NAMES)
def test_dequantize_equals_gguf(lib: Any, ffi: Any, name: str) -> None:
    """Random quants, and scales that are subnormal, huge, zero and of either sign."""
    kind = cases.BY_NAME[name]
    rng = np.random.default_rng(1)
    n = 256 * 64
    weights = cases.random_weights(kind, 1, n, rng)
    blocks = weights.reshape(-1, kind.size)
    extremes = np.array([0.0, -0.0, 6e-8, -6e-8, 65504, -65504, 1, -1], np.float16)
    for at in kind.halves:
        blocks[: len(extremes), at : at + 2] = extremes[:, None].view(np.uint8)
    blocks[len(extremes)] = 0
    filled = len(extremes) + 1
    blocks[filled] = 255
    for at in kind.halves:
        blocks[filled, at : at + 2] = np.array([0.5], np.float16).view(np.uint8)
    if name == "F32":
        blocks[filled] = 0
    expected = cases.dequantized(kind, weights)[0]
    for level in [None, *cases.levels(lib)]:
        if level is None:
            got = values_of(lib, ffi, kind, weights, n)
        else:
            got = np.empty(n, np.float32)
            level.dequantize_row(
                kind.id, ffi.from_buffer(weights), ffi.from_buffer("float[]", got), n
            )
        assert np.array_equal(got, expected, equal_nan=True), level and cases.name_of(ffi, level)


def test_f16_to_f32_all(lib: Any) -> None:
    halves = np.arange(65536, dtype=np.uint16)
    got = np.array([lib.lp_f16_to_f32(int(h)) for h in halves], np.float32)
    assert np.array_equal(got, halves.view(np.float16).astype(np.float32), equal_nan=True)


def hard_floats() -> cases.F32:
    """Every half, its neighbours half a step away, and random bit patterns."""
    exact = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    exact = exact[np.isfinite(exact)]
    between = (exact[:-1].astype(np.float64) + exact[1:]).astype(np.float32) / 2
    random = np.random.default_rng(2).integers(0, 2**32, 50000, dtype=np.uint32).view(np.float32)
    near = np.nextafter(between, np.float32(np.inf))
    ends = np.array([np.inf, -np.inf, 65519.996, 65520], np.float32)
    return np.concatenate([exact, between, near, random, ends])


def test_f32_to_f16(lib: Any) -> None:
    x = hard_floats().astype(np.float32)
    got = np.array([lib.lp_f32_to_f16(v) for v in x], np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(np.float16)
    nan = np.isnan(x)
    assert np.array_equal(got[~nan], expected.view(np.uint16)[~nan])
    assert np.isnan(got.view(np.float16)[nan]).all()


def test_bf16(lib: Any) -> None:
    x = hard_floats().astype(np.float32)
    x = x[~np.isnan(x)]
    bits = x.view(np.uint32).astype(np.uint64)
    expected = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    got = np.array([lib.lp_f32_to_bf16(v) for v in x], np.uint16)
    assert np.array_equal(got, expected)
    assert np.isnan(lib.lp_bf16_to_f32(lib.lp_f32_to_bf16(float("nan"))))
    assert lib.lp_bf16_to_f32(0x3F80) == 1.0
