"""Every kernel level that runs here against ref and against numpy, for every weight type.

Three independent statements: ref equals numpy over the gguf package's dequantized weights; the
levels equal ref; and a row's result does not depend on how the work was cut.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from typing import Any

import kernel_cases as cases
import numpy as np
import numpy.typing as npt
import pytest
from llamapack.native import Native, load_kernels_without_tiles

INT8, FLOAT, INT16 = 0, 1, 2


def modes_of(kind: cases.WeightType) -> list[int]:
    """Those that make something else of the activations."""
    if kind.block > 1:
        return [INT8, INT16, FLOAT]
    return [INT8, FLOAT] if kind.name == "BF16" else [INT8]


def lengths(kind: cases.WeightType) -> list[int]:
    """K: one block, odd counts, more than one panel; for floats every rest of 16."""
    if kind.block == 256:
        return [256, 768, 2304]
    if kind.block == 32:
        return [32, 96, 576, 2592]
    return [1, 3, 15, 16, 17, 40, 255, 769, 2049, 2500, 4097]


def product(
    lib: Any, ffi: Any, name: str, mode: int, n_out: int, n_in: int, rows: int, seed: int
) -> cases.Product:
    rng = np.random.default_rng([seed, n_in, rows, n_out])
    kind = cases.BY_NAME[name]
    x = rng.standard_normal((rows, n_in)) * rng.choice([0.01, 1, 30], (rows, 1))
    weights = cases.random_weights(kind, n_out, n_in, rng)
    return cases.Product(ffi, lib, kind, weights, x.astype(np.float32), mode)


@pytest.fixture(scope="module")
def kernels(native: Native) -> Native:
    """With AMX's tiles in C where this processor has none, so that what is made of them is tested."""
    names = [cases.name_of(native.ffi, level) for level in cases.levels(native.lib)]
    return native if "amx" in names or "avx512" not in names else load_kernels_without_tiles()


@pytest.fixture(scope="module")
def lib(kernels: Native) -> Any:
    return kernels.lib


@pytest.fixture(scope="module")
def ffi(kernels: Native) -> Any:
    return kernels.ffi


# --- the levels ------------------------------------------------------------------------------


def test_levels_by_name(lib: Any, ffi: Any) -> None:
    why = ffi.new("char **")
    names = [cases.name_of(ffi, lib.lp_kernels_at(i)) for i in range(lib.lp_kernels_count())]
    assert names[-1] == "ref"
    assert len(set(names)) == len(names)
    assert len(names) >= 3
    assert lib.lp_kernels_at(len(names)) == ffi.NULL
    for index, name in enumerate(names):
        level = lib.lp_kernels_select(name.encode(), why)
        if lib.lp_kernels_runs_here(lib.lp_kernels_at(index)):
            assert level == lib.lp_kernels_at(index)
            assert len(ffi.string(level.description)) > 10
        else:
            assert level == ffi.NULL
            assert b"cannot run" in ffi.string(why[0])
    assert lib.lp_kernels_select(b"sse9", why) == ffi.NULL
    assert b"no such" in ffi.string(why[0])


def test_best_level_is_default(lib: Any, ffi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMAPACK_CPU", raising=False)
    assert lib.lp_kernels_select(ffi.NULL, ffi.NULL) == cases.levels(lib)[0]


# --- matrix products -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"), [(kind.name, mode) for kind in cases.TYPES for mode in modes_of(kind)]
)
def test_matmul(lib: Any, ffi: Any, name: str, mode: int) -> None:
    """ref against numpy, the levels against ref, those with fma against each other bit by bit."""
    for n_in, rows in zip(lengths(cases.BY_NAME[name]), itertools.cycle([1, 2, 5, 13, 40])):
        p = product(lib, ffi, name, mode, 37, n_in, rows, 1)
        levels = cases.levels(lib)
        ref = levels[-1]
        acts = cases.dequantized_acts(lib, p.act_kind, p.acts(ref), rows, n_in)
        weights = cases.dequantized(p.kind, p.weights).astype(np.float64)
        limit = 1e-5 * (np.abs(acts) @ np.abs(weights).T) + 1e-30
        expected = p.run(ref)
        assert (np.abs(expected - acts @ weights.T) <= limit).all(), (n_in, rows)
        alike = [level for level in levels[:-1] if not adds_otherwise(ffi, lib, p, level)]
        fused = [p.run(level) for level in alike if cases.has_fma(ffi, level)]
        for level in levels[:-1]:
            got = p.run(level)
            assert (np.abs(got - expected) <= limit).all(), (cases.name_of(ffi, level), n_in, rows)
            if level not in alike:
                continue
            same = fused[0] if cases.has_fma(ffi, level) else expected
            assert np.array_equal(got, same), (cases.name_of(ffi, level), n_in, rows)


