"""base/sha256.c, crc32.c and inflate.c against hashlib and zlib.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Iterator
from typing import Any

import pytest


def digest_of(lib: Any, ffi: Any, data: bytes) -> bytes:
    out = ffi.new("uint8_t[32]")
    lib.lp_sha256(data, len(data), out)
    return bytes(out)


@pytest.fixture(params=["plain", "fast"])
def each_way(lib: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Plain C, and the processor's own instructions."""
    if lib.lp_sha256_select(request.param == "fast") != (request.param == "fast"):
        pytest.skip("optional: this processor has no instructions for SHA-256")
    yield
    lib.lp_sha256_select(True)


@pytest.mark.usefixtures("each_way")
def test_sha256_of_every_length(lib: Any, ffi: Any) -> None:
    data = random.Random(1).randbytes(1000)
    for n in range(len(data) + 1):
        assert digest_of(lib, ffi, data[:n]) == hashlib.sha256(data[:n]).digest(), n


@pytest.mark.usefixtures("each_way")
def test_sha256_in_pieces(lib: Any, ffi: Any) -> None:
    rng = random.Random(2)
    state, out = ffi.new("lp_sha256_state *"), ffi.new("uint8_t[32]")
    for _ in range(100):
        data = rng.randbytes(rng.randrange(5000))
        lib.lp_sha256_start(state)
        at = 0
        while at < len(data):
            n = rng.choice([0, 1, 63, 64, 65, rng.randrange(400)])
            part = data[at : at + n]
            lib.lp_sha256_add(state, part, len(part))
            at += n
        lib.lp_sha256_finish(state, out)
        assert bytes(out) == hashlib.sha256(data).digest()


def test_crc32(lib: Any) -> None:
    rng = random.Random(3)
    for n in [0, 1, 2, 3, 4, 5, 100, 65537]:
        data = rng.randbytes(n)
        assert lib.lp_crc32(0, data, n) == zlib.crc32(data)
        cut = rng.randrange(n + 1)
        first = lib.lp_crc32(0, data[:cut], cut)
        assert lib.lp_crc32(first, data[cut:], n - cut) == zlib.crc32(data)


def deflate(data: bytes, level: int, strategy: int) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return packer.compress(data) + packer.flush()


def inflate(lib: Any, ffi: Any, packed: bytes, size: int) -> bytes | None:
    """The plain bytes, or None when refused. The output block is exactly as large as promised."""
    out = ffi.new("uint8_t[]", max(size, 1))
    error = ffi.new("lp_error *")
    source = ffi.new("uint8_t[]", packed) if packed else ffi.new("uint8_t[1]")
    code = lib.lp_inflate(out, size, source, len(packed), error)
    if code == lib.LP_OK:
        return bytes(ffi.buffer(out, size))
    assert code == lib.LP_ERR_FORMAT
    assert ffi.string(error.text).startswith(b"deflated data: ")
    return None


def samples() -> list[bytes]:
    rng = random.Random(4)
    text = b"".join(rng.choice([b"the ", b"page ", b"of ", b"a ", b"model\n"]) for _ in range(9000))
    return [
        b"", b"a", b"a" * 70000, bytes(range(256)) * 9, rng.randbytes(70000), text,
        b"".join(bytes([rng.choice(b"ab")]) * rng.randrange(300) for _ in range(500)),
        text[:40000] + rng.randbytes(40000) + text[:40000],
    ]  # fmt: skip


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize(
    "strategy",
    [zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED, zlib.Z_FILTERED],
)
def test_inflates_what_zlib_deflates(lib: Any, ffi: Any, level: int, strategy: int) -> None:
    for data in samples():
        packed = deflate(data, level, strategy)
        assert inflate(lib, ffi, packed, len(data)) == data


def test_the_promised_size_is_binding(lib: Any, ffi: Any) -> None:
    for data in samples():
        packed = deflate(data, 9, zlib.Z_DEFAULT_STRATEGY)
        assert inflate(lib, ffi, packed, len(data) + 1) is None
        if data:
            assert inflate(lib, ffi, packed, len(data) - 1) is None
        assert inflate(lib, ffi, packed + b"\0", len(data)) is None


def test_truncated_at_every_byte(lib: Any, ffi: Any) -> None:
    data = samples()[5][:3000]
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED):
        packed = deflate(data, 9, strategy)
        for end in range(len(packed)):
            assert inflate(lib, ffi, packed[:end], len(data)) is None


def expected(packed: bytes) -> bytes | None:
    unpacker = zlib.decompressobj(-15)
    try:
        data = unpacker.decompress(packed, 1 << 20)
    except zlib.error:
        return None
    return data if unpacker.eof and not unpacker.unused_data else None


def test_damaged_streams_agree_with_zlib(lib: Any, ffi: Any) -> None:
    rng = random.Random(5)
    base = [deflate(data[:700], 9, zlib.Z_DEFAULT_STRATEGY) for data in samples()]
    read = refused = 0
    for _ in range(20000):
        packed = bytearray(rng.choice(base)) if rng.random() < 0.8 else bytearray(rng.randbytes(40))
        for _ in range(rng.randrange(1, 4)):
            packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
        data = expected(bytes(packed))
        if data is None:
            # No size can make a damaged stream a good one.
            assert inflate(lib, ffi, bytes(packed), 700) is None
            refused += 1
        else:
            assert inflate(lib, ffi, bytes(packed), len(data)) == data
            read += 1
    assert read > 200
    assert refused > 5000


def test_inflate_into_a_buffer(lib: Any, ffi: Any, c_text: Any) -> None:
    data = samples()[5]
    packed = deflate(data, 9, zlib.Z_DEFAULT_STRATEGY)
    buf, error = ffi.new("lp_buf *"), ffi.new("lp_error *")
    lib.lp_buf_init(buf, len(data) + 4)
    lib.lp_buf_add_text(buf, b"head")
    assert lib.lp_inflate_add(buf, packed, len(packed), len(data), error) == lib.LP_OK
    assert c_text(buf) == b"head" + data
    assert lib.lp_inflate_add(buf, packed, len(packed), len(data), error) == lib.LP_ERR_LIMIT
    lib.lp_buf_free(buf)

    lib.lp_buf_init(buf, 0)
    lib.lp_alloc_peak_reset()
    before = lib.lp_alloc_peak()
    # Ten bytes cannot hold a gigabyte; nothing is allocated to find out.
    assert lib.lp_inflate_add(buf, packed, 10, 1 << 30, error) == lib.LP_ERR_FORMAT
    assert lib.lp_alloc_peak() == before
    lib.lp_buf_free(buf)
