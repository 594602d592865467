"""model/gguf.c: reads what the gguf package writes; every broken file is one clear error.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest


def write_sample(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("x.u8", 200)
    writer.add_int8("x.i8", -5)
    writer.add_uint32("x.u32", 4_000_000_000)
    writer.add_int64("x.i64", -7)
    writer.add_uint64("x.u64", 2**64 - 1)
    writer.add_float32("x.f32", 1.5)
    writer.add_float64("x.f64", -2.25)
    writer.add_bool("x.yes", True)
    writer.add_string("x.text", "grüße\n")
    writer.add_array("x.strings", ["a", "", "漢字"])
    writer.add_array("x.ints", [3, -4, 5])
    writer.add_array("x.floats", [0.5, 2.0])
    rng = np.random.default_rng(0)
    writer.add_tensor("plain", rng.standard_normal((3, 8), dtype=np.float32))
    writer.add_tensor("half", rng.standard_normal((2, 4, 5)).astype(np.float16))
    packed = gguf.quants.quantize(
        rng.standard_normal((4, 64), dtype=np.float32), gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_sample(tmp_path_factory.mktemp("gguf") / "sample.gguf")


class Reader:
    """lp_gguf_open over bytes whose end is the end of an allocation."""

    def __init__(self, lib: Any, ffi: Any, lp_str: Callable[[str], Any]) -> None:
        self.lib, self.ffi, self.lp_str = lib, ffi, lp_str

    def try_open(self, raw: bytes) -> tuple[Any, str]:
        data = self.ffi.new("uint8_t[]", max(len(raw), 1))
        self.ffi.memmove(data, raw, len(raw))
        out, err = self.ffi.new("lp_gguf **"), self.ffi.new("lp_error *")
        code = self.lib.lp_gguf_open(out, data, len(raw), err)
        if code == self.lib.LP_OK:
            self.data = data
            return out[0], ""
        text: str = self.ffi.string(err.text).decode()
        assert out[0] == self.ffi.NULL
        assert text
        assert "\n" not in text
        return None, text

    @contextmanager
    def open(self, raw: bytes) -> Iterator[Any]:
        handle, error = self.try_open(raw)
        assert handle is not None, error
        yield handle
        self.lib.lp_gguf_close(handle)

    def refused(self, raw: bytes) -> str:
        handle, error = self.try_open(raw)
        if handle is not None:
            self.lib.lp_gguf_close(handle)
        return error


@pytest.fixture
def reader(lib: Any, ffi: Any, lp_str: Any) -> Iterator[Reader]:
    live = lib.lp_alloc_live()
    yield Reader(lib, ffi, lp_str)
    assert lib.lp_alloc_live() == live, "a refused or closed file leaves memory behind"


def test_values_are_the_ones_written(reader: Reader, sample: bytes, c_text: Any) -> None:
    lib, ffi, s = reader.lib, reader.ffi, reader.lp_str
    with reader.open(sample) as g:
        u32, f32, yes, text = (ffi.new(t) for t in ("uint32_t *", "float *", "bool *", "lp_str *"))
        for key, want in (("x.u8", 200), ("x.u32", 4_000_000_000)):
            assert lib.lp_gguf_get_u32(g, s(key), u32, ffi.NULL) == 0
            assert u32[0] == want
        for key, number in (("x.f32", 1.5), ("x.f64", -2.25), ("x.i64", -7.0)):
            assert lib.lp_gguf_get_f32(g, s(key), f32, ffi.NULL) == 0
            assert f32[0] == number
        assert lib.lp_gguf_get_bool(g, s("x.yes"), yes, ffi.NULL) == 0
        assert yes[0]
        assert lib.lp_gguf_get_str(g, s("x.text"), text, ffi.NULL) == 0
        assert c_text(text[0]) == "grüße\n".encode()
        u32[0] = 77
        assert lib.lp_gguf_get_u32(g, s("absent"), u32, ffi.NULL) == 0
        assert u32[0] == 77
        array = ffi.new("lp_gguf_kv **")
        assert lib.lp_gguf_get_array(g, s("x.strings"), lib.LP_GGUF_STRING, array, ffi.NULL) == 0
        cursor = ffi.new("size_t *")
        read = [c_text(lib.lp_gguf_array_next_str(array[0], cursor)) for _ in range(4)]
        assert read == [b"a", b"", "漢字".encode(), b""]
        assert lib.lp_gguf_get_array(g, s("x.ints"), lib.LP_GGUF_I32, array, ffi.NULL) == 0
        assert [lib.lp_gguf_array_int(array[0], i) for i in range(4)] == [3, -4, 5, 0]
        assert lib.lp_gguf_get_array(g, s("x.floats"), lib.LP_GGUF_F32, array, ffi.NULL) == 0
        assert [lib.lp_gguf_array_f32(array[0], i) for i in range(3)] == [0.5, 2.0, 0.0]


def test_tensors_are_the_ones_written(reader: Reader, sample: bytes, tmp_path: Path) -> None:
    lib, ffi, s = reader.lib, reader.ffi, reader.lp_str
    path = tmp_path / "sample.gguf"
    path.write_bytes(sample)
    with reader.open(sample) as g:
        expected = gguf.GGUFReader(path).tensors
        assert lib.lp_gguf_n_tensors(g) == len(expected) == 3
        for want in expected:
            t = lib.lp_gguf_find_tensor(g, s(want.name))
            assert t != ffi.NULL
            assert [t.dims[i] for i in range(t.n_dims)] == [int(n) for n in want.shape]
            assert t.type == want.tensor_type
            assert bytes(ffi.buffer(t.data, t.bytes)) == want.data.tobytes()
            assert t.row_bytes * t.n_rows == t.bytes
        assert lib.lp_gguf_find_tensor(g, s("none")) == ffi.NULL


@pytest.mark.parametrize(
    ("getter", "out", "key", "message"),
    [
        ("u32", "uint32_t *", "x.f32", "the key x.f32 is of type f32, expected an integer"),
        ("u32", "uint32_t *", "x.i8", "the key x.i8 is -5, out of range"),
        ("u32", "uint32_t *", "x.u64", "the key x.u64 is 9223372036854775807, out of range"),
        ("f32", "float *", "x.text", "the key x.text is of type string, expected a number"),
        ("bool", "bool *", "x.u8", "the key x.u8 is of type u8, expected bool"),
        ("str", "lp_str *", "x.strings", "the key x.strings is of type array, expected string"),
    ],
)
def test_a_wrong_type_names_key_found_and_expected(
    reader: Reader, sample: bytes, lp_error: Any, getter: str, out: str, key: str, message: str
) -> None:
    with reader.open(sample) as g:
        get = getattr(reader.lib, f"lp_gguf_get_{getter}")
        assert get(g, reader.lp_str(key), reader.ffi.new(out), lp_error) == reader.lib.LP_ERR_FORMAT
        assert reader.ffi.string(lp_error.text).decode() == message


def test_every_truncation_is_refused(reader: Reader, sample: bytes) -> None:
    assert len(sample) < 8192
    last = max(int(t.data_offset) + int(t.n_bytes) for t in read_back(sample))
    for size in range(last):
        assert reader.refused(sample[:size]), f"a file cut to {size} bytes was taken"
    assert not reader.refused(sample[:last])


def read_back(raw: bytes) -> list[Any]:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        path.write_bytes(raw)
        return list(gguf.GGUFReader(path).tensors)


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def header(n_tensors: int, n_kv: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors & 2**64 - 1, n_kv & 2**64 - 1)


def kv(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(
    name: bytes, dims: list[int], kind: int = 0, offset: int = 0, n_dims: int | None = None
) -> bytes:
    count = len(dims) if n_dims is None else n_dims
    packed = b"".join(struct.pack("<Q", d & 2**64 - 1) for d in dims)
    return (
        string(name)
        + struct.pack("<I", count)
        + packed
        + struct.pack("<IQ", kind, offset & 2**64 - 1)
    )


def padded(raw: bytes, data: int = 0) -> bytes:
    return raw + bytes(-len(raw) % 32 + data)


HUGE = (
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**61,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64 // 48,
    2**64 // 96 + 1,
)

BAD_FILES = [
    (b"", "not a GGUF file"),
    (b"GGU", "not a GGUF file"),
    (b"PK\3\4" + bytes(100), "not a GGUF file"),
    (header(0, 0, version=1), "GGUF version 1"),
    (header(0, 0, version=4), "GGUF version 4"),
    (header(0, 0, version=0x03000000), "big-endian"),
    (header(0, 1) + kv(b"", 4, bytes(4)), "an empty name"),
    (header(0, 1) + kv(b"k" * 70_000, 4, bytes(4)), "a name of 70000 bytes"),
    (header(0, 1) + kv(b"a", 99, bytes(40)), "key a has the unknown value type 99"),
    (header(0, 1) + kv(b"a", 9, struct.pack("<IQ", 9, 1) + bytes(40)), "array of type 9"),
    (header(0, 1) + kv(b"a", 9, struct.pack("<IQ", 13, 1) + bytes(40)), "array of type 13"),
    (header(0, 2) + kv(b"a", 4, bytes(4)) * 2, "key a stands twice"),
    (header(0, 1) + kv(b"general.alignment", 4, struct.pack("<I", 0)), "general.alignment is 0"),
    (header(0, 1) + kv(b"general.alignment", 4, struct.pack("<I", 3)), "general.alignment is 3"),
    (
        header(0, 1) + kv(b"general.alignment", 4, struct.pack("<I", 2**17)),
        "general.alignment is 131072",
    ),
    (
        header(0, 1) + kv(b"general.alignment", 4, struct.pack("<I", 2**31)),
        "general.alignment is 2147483648",
    ),
    (header(0, 1) + kv(b"general.alignment", 8, string(b"32")), "of type string"),
    (padded(header(1, 0) + tensor(b"t", [8], kind=4), 64), "unknown type 4"),
    (padded(header(1, 0) + tensor(b"t", [8], kind=2**32 - 1), 64), "unknown type 4294967295"),
    (padded(header(1, 0) + tensor(b"t", [8, 0]), 64), "dimension of 0"),
    (padded(header(1, 0) + tensor(b"t", [8] * 5), 64), "5 dimensions"),
    (padded(header(1, 0) + tensor(b"t", [31], kind=8), 64), "no whole number of Q8_0 blocks"),
    (padded(header(1, 0) + tensor(b"t", [8], offset=4), 64), "no multiple of 32"),
    (
        padded(header(1, 0) + tensor(b"t", [8], offset=64), 64),
        "tensor t ends 32 bytes past the end",
    ),
    (padded(header(1, 0) + tensor(b"t", [8], offset=2**64 - 32), 64), "past the end"),
    (
        padded(header(2, 0) + tensor(b"t", [8]) + tensor(b"t", [8], offset=32), 64),
        "tensor t stands twice",
    ),
    (padded(header(2, 0) + tensor(b"a", [16]) + tensor(b"b", [8], offset=32), 64), "overlap"),
    *[(padded(header(n, 0) + bytes(64)), "") for n in HUGE],
    *[(padded(header(0, n) + bytes(64)), "") for n in HUGE],
    *[(header(0, 1) + struct.pack("<Q", n) + bytes(64), "") for n in HUGE],
    *[(header(0, 1) + kv(b"a", 8, struct.pack("<Q", n) + bytes(64)), "") for n in HUGE],
    *[(header(0, 1) + kv(b"a", 9, struct.pack("<IQ", 8, n) + bytes(64)), "") for n in HUGE],
    *[(header(0, 1) + kv(b"a", 9, struct.pack("<IQ", 12, n) + bytes(64)), "") for n in HUGE],
    *[(padded(header(1, 0) + tensor(b"t", [n]), 64), "") for n in HUGE],
    *[(padded(header(1, 0) + tensor(b"t", [32, n], kind=8), 64), "") for n in HUGE],
    *[(padded(header(1, 0) + tensor(b"t", [256, 2**30, n], kind=14), 64), "") for n in HUGE],
    *[
        (padded(header(1, 0) + tensor(b"t", [2**16, 2**16, 2**16, 2**16]), 64), "absurdly large")
        for _ in (1,)
    ],
]


@pytest.mark.parametrize(("raw", "message"), BAD_FILES)
def test_a_bad_file_is_refused_for_its_reason(reader: Reader, raw: bytes, message: str) -> None:
    error = reader.refused(raw)
    assert error
    assert message in error


def test_the_builders_of_bad_files_can_build_a_good_one(reader: Reader) -> None:
    good = padded(
        header(2, 1) + kv(b"a", 4, bytes(4)) + tensor(b"a", [8]) + tensor(b"b", [8], offset=32), 64
    )
    assert reader.refused(good) == ""


def test_memory_while_parsing_follows_the_bytes_read(reader: Reader) -> None:
    lib = reader.lib
    keys = b"".join(kv(f"k{i}".encode(), 0, b"x") for i in range(20_000))
    tensors = b"".join(tensor(f"t{i}".encode(), [8], offset=32 * i) for i in range(5_000))
    raw = padded(header(5_000, 20_000) + keys + tensors, 32 * 5_000)
    lib.lp_alloc_peak_reset()
    before = lib.lp_alloc_live()
    with reader.open(raw):
        assert lib.lp_alloc_peak() - before <= 8 * (len(keys) + len(tensors)) + (1 << 20)


def test_mutated_files_never_crash(reader: Reader, sample: bytes) -> None:
    """2,000 mutants, bytes flipped, replaced, cut and doubled; what still opens is walked."""
    rng = random.Random(20)
    opened = 0
    for _ in range(2000):
        raw = bytearray(sample)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(raw))
            kind = rng.randrange(5)
            if kind == 0:
                raw[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                raw[at : at + 8] = struct.pack("<Q", rng.choice(HUGE))
            elif kind == 2:
                raw[at] = rng.choice((0, 255, 127, 128))
            elif kind == 3:
                del raw[at : at + rng.randrange(1, 16)]
            else:
                raw[at:at] = raw[at : at + rng.randrange(1, 16)]
        handle, _error = reader.try_open(bytes(raw))
        if handle is None:
            continue
        opened += 1
        walk(reader, handle)
        reader.lib.lp_gguf_close(handle)
    assert 100 < opened < 1900, "mutations must reach both outcomes"


def walk(reader: Reader, handle: Any) -> None:
    lib, ffi = reader.lib, reader.ffi
    for i in range(lib.lp_gguf_n_kv(handle)):
        entry = lib.lp_gguf_kv_at(handle, i)
        ffi.buffer(entry.value, entry.value_bytes)[:]
        cursor = ffi.new("size_t *")
        for k in range(min(entry.count, 50)):
            lib.lp_gguf_array_int(entry, k)
            lib.lp_gguf_array_f32(entry, k)
            text = lib.lp_gguf_array_next_str(entry, cursor)
            ffi.buffer(text.data, text.len)[:]
    for i in range(lib.lp_gguf_n_tensors(handle)):
        t = lib.lp_gguf_tensor_at(handle, i)
        ffi.buffer(t.data, t.bytes)[:]


def test_refused_memory_is_an_error_and_leaks_nothing(reader: Reader, sample: bytes) -> None:
    lib = reader.lib
    for n in range(100):
        lib.lp_alloc_fail_at(n)
        error = reader.refused(sample)
        lib.lp_alloc_fail_at(-1)
        if not error:
            assert n > 4
            return
        assert "memory" in error
    pytest.fail("opening never succeeded")
