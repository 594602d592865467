"""kernels_x86_arm/quantize: the error of every block type against exhaustive searches in numpy, and
what happens to weights that are zero, tiny, huge or no numbers.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import kernel_cases as cases
import numpy as np
import pytest
from gguf import GGMLQuantizationType as QType
from llamapack import toolchain
from llamapack.targets import find_target

F32 = cases.F32
F64 = np.float64
KINDS = ["Q4_0", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
OK, NOT_FINITE, TOO_LARGE = 0, 1, 2


def size_of(kind: str) -> tuple[int, int]:
    length, size = gguf.GGML_QUANT_SIZES[QType[kind]]
    return length, size


@pytest.fixture(scope="session")
def quantize(lib: Any, ffi: Any) -> Callable[..., cases.U8]:
    def run(kind: str, weights: np.ndarray, source: str = "F32", code: int = OK) -> cases.U8:
        """Blocks as rows of bytes; with another code expected, [index of the bad element]."""
        raw = np.ascontiguousarray(weights)
        n = raw.nbytes // size_of(source)[1] * size_of(source)[0]
        length, size = size_of(kind)
        out = np.zeros((n // length, size), np.uint8)
        bad = ffi.new("size_t *")
        got = lib.lp_quantize(
            QType[kind].value,
            QType[source].value,
            ffi.from_buffer(raw),
            ffi.from_buffer(out),
            n,
            bad,
        )
        assert got == code
        return np.array([bad[0]]) if code else out

    return run


def values(kind: str, blocks: cases.U8) -> F32:
    return gguf.quants.dequantize(blocks, QType[kind])


def weights(name: str, n: int) -> F32:
    rng = np.random.default_rng(3)
    match name:
        case "gaussian":
            x = rng.standard_normal(n)
        case "heavy":
            x = rng.standard_t(3, n)
        case "uniform":
            x = rng.uniform(-1, 1, n)
        case _:  # single large weights, and blocks of very different size
            x = rng.standard_normal(n) * np.repeat(np.exp(rng.normal(0, 1.5, n // 16)), 16)
            x[rng.random(n) < 0.005] *= 20
    return (0.02 * x).astype(np.float32)


DRAWS = ["gaussian", "heavy", "uniform", "uneven"]


def squared(a: F32, b: F32) -> np.ndarray:
    return ((a.astype(F64) - b.astype(F64)) ** 2).sum(axis=-1)


# --- the error -------------------------------------------------------------------------------


def best_scale(x: F32, low: int, high: int) -> float:
    """The least squared error of d * q over every binary16 d that could be meant."""
    halves = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(F64)
    most = np.abs(x).max()
    d = halves[(halves > most / (3 * high)) & (halves < 2.5 * most / high)]
    d = np.concatenate([d, -d])[:, None]
    q = np.clip(np.rint(x / d), low, high)
    return float(((x - d * q) ** 2).sum(axis=1).min())


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("kind", "half"), [("Q4_0", 8), ("Q5_0", 16)])
def test_within_two_percent_of_the_best_scale(
    kind: str, half: int, draw: str, quantize: Callable[..., cases.U8]
) -> None:
    x = weights(draw, 32 * 64).reshape(-1, 32)
    mine = squared(values(kind, quantize(kind, x)), x)
    best = np.array([best_scale(row.astype(F64), -half, half - 1) for row in x])
    assert (mine >= best * (1 - 1e-5)).all()  # else the search above is not exhaustive
    assert mine.sum() <= 1.02 * best.sum()
    assert np.median(mine / best) <= 1.005


def rounded_q8(x: F32) -> F32:
    d = (np.abs(x).max(axis=1, keepdims=True) / np.float32(127)).astype(np.float16)
    return np.clip(np.rint(x / d.astype(np.float32)), -127, 127) * d


@pytest.mark.parametrize("draw", DRAWS)
def test_q8_0_is_no_worse_than_rounding(draw: str, quantize: Callable[..., cases.U8]) -> None:
    """In any block, to the scale that its largest weight asks for."""
    x = weights(draw, 32 * 512).reshape(-1, 32)
    mine = squared(values("Q8_0", quantize("Q8_0", x)), x)
    assert (mine <= squared(rounded_q8(x), x) * (1 + 1e-5)).all()


def best_step(x: F32, low: int, high: int) -> float:
    """The least error of step * q with a real step."""
    step = np.abs(x).max() / np.linspace(0.7 * high, 1.6 * high, 1500)
    step = np.concatenate([step, -step])[:, None]
    q = np.clip(np.rint(x / step), low, high)
    return float(((x**2).sum() - (q @ x) ** 2 / (q**2).sum(axis=1)).min())


def best_line(x: F32, high: int) -> float:
    """The least error of offset + step * q with real numbers, offset <= 0."""
    least, most = min(x.min(), 0), x.max()
    ends = np.linspace(-0.75, 2, 45) * (most - least) / high
    low, top = np.meshgrid(least + ends, most - ends)
    step = ((top - low) / high).reshape(-1, 1)
    q = np.clip(np.rint((x - low.reshape(-1, 1)) / step), 0, high)
    centred, y = q - q.mean(axis=1, keepdims=True), x - x.mean()
    return float(((y**2).sum() - (centred @ y) ** 2 / (centred**2).sum(axis=1)).min())


@pytest.mark.parametrize("draw", DRAWS[:3])
@pytest.mark.parametrize(
    ("kind", "run", "bound"), [("Q4_K", 32, 1.06), ("Q5_K", 32, 1.15), ("Q6_K", 16, 1.12)]
)
def test_block_scales_cost_little(
    kind: str, run: int, bound: float, draw: str, quantize: Callable[..., cases.U8]
) -> None:
    """Against every run of a block having a step and an offset of its own in full precision,
    which no stored block can beat by more than luck."""
    x = weights(draw, 256 * 8).reshape(-1, 256)
    mine = squared(values(kind, quantize(kind, x)), x).sum()
    runs = x.astype(F64).reshape(-1, run)
    if kind == "Q6_K":
        best = sum(best_step(row, -32, 31) for row in runs)
    else:
        best = sum(best_line(row, 15 if kind == "Q4_K" else 31) for row in runs)
    assert mine <= bound * best
    assert mine >= 0.97 * best


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q5_1", "Q8_0"])
def test_no_worse_than_the_gguf_package(
    kind: str, draw: str, quantize: Callable[..., cases.U8]
) -> None:
    x = weights(draw, 32 * 512).reshape(-1, 32)
    mine = squared(values(kind, quantize(kind, x)), x)
    theirs = squared(values(kind, gguf.quants.quantize(x, QType[kind])), x)
    assert (mine <= theirs * 1.02).all()
    assert mine.sum() < 0.99 * theirs.sum()


# --- what weights may be ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_odd_weights(kind: str, quantize: Callable[..., cases.U8]) -> None:
    """Finite, and never worse than leaving the weights out."""
    rng = np.random.default_rng(4)
    noise = rng.standard_normal(256)
    spike = np.zeros(256)
    spike[77] = -3
    rows = {
        "zeros": np.zeros(256),
        "minus zero": -np.zeros(256),
        "subnormal floats": noise * 1e-41,
        "below binary16": noise * 1e-10,
        "around its least": noise * 6e-8,
        "subnormal scales": noise * 1e-5,
        "positive": np.abs(noise) + 1,
        "negative": -np.abs(noise) - 1,
        "spike": spike,
        "a huge among tiny": np.where(np.arange(256) == 5, 1e4, noise * 1e-4),
        "large": noise * 1e4,
        "to the limit": np.clip(noise, -1, 1) * 65504,
        "two runs": np.where(np.arange(256) < 128, noise, noise * 1e-6),
    }
    for name, row in rows.items():
        x = row.astype(np.float32).reshape(-1, size_of(kind)[0])
        got = values(kind, quantize(kind, x))
        assert np.isfinite(got).all(), name
        energy = (x.astype(F64) ** 2).sum()
        assert squared(got, x).sum() <= energy * (1 + 1e-9), name
        if name in ("subnormal scales", "positive", "negative", "large", "to the limit"):
            assert squared(got, x).sum() <= 0.02 * energy, name
        if name.endswith(("zeros", "zero", "floats", "below binary16")):
            assert not got.any(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [1.0, -1.0, 0.0371, -123.4, 3e-6, -3e-6])
def test_constant_blocks(kind: str, constant: float, quantize: Callable[..., cases.U8]) -> None:
    x = np.full((1, 256), constant, np.float32).reshape(-1, size_of(kind)[0])
    got = values(kind, quantize(kind, x))
    # A scale of 6e-8 * n is all that binary16 has down there.
    assert np.abs(got - x).max() <= max(abs(constant) * 2e-3, 4e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_no_numbers_are_found(kind: str, quantize: Callable[..., cases.U8]) -> None:
    x = weights("gaussian", 1024)
    for at in (0, 255, 256, 1023):
        for value, code in [
            (np.inf, NOT_FINITE),
            (-np.inf, NOT_FINITE),
            (np.nan, NOT_FINITE),
            (3e38, TOO_LARGE),
            (-1e7, TOO_LARGE),
        ]:
            spoilt = x.copy()
            spoilt[at] = value
            assert quantize(kind, spoilt, code=code) == [at]


def test_what_can_be_a_target(lib: Any) -> None:
    assert [k.name for k in QType if lib.lp_can_quantize(k.value)] == KINDS


# --- the same bytes --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_types_of_the_source(kind: str, quantize: Callable[..., cases.U8]) -> None:
    """What counts is the values, in whatever type they come, and not how calls divide them."""
    x = weights("heavy", 2048)
    half = x.astype(np.float16)
    brain = (x.view(np.uint32) >> 16).astype(np.uint16)
    eight = gguf.quants.quantize(x, QType.Q8_0)
    for source, raw, same in [
        ("F16", half, half.astype(np.float32)),
        ("BF16", brain, (brain.astype(np.uint32) << 16).view(np.float32)),
        ("Q8_0", eight, values("Q8_0", eight)),
    ]:
        assert np.array_equal(quantize(kind, raw, source), quantize(kind, same))
    parts = [quantize(kind, part) for part in np.split(x, [256, 1024])]
    assert np.array_equal(np.concatenate(parts), quantize(kind, x))


@pytest.mark.qemu
def test_another_processor_gives_the_same_bytes(
    tool: Callable[[str], str], quantize: Callable[..., cases.U8], tmp_path: Path
) -> None:
    """A static ARM64 program under qemu: no libm, no fused operations, no order of its own."""
    qemu = tool("qemu")
    tree, target = toolchain.find_tree(), find_target("linux-aarch64")
    sources = [
        source
        for source in toolchain.sources_for(tree, target.arch, windows=False, quantizers=True)
        if source.name.startswith(toolchain.QUANTIZERS) or source.path.name == "qtype.c"
    ]
    driver = Path(__file__).with_name("quantize_driver.c")
    sources.append(toolchain.Source(driver, driver.name, ("-O2",)))
    objects = toolchain.compile_all(tree, sources, toolchain.runtime_flags(target), strict=True)
    program = tmp_path / "driver"
    program.write_bytes(
        toolchain.link(objects, ("-target", target.triple, "-fPIE", *target.link_flags), "driver")
    )
    program.chmod(0o755)
    x = np.concatenate([weights(draw, 2048) for draw in DRAWS])
    for kind in KINDS:
        done = subprocess.run(
            [qemu, str(program), str(QType[kind].value)],
            input=x.tobytes(),
            capture_output=True,
            check=True,
        )
        assert done.stdout == quantize(kind, x).tobytes(), kind