def adds_otherwise(ffi: Any, lib: Any, p: cases.Product, level: Any) -> bool:
    return cases.name_of(ffi, level) == "amx" and bool(p.act_kind == lib.LP_ACT_KIND_BF16)


def sums_of_tiles(acts: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> cases.F32:
    """TDPBF16PS's order, by Intel's manual: of 32 elements the even ones and the odd ones by fma, and
    both sums onto what there is. Products of bfloats are exact as doubles, and so are these sums."""
    missing = -acts.shape[1] % 32
    x, w = (np.pad(a, ((0, 0), (0, missing))) for a in (acts, weights))
    total = np.zeros((len(x), len(w)), np.float32)
    for begin in range(0, x.shape[1], 32):
        parts = np.zeros((2, len(x), len(w)), np.float32)
        for k in range(begin, begin + 32):
            parts[k % 2] = parts[k % 2] + x[:, k, None] * w[None, :, k]
        total += parts[0] + parts[1]
    return total


@pytest.mark.parametrize("rows", [1, 3, 16, 17, 40])
def test_bfloats_by_tiles(lib: Any, ffi: Any, rows: int) -> None:
    level = lib.lp_kernels_select(b"amx", ffi.NULL)
    if level == ffi.NULL:
        pytest.skip("optional: neither tiles nor AVX-512 to stand in for them")
    for n_in, n_out in ((1, 5), (31, 16), (64, 33), (545, 75), (2080, 18)):
        p = product(lib, ffi, "BF16", INT8, n_out, n_in, rows, 4)
        ref = cases.levels(lib)[-1]
        acts = cases.dequantized_acts(lib, p.act_kind, p.acts(ref), rows, n_in)
        weights = cases.dequantized(p.kind, p.weights).astype(np.float64)
        assert np.array_equal(p.run(level), sums_of_tiles(acts, weights)), (n_in, n_out)


def integer_sums(kind: cases.WeightType, weights: cases.U8, acts: npt.NDArray[np.int64]) -> Any:
    """Exact sums for blocks whose d is 1 and m or dmin is 0, by the gguf package's values."""
    return acts @ cases.dequantized(kind, weights).astype(np.int64).T


@pytest.mark.parametrize("name", cases.INTEGER_NAMES)
def test_integer_sums_are_exact(lib: Any, ffi: Any, name: str) -> None:
    """With all scales 1 an output is its block's integer sum, rounded once."""
    kind = cases.BY_NAME[name]
    rng = np.random.default_rng(3)
    one, zero = (np.array([v], np.float16).view(np.uint8) for v in (1, 0))
    for rows in (1, 2, 3, 4, 8, 40):
        weights = cases.random_weights(kind, 40, kind.block, rng)
        weights[1:4] = np.array([255, 0, 128], np.uint8)[:, None]
        for at, value in zip(kind.halves, (one, zero), strict=False):
            weights[:, at : at + 2] = value
        x = rng.integers(-127, 128, (rows, kind.block))
        x[0] = 127
        x[-1, :] = rng.choice([-127, 127], kind.block)
        x[:, 0] = 127  # so that the scale of the activations is 1 as well
        p = cases.Product(ffi, lib, kind, weights, x.astype(np.float32), INT8)
        expected = integer_sums(kind, weights, x.astype(np.int64)).astype(np.float32)
        for level in cases.levels(lib):
            assert np.array_equal(p.run(level), expected), (cases.name_of(ffi, level), rows)


@pytest.mark.parametrize(
    ("name", "n_in", "mode"),
    [
        (kind.name, n_in, mode)
        for kind in cases.TYPES
        for mode in modes_of(kind)
        for n_in in {  # whole lines; the end of a second stretch
            "F32": [531, 1088],
            "F16": [531, 1567],
            "BF16": [531, 2112, 2083],
        }.get(kind.name, [512, 1792] if mode == FLOAT else [512, 1056 // kind.block * kind.block])
    ],
)
def test_result_does_not_depend_on_the_cut(
    lib: Any, ffi: Any, name: str, n_in: int, mode: int
) -> None:
    """Batch size, row lists, ranges of columns and strides leave every bit as it is."""
    for level in cases.levels(lib):
        p = product(lib, ffi, name, mode, 75, n_in, 40, 5)
        acts = p.acts(level)
        whole = p.run(level, acts)
        where = cases.name_of(ffi, level)
        for count in range(1, 21):
            rows = list(range(40 - count, 40))
            assert np.array_equal(p.run(level, acts, rows), whole[rows]), (where, count)
        rows = [7, 7, 0, 39, 3]
        assert np.array_equal(p.run(level, acts, rows), whole[rows]), where
        assert p.run(level, acts, []).shape == (0, 75)
        for width in (level.weight_row_group, 2 * level.weight_row_group):
            for row_list in (None, [11], [11, 3], [11, 3, 5, 7]):
                pieces = whole if row_list is None else whole[row_list]
                for begin in range(0, 75, width):
                    end = min(begin + width, 75)
                    out = p.run(level, acts, row_list, (begin, end), pad=5)
                    assert np.array_equal(out[:, begin:end], pieces[:, begin:end]), where
                    assert np.isnan(np.delete(out, np.s_[begin:end], axis=1)).all(), where


@pytest.mark.parametrize("mode", [INT8, INT16], ids=["int8", "int16"])
@pytest.mark.parametrize("name", cases.INTEGER_NAMES)
def test_few_rows_are_as_many(lib: Any, ffi: Any, name: str, mode: int) -> None:
    """Every rest of blocks that are taken together, and fewer weight rows than lanes."""
    block = cases.BY_NAME[name].block
    for blocks, n_out in itertools.product((5, 6, 7, 11), (5, 11)):
        p = product(lib, ffi, name, mode, n_out, blocks * block, 12, 15)
        for level in cases.levels(lib)[:-1]:
            acts = p.acts(level)
            whole = p.run(level, acts)  # twelve rows are many for every type
            for count in (1, 2, 3, 4, 8):
                rows = list(range(12 - count, 12))
                where = cases.name_of(ffi, level), blocks, n_out, count
                assert np.array_equal(p.run(level, acts, rows), whole[rows]), where


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, INT8) for name in ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "BF16")]
    + [("Q5_0", INT16), ("Q8_0", INT16), ("Q4_K", INT16)],
)
def test_strips_that_end_early(lib: Any, ffi: Any, name: str, mode: int) -> None:
    """More weights than the lanes' longest strips hold (STRIP_BYTES of matmul_task.inc)."""
    n_in = 8192
    longest = (256 << 10) // cases.BY_NAME[name].row_bytes(n_in)
    p = product(lib, ffi, name, mode, 8 * longest + 11, n_in, 12, 16)
    for level in cases.levels(lib)[:-1]:
        acts = p.acts(level)
        whole = p.run(level, acts)
        for rows in ([3], [11, 3], list(range(8))):
            assert np.array_equal(p.run(level, acts, rows), whole[rows]), cases.name_of(ffi, level)


