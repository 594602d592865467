"""Chunks of a range for a pool of threads (engine/shares.h).

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from typing import Any

import pytest
from llamapack import native


@pytest.fixture(scope="module")
def both() -> Any:
    built = native.load()
    return built.ffi, built.lib


def chunks(both: Any, total: int, unit: int, least: int, threads: int) -> list[tuple[int, int]]:
    ffi, lib = both
    shares = ffi.new("lp_shares *", lib.lp_shares_of(total, unit, least, threads))
    begin, end = ffi.new("size_t *"), ffi.new("size_t *")
    found = []
    for chunk in range(lib.lp_shares_count(shares)):
        lib.lp_shares_get(shares, chunk, begin, end)
        found.append((begin[0], end[0]))
    return found


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("total", [1, 31, 32, 33, 576, 2048, 3072, 151_936])
@pytest.mark.parametrize("least", [0, 32, 100, 1000])
def test_chunks_cover_the_range_once(both: Any, total: int, threads: int, least: int) -> None:
    unit = 32
    found = chunks(both, total, unit, least, threads)
    place = 0
    for begin, end in found:
        assert begin <= end
        if begin == end:
            continue
        assert begin == place and begin % unit == 0
        place = end
    assert place == total


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_large_chunks_come_first_and_small_ones_last(both: Any, threads: int) -> None:
    sizes = [end - begin for begin, end in chunks(both, 1 << 16, 32, 256, threads)]
    assert sum(sizes[:threads]) == pytest.approx((1 << 16) / 2, abs=32)
    rounds = [sizes[i : i + threads] for i in range(0, len(sizes), threads)]
    for one, following in zip(rounds, rounds[1:], strict=False):
        assert max(one) - min(one) <= 32
        assert max(following) <= max(one)
    # An even end: nobody waits for more than two of the smallest chunks that are worth it.
    assert 256 <= max(rounds[-1]) <= 2 * 256 + 32


def test_one_thread_has_one_chunk(both: Any) -> None:
    assert chunks(both, 5000, 32, 0, 1) == [(0, 5000)]
