"""base/: errors are one safe line, memory can be refused, strings and numbers are strict.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import math
import random
import unicodedata
from typing import Any

import pytest


def test_error_text_is_one_safe_line(lib: Any, ffi: Any, lp_error: Any) -> None:
    hostile = b"a\x1b]52;c;x\x07\nb\xff\xc3(\xe2\x80\xaec" + "é漢".encode()
    code = lib.lp_fail(lp_error, lib.LP_ERR_FORMAT, b"file %s", ffi.new("char[]", hostile))
    text = ffi.string(lp_error.text).decode()
    assert code == lib.LP_ERR_FORMAT
    assert lp_error.code == code
    assert text == "file a?]52;c;x??b??(?cé漢"
    lib.lp_error_prefix(lp_error, b"model.gguf")
    assert ffi.string(lp_error.text).decode().startswith("model.gguf: file a?")


@pytest.mark.parametrize("character", ["é", "漢", "😀"])
def test_a_long_error_is_cut_at_a_character(
    lib: Any, ffi: Any, lp_error: Any, character: str
) -> None:
    for shift in range(4):
        lib.lp_fail(
            lp_error,
            lib.LP_ERR_IO,
            b"%s",
            ffi.new("char[]", ("x" * shift + character * 300).encode()),
        )
        text = ffi.string(lp_error.text).decode()
        assert len(text.encode()) > 490
        assert set(text[shift:]) == {character}


def test_sizes_do_not_wrap(lib: Any, ffi: Any) -> None:
    out = ffi.new("size_t *", 7)
    top = 2**64 - 1
    assert lib.lp_size_add(top - 1, 1, out)
    assert out[0] == top
    assert not lib.lp_size_add(top, 1, out)
    assert out[0] == top
    assert lib.lp_size_mul(2**32, 2**31, out)
    assert out[0] == 2**63
    out[0] = 7
    assert not lib.lp_size_mul(2**32, 2**32, out)
    assert lib.lp_alloc(2**32, 2**32) == ffi.NULL


def test_allocation_is_counted_aligned_zeroed_and_refusable(lib: Any, ffi: Any) -> None:
    before = lib.lp_alloc_live()
    block = lib.lp_alloc(3, 100)
    assert int(ffi.cast("uintptr_t", block)) % 64 == 0
    assert bytes(ffi.buffer(block, 300)) == bytes(300)
    assert lib.lp_alloc_live() == before + 300
    ffi.buffer(block, 300)[0:3] = b"abc"
    block = lib.lp_realloc(block, 1, 5000)
    assert bytes(ffi.buffer(block, 3)) == b"abc"
    assert lib.lp_alloc_live() == before + 5000
    lib.lp_alloc_fail_at(0)
    assert lib.lp_realloc(block, 1, 9000) == ffi.NULL
    assert bytes(ffi.buffer(block, 3)) == b"abc"
    lib.lp_free(block)
    lib.lp_alloc_fail_at(1)
    first = lib.lp_alloc(1, 1)
    assert first != ffi.NULL
    assert lib.lp_alloc(1, 1) == ffi.NULL
    second = lib.lp_alloc(1, 1)
    assert second != ffi.NULL
    lib.lp_alloc_fail_from(0)
    assert lib.lp_alloc(1, 1) == ffi.NULL
    assert lib.lp_alloc(1, 1) == ffi.NULL
    lib.lp_alloc_fail_at(-1)
    lib.lp_free(first)
    lib.lp_free(second)
    assert lib.lp_alloc_live() == before


def test_arena_blocks_do_not_overlap_and_obey_the_limit(lib: Any, ffi: Any) -> None:
    arena = ffi.new("lp_arena *")
    lib.lp_arena_init(arena, 1 << 20)
    sizes = [1, 15, 16, 17, 70_000, 3, 65_536, 200_000]
    blocks = [lib.lp_arena_alloc(arena, 1, size) for size in sizes]
    for i, (block, size) in enumerate(zip(blocks, sizes, strict=True)):
        assert bytes(ffi.buffer(block, size)) == bytes(size)
        ffi.memmove(block, bytes([i + 1]) * size, size)
    for i, (block, size) in enumerate(zip(blocks, sizes, strict=True)):
        assert bytes(ffi.buffer(block, size)) == bytes([i + 1]) * size
    assert lib.lp_arena_alloc(arena, 1, 1 << 20) == ffi.NULL
    lib.lp_arena_free(arena)


def test_buffer_grows_formats_and_stops_at_its_limit(
    lib: Any, ffi: Any, c_text: Any, lp_error: Any
) -> None:
    buf = ffi.new("lp_buf *")
    lib.lp_buf_init(buf, 100)
    lib.lp_buf_add(buf, b"abc", 3)
    lib.lp_buf_add_format(buf, b"%d-%s", ffi.cast("int", 42), ffi.new("char[]", b"x"))
    assert c_text(buf) == b"abc42-x"
    lib.lp_buf_remove_front(buf, 3)
    assert c_text(buf) == b"42-x"
    lib.lp_buf_add(buf, b"y" * 97, 97)
    assert buf.failed
    assert c_text(buf) == b"42-x"
    assert lib.lp_buf_check(buf, lp_error) == lib.LP_ERR_LIMIT
    lib.lp_buf_clear(buf)
    lib.lp_alloc_fail_at(0)
    lib.lp_buf_free(buf)
    lib.lp_buf_add(buf, b"z", 1)
    assert lib.lp_buf_check(buf, lp_error) == lib.LP_ERR_MEMORY
    lib.lp_alloc_fail_at(-1)
    lib.lp_buf_free(buf)


def test_find_agrees_with_python(lib: Any, lp_str: Any) -> None:
    rng = random.Random(1)
    for _ in range(2000):
        hay = bytes(rng.choice(b"ab\0") for _ in range(rng.randrange(12)))
        needle = bytes(rng.choice(b"ab\0") for _ in range(rng.randrange(4)))
        start = rng.randrange(14)
        want = hay.find(needle, start)
        assert lib.lp_str_find(lp_str(hay), lp_str(needle), start) == (
            2**64 - 1 if want < 0 else want
        )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", None),
        ("", None),
        ("-1", None),
        ("+1", None),
        (" 1", None),
        ("1 ", None),
        ("0x10", None),
        ("1\0", None),
        ("007", 7),
    ],
)
def test_parse_u64(lib: Any, ffi: Any, lp_str: Any, text: str, value: int | None) -> None:
    out = ffi.new("uint64_t *")
    assert lib.lp_parse_u64(lp_str(text), out) == (value is not None)
    if value is not None:
        assert out[0] == value


def test_parse_i64_borders(lib: Any, ffi: Any, lp_str: Any) -> None:
    out = ffi.new("int64_t *")
    for number in (-(2**63), -1, 0, 2**63 - 1):
        assert lib.lp_parse_i64(lp_str(str(number)), out)
        assert out[0] == number
    for number in (-(2**63) - 1, 2**63):
        assert not lib.lp_parse_i64(lp_str(str(number)), out)
    assert not lib.lp_parse_i64(lp_str("-"), out)
    assert not lib.lp_parse_i64(lp_str("--1"), out)


def test_parse_f64_is_pythons_float_for_jsons_grammar(lib: Any, ffi: Any, lp_str: Any) -> None:
    out = ffi.new("double *")
    rng = random.Random(2)
    for _ in range(3000):
        text = repr(rng.choice([-1, 1]) * rng.random() * 10 ** rng.randrange(-320, 308))
        assert lib.lp_parse_f64(lp_str(text), out), text
        assert out[0] == float(text), text
    for bad in (
        "",
        "-",
        ".5",
        "5.",
        "01",
        "1e",
        "1e+",
        "nan",
        "inf",
        "0x1p3",
        "1e999",
        " 1",
        "1 ",
        "+1",
        "1_0",
    ):
        assert not lib.lp_parse_f64(lp_str(bad), out), bad
    assert lib.lp_parse_f64(lp_str("-0.0"), out)
    assert math.copysign(1, out[0]) == -1


def python_repair(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")


def test_repair_agrees_with_python(lib: Any, ffi: Any, lp_str: Any, c_text: Any) -> None:
    rng = random.Random(3)
    pool = [
        b"a",
        b"\x80",
        b"\xbf",
        b"\xc0",
        b"\xc2",
        b"\xe0",
        b"\xed",
        b"\xa0",
        b"\xef",
        b"\xf0",
        b"\x90",
        b"\xf4",
        b"\xf5",
        b"\xff",
        "é".encode(),
        "漢".encode(),
        "😀".encode(),
    ]
    buf = ffi.new("lp_buf *")
    for _ in range(5000):
        raw = b"".join(rng.choice(pool) for _ in range(rng.randrange(8)))
        lib.lp_buf_clear(buf)
        n = lib.lp_utf8_add_repaired(buf, lp_str(raw))
        want = python_repair(raw)
        assert c_text(buf).decode() == want, raw
        assert n == want.count("\ufffd")
        assert lib.lp_utf8_valid(lp_str(raw)) == (n == 0)
        assert lib.lp_utf8_count(lp_str(raw)) == len(want)
    lib.lp_buf_free(buf)


def test_incomplete_tail(lib: Any, lp_str: Any) -> None:
    for character in ("é", "漢", "😀", "\ud7ff", "\U0010ffff"):
        whole = character.encode()
        for cut in range(1, len(whole)):
            assert lib.lp_utf8_incomplete_tail(lp_str(b"x" + whole[:cut])) == cut
        assert lib.lp_utf8_incomplete_tail(lp_str(b"x" + whole)) == 0
    for raw in (b"", b"a", b"\x80", b"\xff", b"\xc0", b"\xed\xa0", b"\xe0\x80", b"\xf5\x80"):
        assert lib.lp_utf8_incomplete_tail(lp_str(raw)) == 0, raw


def test_nothing_printable_can_drive_a_terminal(
    lib: Any, ffi: Any, lp_str: Any, c_text: Any
) -> None:
    everything = "".join(chr(c) for c in range(0x3000) if not 0xD800 <= c < 0xE000)
    buf = ffi.new("lp_buf *")
    lib.lp_utf8_add_printable(buf, lp_str(everything.encode() + b"\xff\x9b31m"))
    shown = c_text(buf).decode()
    lib.lp_buf_free(buf)
    assert {c for c in shown if unicodedata.category(c) == "Cc"} == {"\n", "\t"}
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert all(
        c in shown for c in everything if unicodedata.category(c) in ("Lu", "Ll", "Lo", "Nd", "Sm")
    )