@pytest.mark.parametrize(
    ("name", "mode"), [("Q4_0", INT8), ("Q6_K", INT8), ("BF16", INT8), ("F16", FLOAT)]
)
def test_streams_share_their_rows(lib: Any, ffi: Any, name: str, mode: int) -> None:
    """What a waiting thread asks for: pieces of the chunk, the last one maybe short or empty."""
    kind, n_in = cases.BY_NAME[name], 2048
    row_bytes = kind.row_bytes(n_in)
    apart = ffi.new("size_t *")
    for level in cases.levels(lib):
        for rows in (1, 7, 32, 448, 512, 2048):
            task = ffi.new("lp_matmul *")
            task.type, task.kind = kind.id, lib.lp_act_kind_for(kind.id, mode)
            task.n_in, task.n_out, task.row_bytes, task.n_rows = n_in, 4096, row_bytes, 1
            count = level.streams(task, 96, 96 + rows, apart)
            assert 1 <= count <= 64
            assert (count - 1) * apart[0] < rows + count
            if cases.name_of(ffi, level) != "ref":
                assert count > 1
                assert 1 <= apart[0] <= (256 << 10) // row_bytes


def test_many_rows_and_long_rows(lib: Any, ffi: Any) -> None:
    """More rows than a sweep holds, and more of K than a panel holds."""
    modes = [("Q8_0", INT16), ("Q4_K", INT16), ("F16", INT8), ("F32", INT8), ("BF16", INT8)]
    for name, mode in [("Q4_1", INT8), ("Q8_0", INT8), ("Q6_K", INT8), *modes]:
        blocks_of_32 = cases.BY_NAME[name].block == 32
        for n_in, rows in (
            (256, 1030),
            (1056 if blocks_of_32 else 1280, 530),
            (8192, 9),
            (70144, 3),
        ):
            p = product(lib, ffi, name, mode, 33, n_in, rows, 6)
            for level in cases.levels(lib)[:-1]:
                acts = p.acts(level)
                whole = p.run(level, acts)
                for row in (0, rows // 2, rows - 1):
                    assert np.array_equal(p.run(level, acts, [row])[0], whole[row])


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, INT8) for name in ("Q4_1", "Q8_0", "Q2_K", "Q4_K", "Q6_K", "BF16", "F16")]
    + [("Q5_0", INT16), ("Q5_K", INT16)],
)
def test_row_alone_is_as_among_many(lib: Any, ffi: Any, name: str, mode: int) -> None:
    """Activations of one row may be stored otherwise than those of many, and multiplied otherwise;
    more columns than are done together, and more of K."""
    for n_in, rows, n_out in ((2304, 45, 290), (256, 530, 40)):
        p = product(lib, ffi, name, mode, n_out, n_in, rows, 17)
        for level in cases.levels(lib)[:-1]:
            whole = p.run(level)
            for row in (0, 15, 31, 32, rows - 1):
                alone = cases.Product(ffi, lib, p.kind, p.weights, p.x[row : row + 1], mode)
                assert np.array_equal(alone.run(level)[0], whole[row]), (
                    cases.name_of(ffi, level),
                    n_in,
                    row,
                )


