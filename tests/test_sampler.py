"""The sampler against its rules written in numpy, and its draws against their probabilities.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

Array = npt.NDArray[np.float32]
OFF = {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def parameters(native: Any, **given: Any) -> Any:
    p = native.ffi.new("lp_sampling *")
    native.lib.lp_sampling_default(p)
    for name, value in given.items():
        setattr(p, name, value)
    return p


@contextmanager
def sampler(native: Any, n_vocab: int, **given: Any) -> Iterator[Any]:
    out, err = native.ffi.new("lp_sampler **"), native.ffi.new("lp_error *")
    p = parameters(native, **given)
    assert native.lib.lp_sampler_open(out, p, n_vocab, err) == 0, native.ffi.string(err.text)
    yield out[0]
    native.lib.lp_sampler_close(out[0])


def draw(native: Any, s: Any, logits: Array) -> int:
    data = native.ffi.new("float[]", logits.size)
    native.ffi.memmove(data, logits.tobytes(), 4 * logits.size)
    return int(native.lib.lp_sampler_next(s, data))


def rule(logits: Array, temp: float, top_k: int, top_p: float, min_p: float) -> dict[int, float]:
    """The probability of every token that survives, by the rules as they are written down."""
    order = sorted(range(logits.size), key=lambda i: (-logits[i], i))
    kept = order[:top_k] if 0 < top_k < logits.size else order
    if top_p < 1:
        share = np.exp(logits[kept].astype(np.float64) - float(logits[kept[0]]))
        cumulative = np.cumsum(share) / share.sum()
        kept = kept[: int(np.searchsorted(cumulative, top_p)) + 1]
    if min_p > 0:
        least = float(logits[kept[0]]) + math.log(min_p)
        kept = [i for i in kept if logits[i] >= least]
    weight = np.exp((logits[kept].astype(np.float64) - float(logits[kept[0]])) / temp)
    return dict(zip(kept, weight / weight.sum(), strict=True))


@pytest.mark.parametrize(
    "chain",
    [
        {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"temp": 1.0, "top_k": 5, "top_p": 1.0, "min_p": 0.0},
        {"temp": 1.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0},
        {"temp": 0.5, "top_k": 12, "top_p": 1.0, "min_p": 0.0},
        {"temp": 1.0, "top_k": 0, "top_p": 0.7, "min_p": 0.0},
        {"temp": 1.7, "top_k": 0, "top_p": 0.95, "min_p": 0.0},
        {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.2},
        {"temp": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
        {"temp": 2.0, "top_k": 8, "top_p": 0.9, "min_p": 0.1},
        {"temp": 1.0, "top_k": 500, "top_p": 0.0, "min_p": 0.0},
        {"temp": 1.0, "top_k": 30, "top_p": 1.0, "min_p": 1.0},
    ],
)
def test_draws_follow_the_rule(native: Any, chain: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal(60) * 1.5).astype(np.float32)
    want = rule(logits, **chain)
    n = 6000
    with sampler(native, logits.size, seed=11, **chain) as s:
        counts = np.bincount([draw(native, s, logits) for _ in range(n)], minlength=logits.size)
    assert set(np.flatnonzero(counts)) <= set(want), "drew what the rule leaves out"
    chi = sum((counts[i] - n * p) ** 2 / (n * p) for i, p in want.items() if n * p >= 5)
    cells = sum(n * p >= 5 for p in want.values())
    # Mean cells - 1, deviation sqrt(2 cells): the seed is fixed, so this does not flicker.
    assert chi < cells + 4 * math.sqrt(2 * cells) + 4


def test_the_set_is_exact_in_a_large_vocabulary(native: Any) -> None:
    """At a high temperature every kept token turns up, and none else."""
    rng = np.random.default_rng(4)
    logits = rng.standard_normal(50_000).astype(np.float32)
    logits[rng.integers(0, logits.size, 2000)] = np.float32(3.25)  # many ties
    for chain in ({"top_k": 6}, {"top_k": 0, "top_p": 0.0005}, {"top_k": 300, "top_p": 0.05}):
        full: dict[str, Any] = {**OFF, **chain, "temp": 1000.0}
        want = set(rule(logits, **full))
        with sampler(native, logits.size, seed=1, **full) as s:
            got = {draw(native, s, logits) for _ in range(12 * len(want))}
        assert got == want, chain


def test_greedy(native: Any) -> None:
    logits = np.array([0, 2, 5, 5, -1], np.float32)
    with sampler(native, 5, temp=0.0) as s:
        assert [draw(native, s, logits) for _ in range(3)] == [2, 2, 2]
        assert draw(native, s, np.array([np.nan, -5, np.nan, -4, -np.inf], np.float32)) == 3
        assert draw(native, s, np.array([1, np.inf, 0, 0, 0], np.float32)) == 1


@pytest.mark.parametrize("chain", [{"temp": 0.0}, {}, OFF, {**OFF, "top_p": 0.5}])
def test_tables_without_numbers(native: Any, chain: dict[str, Any]) -> None:
    nan, inf = np.float32(np.nan), np.float32(np.inf)
    with sampler(native, 3, **chain) as s:
        assert draw(native, s, np.array([nan, nan, nan])) == 0
        assert draw(native, s, np.array([-inf, -inf, -inf])) == 0
        assert draw(native, s, np.array([nan, -inf, np.float32(-3e38)])) == 2
        assert draw(native, s, np.array([0, inf, inf], np.float32)) in (1, 2)
        for values in ([inf, nan, -inf], [3e38, -3e38, 3e38], [0, 0, 0]):
            assert 0 <= draw(native, s, np.array(values, np.float32)) < 3


def test_a_seed_repeats_and_another_differs(native: Any) -> None:
    logits = np.random.default_rng(0).standard_normal(1000).astype(np.float32)

    def run(seed: int) -> list[int]:
        with sampler(native, 1000, seed=seed, **OFF) as s:
            return [draw(native, s, logits) for _ in range(40)]

    assert run(7) == run(7)
    assert len({tuple(run(seed)) for seed in (0, 1, 2, 1 << 63)}) == 4


def penalised(
    logits: Array, recent: list[int], repeat: float, presence: float, frequency: float
) -> Array:
    out = logits.copy()
    for i in set(recent):
        out[i] = out[i] * repeat if out[i] <= 0 else out[i] / repeat
        out[i] -= recent.count(i) * frequency + presence
    return out


@pytest.mark.parametrize("last_n", [-1, 0, 1, 3, 64])
@pytest.mark.parametrize(
    ("repeat", "presence", "frequency"),
    [(1.3, 0.0, 0.0), (1.0, 0.7, 0.0), (1.0, 0.0, 0.4), (1.2, 0.3, 0.2), (0.8, -0.5, 0.0)],
)
def test_penalties(
    native: Any, last_n: int, repeat: float, presence: float, frequency: float
) -> None:
    rng = np.random.default_rng(6)
    history = [int(i) for i in rng.integers(0, 8, 30)]
    options = {
        "temp": 0.0,
        "repeat_last_n": last_n,
        "repeat_penalty": repeat,
        "presence_penalty": presence,
        "frequency_penalty": frequency,
    }
    with sampler(native, 10, **options) as s:
        for i, token in enumerate(history):
            native.lib.lp_sampler_accept(s, token)
            seen = history[: i + 1]
            recent = seen if last_n < 0 else seen[-last_n:] if last_n else []
            logits = rng.standard_normal(10).astype(np.float32)
            want = penalised(logits, recent, repeat, presence, frequency)
            assert draw(native, s, logits) == int(want.argmax())
        native.lib.lp_sampler_accept(s, -1)  # ids that cannot be are ignored
        native.lib.lp_sampler_accept(s, 10)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("temp", math.nan),
        ("temp", -2.0),
        ("temp", math.inf),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", 1.5),
        ("min_p", math.nan),
        ("repeat_penalty", 0.0),
        ("repeat_penalty", math.inf),
        ("presence_penalty", math.nan),
        ("frequency_penalty", math.inf),
        ("repeat_last_n", -2),
        ("repeat_last_n", (1 << 31) - 1),
    ],
)
def test_refuses(native: Any, field: str, bad: float) -> None:
    ffi, lib = native.ffi, native.lib
    out, err = ffi.new("lp_sampler **"), ffi.new("lp_error *")
    p = parameters(native, **{field: bad})
    assert lib.lp_sampling_check(p, err) == 1
    assert lib.lp_sampler_open(out, p, 10, err) == 1
    assert out[0] == ffi.NULL and ffi.string(err.text)


def test_defaults_are_the_field_s(native: Any) -> None:
    p = parameters(native)
    got = (p.temp, p.top_k, p.top_p, p.min_p, p.repeat_penalty, p.repeat_last_n, p.seed)
    assert got == pytest.approx((0.8, 40, 0.95, 0.05, 1.0, 64, 0))
    assert (p.presence_penalty, p.frequency_penalty) == (0, 0)


def test_every_allocation_may_fail(native: Any) -> None:
    ffi, lib = native.ffi, native.lib
    live = lib.lp_alloc_live()
    p = parameters(native, repeat_penalty=1.1)
    for n in range(20):
        out, err = ffi.new("lp_sampler **"), ffi.new("lp_error *")
        lib.lp_alloc_fail_at(n)
        code = lib.lp_sampler_open(out, p, 100, err)
        lib.lp_alloc_fail_at(-1)
        if code == 0:
            assert n > 2
            lib.lp_sampler_close(out[0])
            break
        assert code == 5
    else:
        pytest.fail("never succeeded")
    assert lib.lp_alloc_live() == live