def test_quantized_activations(lib: Any, ffi: Any) -> None:
    """The same blocks on every level, by the formula in blocks.h; threads may split the rows."""
    rng = np.random.default_rng(8)
    x = (rng.standard_normal((5, 512)) * 3).astype(np.float32)
    x[1, :256] = 0
    x[2] *= 1e-32
    x[3, 40] = 1e4
    kind, levels = cases.BY_NAME["Q8_0"], cases.levels(lib)
    for block, name in ((32, "Q8_0"), (256, "Q6_K")):
        p = cases.Product(ffi, lib, cases.BY_NAME[name], np.zeros((1, 1), np.uint8), x, INT8)
        expected = p.acts(levels[-1])
        amax = np.abs(x.reshape(5, -1, block)).max(axis=2, keepdims=True)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            inverse = np.where(amax < 1e-30, 0, np.float32(127) / amax).astype(np.float32)
            q = np.rint(x.reshape(5, -1, block) * inverse).astype(np.float64)
        scale = np.where(amax < 1e-30, 0, amax / np.float32(127)).astype(np.float64)
        values = cases.dequantized_acts(lib, p.act_kind, expected, 5, 512)
        assert np.array_equal(values, (q * scale).reshape(5, 512))
        for level in levels:
            assert np.array_equal(p.acts(level), expected), cases.name_of(ffi, level)
    assert kind.block == 32


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K"])
def test_wide_activations(lib: Any, ffi: Any, name: str) -> None:
    """int16: the int8 blocks, and those of what they lack of x; to 1.6e-5 of a block's largest."""
    rng = np.random.default_rng(18)
    block = cases.BY_NAME[name].block
    x = (rng.standard_normal((5, 7 * 256)) * 10.0 ** rng.integers(-9, 9, (5, 1))).astype(np.float32)
    x[1, :256], x[2, 40] = 0, 1e4
    x[3] *= np.float32(1e-32)
    kind, levels = cases.BY_NAME[name], cases.levels(lib)
    narrow, wide = (
        cases.Product(ffi, lib, kind, np.zeros((1, 1), np.uint8), x, mode) for mode in (INT8, INT16)
    )
    for level in levels:
        acts = wide.acts(level)
        assert np.array_equal(acts, wide.acts(levels[-1])), cases.name_of(ffi, level)
    high = narrow.acts(levels[-1]).reshape(5, -1)
    assert np.array_equal(acts.reshape(5, 2, -1)[:, 0], high)
    values = cases.dequantized_acts(lib, wide.act_kind, acts, 5, x.shape[1])
    largest = np.abs(x).reshape(5, -1, block).max(axis=2, keepdims=True).astype(np.float64)
    error = np.abs(values - x).reshape(5, -1, block)
    assert (error <= 1.6e-5 * largest + 1e-30).all()


@pytest.mark.parametrize("kind_name", ["F32", "I8_32", "I8_256", "BF16", "I16_32", "I16_256"])
def test_room_for_activations(lib: Any, ffi: Any, kind_name: str) -> None:
    """A buffer for many rows is enough for fewer; rows converted one by one are those of all."""
    kind = getattr(lib, f"LP_ACT_KIND_{kind_name}")
    x = np.random.default_rng(21).standard_normal((70, 768)).astype(np.float32)
    for level in cases.levels(lib):
        sizes = [level.act_bytes(kind, rows, 768) for rows in range(1, 71)]
        assert sizes == sorted(sizes), cases.name_of(ffi, level)
        group = level.act_row_group
        for rows in (2, 11, 13, 33, 70):
            whole, pieces = (cases.aligned(sizes[rows - 1]) for _ in range(2))
            whole[:], pieces[:] = 0xEE, 0xEE
            for acts, step in ((whole, rows), (pieces, group)):
                for begin in range(0, rows, step):
                    end = min(begin + step, rows)
                    source, out = ffi.from_buffer("float[]", x), ffi.from_buffer(acts)
                    level.quantize_acts(kind, source, 768, rows, begin, end, 768, out)
            assert np.array_equal(whole, pieces), (cases.name_of(ffi, level), rows)


def test_bfloat_activations(lib: Any, ffi: Any) -> None:
    """The nearest bfloat, the even one of two, on every level; rows padded with zeros."""
    rng = np.random.default_rng(12)
    x = (rng.standard_normal((3, 77)) * 10.0 ** rng.integers(-20, 20, (3, 77))).astype(np.float32)
    x[0, :6] = [0, -0.0, 1e-40, 1 + 2**-8, 1 + 3 * 2**-8, -3e38]  # two ties
    below = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
    above = (below.view(np.uint32) + 0x10000).view(np.float32)
    wide = [a.astype(np.float64) for a in (x, below, above)]
    down, up = np.abs(wide[0] - wide[1]), np.abs(wide[2] - wide[0])
    odd = below.view(np.uint32) >> 16 & 1
    expected = np.where((up < down) | ((up == down) & (odd == 1)), above, below)
    expected[np.abs(x) < np.finfo(np.float32).tiny] = 0
    for level in cases.levels(lib):
        p = cases.Product(ffi, lib, cases.BY_NAME["BF16"], np.zeros((1, 2), np.uint8), x, INT8)
        acts = p.acts(level)
        values = cases.dequantized_acts(lib, p.act_kind, acts, 3, 77)
        assert np.array_equal(values, expected), cases.name_of(ffi, level)
        assert not acts.reshape(3, -1)[:, 2 * 77 :].any()


def test_hostile_values_do_no_harm(lib: Any, ffi: Any) -> None:
    """NaN, infinity and random bytes in place of scales: any result, but no crash."""
    rng = np.random.default_rng(9)
    for name in cases.NAMES:
        kind = cases.BY_NAME[name]
        weights = rng.integers(0, 256, (19, kind.row_bytes(512)), dtype=np.uint8)
        x = rng.standard_normal((7, 512)).astype(np.float32)
        x[0, ::7], x[1, 3], x[2, 5], x[3] = np.nan, np.inf, -np.inf, 3e38
        for level, mode in itertools.product(cases.levels(lib), (INT8, INT16, FLOAT)):
            p = cases.Product(ffi, lib, kind, weights, x, mode)
            assert p.run(level).shape == (7, 19)
            assert p.run(level, rows=[0]).shape == (1, 19)


class Guarded:
    """Bytes that end where an inaccessible page begins."""

    def __init__(self, data: cases.U8) -> None:
        page = mmap.PAGESIZE
        size = (data.size + page - 1) // page * page
        self.memory = mmap.mmap(-1, size + page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(start + size), page, 0) == 0
        self.data = np.frombuffer(self.memory, np.uint8, data.size, size - data.size)
        self.data[:] = data.reshape(-1)


@pytest.mark.parametrize("name", cases.NAMES)
def test_no_read_past_the_end(lib: Any, ffi: Any, name: str) -> None:
    kind = cases.BY_NAME[name]
    sizes = [kind.block, 3 * kind.block] if kind.block > 1 else [1, 5, 16, 21, 47, 64, 2083]
    cuts = [
        (n_in, rows, mode, 5) for n_in in sizes for rows in (1, 3, 9) for mode in modes_of(kind)
    ]
    cuts += [(2304, 9, mode, 69) for mode in modes_of(kind)]  # whole panels in the scratch
    cuts += [  # whole tiles and not, of activations too
        (17 * 32 if kind.block == 32 else 512, rows, mode, 35)
        for rows in (17, 33)
        for mode in modes_of(kind)
    ]
    for n_in, rows, mode, n_out in cuts:
        p = product(lib, ffi, name, mode, n_out, n_in, rows, 10)
        plain = p.weights
        for level in cases.levels(lib):
            expected = p.run(level)
            acts = Guarded(np.zeros(p.act_bytes(level), np.uint8))
            p.acts(level, acts.data)
            guarded = Guarded(plain)
            p.weights = guarded.data.reshape(plain.shape)
            scratch = Guarded(np.zeros(level.matmul_scratch, np.uint8))
            assert np.array_equal(p.run(level, acts.data, scratch=scratch.data), expected)
            out = np.empty(n_in, np.float32)
            for row in p.weights:
                level.dequantize_row(
                    kind.id, ffi.from_buffer(row), ffi.from_buffer("float[]", out), n_in
                )
            p.weights = plain


# --- attention -------------------------------------------------------------------------------


def q8_0(x: cases.F32) -> cases.U8:
    """By the gguf package."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return np.asarray(quantize(x, GGMLQuantizationType.Q8_0), np.uint8)


class Attention:
    """A cache of one sequence in shuffled blocks; what no position owns is NaN."""

    def __init__(
        self, lib: Any, ffi: Any, kv: str, dims: tuple[int, int], cap: float, n: int = 200
    ) -> None:
        self.lib, self.ffi, self.dims, self.cap = lib, ffi, dims, cap
        rng = np.random.default_rng([*dims, len(kv)])
        self.kv = {"f16": lib.LP_KV_F16, "f32": lib.LP_KV_F32, "q8_0": lib.LP_KV_Q8_0}[kv]
        kind = {"f16": np.float16, "f32": np.float32, "q8_0": np.uint8}[kv]
        self.n, block, step = n, 16, 3 if kv == "f16" else 1
        used = -(-n // block)
        table = rng.permutation(used + 3)[:used].astype(np.int32)
        stored = []
        for dim in dims:
            vectors = rng.standard_normal((self.n, dim)).astype(np.float32)
            stored.append(q8_0(vectors) if kv == "q8_0" else vectors.astype(kind))
        self.keys, self.values = (
            cases.dequantized(cases.BY_NAME["Q8_0"], v) if kv == "q8_0" else v for v in stored
        )
        self.queries = (rng.standard_normal((45, dims[0])) * 2).astype(np.float32)
        self.last = np.sort(rng.integers(0, self.n, 45))
        self.first = np.maximum(0, self.last - rng.choice([0, 20, 70, 540, 9999], 45))
        slots = table[np.arange(self.n) // block] * step * block + np.arange(self.n) % block
        self.caches = []
        for vectors, before in zip(stored, (3, 5), strict=True):
            unused = 0xFE if kv == "q8_0" else np.nan
            cache = np.full(
                ((used + 3) * step * block, before + vectors.shape[1] + 2), unused, kind
            )
            cache[slots, before : before + vectors.shape[1]] = vectors
            self.caches.append(cache)
        size = np.dtype(kind).itemsize
        self.task = ffi.new(
            "lp_attention *",
            {
                "kv_type": self.kv,
                "keys": ffi.from_buffer(self.caches[0].view(np.uint8)),
                "values": ffi.from_buffer(self.caches[1].view(np.uint8)),
                "key_slot_bytes": self.caches[0].strides[0],
                "value_slot_bytes": self.caches[1].strides[0],
                "key_head_offset": 3 * size,
                "value_head_offset": 5 * size,
                "table": ffi.from_buffer("int32_t[]", table),
                "table_step": step,
                "block_len": block,
                "head_dim": dims[0],
                "value_dim": dims[1],
                "scale": dims[0] ** -0.5,
                "softcap": cap,
            },
        )
        self.table = table

    def expected(self) -> npt.NDArray[np.float64]:
        out = np.empty((45, self.dims[1]))
        for i, (first, last) in enumerate(zip(self.first, self.last, strict=False)):
            keys = self.keys[first : last + 1].astype(np.float64)
            scores = keys @ self.queries[i].astype(np.float64) * self.dims[0] ** -0.5
            if self.cap:
                scores = self.cap * np.tanh(scores / self.cap)
            p = np.exp(scores - scores.max())
            out[i] = p / p.sum() @ self.values[first : last + 1].astype(np.float64)
        return out

    def scratch(self, level: Any) -> cases.U8:
        return cases.aligned(level.attention_scratch(*self.dims))

    def one_by_one(self, level: Any) -> cases.F32:
        out = np.empty((45, self.dims[1]), np.float32)
        scratch = self.scratch(level)
        for i in range(45):
            self.task.first, self.task.last = int(self.first[i]), int(self.last[i])
            q = self.ffi.from_buffer("float[]", self.queries[i])
            into = self.ffi.from_buffer("float[]", out[i])
            level.attention(self.task, q, into, self.ffi.from_buffer(scratch))
        return out

    def together(self, level: Any, order: list[int]) -> cases.F32:
        out = np.empty((45, self.dims[1]), np.float32)
        queries = [
            {
                "q": self.ffi.from_buffer("float[]", self.queries[i]),
                "out": self.ffi.from_buffer("float[]", out[i]),
                "first": int(self.first[i]),
                "last": int(self.last[i]),
            }
            for i in order
        ]
        array = self.ffi.new("lp_attention_query[]", queries)
        scratch = self.scratch(level)
        level.attention_many(self.task, array, len(order), self.ffi.from_buffer(scratch))
        return out


@pytest.mark.parametrize("cap", [0.0, 5.0])
@pytest.mark.parametrize(
    ("dims", "kv"),
    [(d, kv) for d in [(64, 64), (256, 256), (20, 12), (128, 96)] for kv in ("f16", "f32")]
    + [((64, 64), "q8_0"), ((128, 96), "q8_0")],
)
def test_attention(lib: Any, ffi: Any, dims: tuple[int, int], kv: str, cap: float) -> None:
    case = Attention(lib, ffi, kv, dims, cap)
    expected = case.expected()
    order = list(np.random.default_rng(4).permutation(45))
    apart = [int(np.argmin(case.last)), int(np.argmax(case.first))]
    assert case.last[apart[0]] + 2 * 16 < case.first[apart[1]]  # positions that nobody sees
    for level in cases.levels(lib):
        alone = case.one_by_one(level)
        assert np.abs(alone - expected).max() < 5e-6, cases.name_of(ffi, level)
        for queries in (list(range(45)), order, 4 * order, [*apart, *apart, *apart], order[:9]):
            together = case.together(level, queries)  # 4 * 45: more than a kernel takes at once
            assert np.array_equal(together[queries], alone[queries]), cases.name_of(ffi, level)


STRETCH = 512  # LP_ATTENTION_STRETCH


@pytest.mark.parametrize(
    ("dims", "kv"), [((64, 64), "f16"), ((20, 12), "f32"), ((128, 96), "q8_0")]
)
def test_attention_over_stretches(lib: Any, ffi: Any, dims: tuple[int, int], kv: str) -> None:
    """Also in parts: whoever sums the stretches, and beside whom, the bits are the same."""
    case = Attention(lib, ffi, kv, dims, 0.0, n=1300)
    case.last[:3], case.first[:3] = (511, 512, 1023), (0, 511, 512)  # on the borders
    case.last[3:5], case.first[3:5] = (100, 1290), (90, 1200)  # with a stretch between them
    expected = case.expected()
    assert lib.LP_ATTENTION_STRETCH == STRETCH
    floats = lib.lp_attention_part_floats(dims[1])
    stretches = [(a // STRETCH, b // STRETCH) for a, b in zip(case.first, case.last, strict=True)]
    assert {b - a for a, b in stretches} == {0, 1, 2}
    for level in cases.levels(lib):
        alone = case.one_by_one(level)
        assert np.abs(alone - expected).max() < 5e-6, cases.name_of(ffi, level)
        assert np.array_equal(case.together(level, list(range(45))), alone)
        assert np.array_equal(case.together(level, [3, 4])[[3, 4]], alone[[3, 4]])
        parts = np.full((45, 3, floats), np.nan, np.float32)
        scratch = case.scratch(level)
        for s in (1, 2, 0):
            rows = [i for i, (a, b) in enumerate(stretches) if a <= s <= b]
            for some in (rows[:2], rows[2:]):
                queries = [
                    {
                        "q": ffi.from_buffer("float[]", case.queries[i]),
                        "out": ffi.from_buffer("float[]", parts[i, s]),
                        "first": max(int(case.first[i]), s * STRETCH),
                        "last": min(int(case.last[i]), s * STRETCH + STRETCH - 1),
                    }
                    for i in some
                ]
                array = ffi.new("lp_attention_query[]", queries)
                level.attention_parts(case.task, array, len(some), ffi.from_buffer(scratch))
        for i, (a, b) in enumerate(stretches):
            out = np.empty(dims[1], np.float32)
            mine = ffi.from_buffer("float[]", parts[i, a : b + 1])
            level.attention_merge(mine, b - a + 1, dims[1], ffi.from_buffer("float[]", out))
            assert np.array_equal(out, alone[i]), (cases.name_of(ffi, level), i)


def test_store_kv_of_bytes(lib: Any, ffi: Any) -> None:
    """The nearest multiples of 1/127 of a block's largest value; the same bytes on every level."""
    rng = np.random.default_rng(13)
    x = (rng.standard_normal((8, 32)) * 10.0 ** rng.integers(-3, 4, (8, 1))).astype(np.float32)
    x[3] = 0
    levels = cases.levels(lib)
    stored = []
    for level in levels:
        out = np.zeros((8, 34), np.uint8)
        level.store_kv(lib.LP_KV_Q8_0, ffi.from_buffer("float[]", x), ffi.from_buffer(out), x.size)
        stored.append(out)
        assert np.array_equal(out, stored[0]), cases.name_of(ffi, level)
    values = cases.dequantized(cases.BY_NAME["Q8_0"], stored[0])
    step = np.abs(x).max(axis=1, keepdims=True) / 127
    assert (np.abs(values - x) <= step * (0.5 + 127 * 2.0**-11)).all()
    assert lib.lp_kv_bytes(lib.LP_KV_Q8_0, 256) == 8 * 34


@pytest.mark.parametrize("kv", ["f16", "f32"])
def test_store_kv_of_floats(lib: Any, ffi: Any, kv: str) -> None:
    rng = np.random.default_rng(12)
    kind = np.float16 if kv == "f16" else np.float32
    code = lib.LP_KV_F16 if kv == "f16" else lib.LP_KV_F32
    for n, level in itertools.product((1, 15, 16, 67), cases.levels(lib)):
        x = (rng.standard_normal(n) * 10.0 ** rng.integers(-7, 4, n)).astype(np.float32)
        out = np.zeros(n + 1, kind)
        into = ffi.from_buffer(out.view(np.uint8))
        level.store_kv(code, ffi.from_buffer("float[]", x), into, n)
        assert np.array_equal(out[:n], x.astype(kind))
        assert out[n] == 0


# --- element by element ----------------------------------------------------------------------

SIZES = [1, 2, 15, 16, 17, 31, 64, 100, 577]


def signal(n: int, spread: float = 4.0) -> cases.F32:
    x = np.random.default_rng(n).standard_normal(n) * spread
    x[0] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize("gate", ["silu_mul", "gelu_mul"])
def test_gates(lib: Any, ffi: Any, gate: str) -> None:
    for n, level in itertools.product(SIZES, cases.levels(lib)):
        x, up = signal(n), signal(n, 1.0)
        wide = x.astype(np.float64)
        power = wide if gate == "silu_mul" else np.sqrt(8 / np.pi) * (wide + 0.044715 * wide**3)
        expected = wide / (1 + np.exp(-power)) * up
        function = getattr(level, gate)
        function(ffi.from_buffer("float[]", x), ffi.from_buffer("float[]", up), n)
        # A rounding error of the power counts as often as the power is large.
        limit = (1e-6 + 2e-7 * np.abs(power)) * np.abs(expected) + 1e-25
        assert (np.abs(x - expected) <= limit).all(), cases.name_of(ffi, level)


def test_gates_at_the_ends(lib: Any, ffi: Any) -> None:
    ends = np.array([-np.inf, -1e30, -1000, -100, 100, 1000, 1e30, np.inf], np.float32)
    for level, gate in itertools.product(cases.levels(lib), ("silu_mul", "gelu_mul")):
        x, up = ends.copy(), np.ones(8, np.float32)
        getattr(level, gate)(ffi.from_buffer("float[]", x), ffi.from_buffer("float[]", up), 8)
        assert np.array_equal(x[4:], ends[4:]), cases.name_of(ffi, level)
        assert (np.abs(x[2:4]) < 1e-30).all(), cases.name_of(ffi, level)


@pytest.mark.parametrize("weighted", [False, True])
def test_rms_norm(lib: Any, ffi: Any, weighted: bool) -> None:
    for n, level in itertools.product(SIZES, cases.levels(lib)):
        x, weight = signal(n), signal(n, 1.0)
        wide = x.astype(np.float64)
        expected = wide / np.sqrt(np.mean(wide**2) + 1e-5) * (weight if weighted else 1)
        out = np.empty(n, np.float32)
        pointer = ffi.from_buffer("float[]", weight) if weighted else ffi.NULL
        buffers = [ffi.from_buffer("float[]", a) for a in (x, out)]
        level.rms_norm(buffers[0], pointer, 1e-5, buffers[1], n)
        assert np.allclose(out, expected, rtol=2e-6, atol=1e-9), cases.name_of(ffi, level)
        level.rms_norm(buffers[0], pointer, 1e-5, buffers[0], n)  # in place
        assert np.array_equal(out, x)


def test_add_scale_rope(lib: Any, ffi: Any) -> None:
    for n, level in itertools.product(SIZES, cases.levels(lib)):
        x, y = signal(n), signal(n + 1)[1:]
        expected = (x + y) * np.float32(0.37)
        level.add(ffi.from_buffer("float[]", x), ffi.from_buffer("float[]", y), n)
        level.scale(ffi.from_buffer("float[]", x), 0.37, n)
        assert np.array_equal(x, expected)
    for half, neox, level in itertools.product((1, 7, 16, 33), (True, False), cases.levels(lib)):
        x, angle = signal(2 * half + 3), signal(half)
        a = slice(0, half) if neox else slice(0, 2 * half, 2)
        b = slice(half, 2 * half) if neox else slice(1, 2 * half, 2)
        turn = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        expected = x.copy()
        expected[a] = x[a] * turn[:, 0] - x[b] * turn[:, 1]
        expected[b] = x[a] * turn[:, 1] + x[b] * turn[:, 0]
        level.rope(ffi.from_buffer("float[]", x), ffi.from_buffer("float[]", turn), 2 * half, neox)
        assert np.array_equal(x, expected), (cases.name_of(ffi, level), half, neox)


def test_max_sum_exp(lib: Any, ffi: Any) -> None:
    for n, level in itertools.product([*SIZES, 5000], cases.levels(lib)):
        x = signal(n)
        most, total = ffi.new("float *"), ffi.new("double *")
        level.max_sum_exp(ffi.from_buffer("float[]", x), n, most, total)
        assert most[0] == x.max()
        expected = np.exp(x.astype(np.float64) - x.max()).sum()
        assert abs(total[0] / expected - 1) < 2e-6, cases.name_of(ffi, level)
