"""llamapack.gguf: the builder's reader agrees with the gguf package and refuses what is broken.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from llamapack.errors import LlamapackError
from llamapack.gguf import TYPES, read_gguf


def text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


def gguf_bytes(keys: list[bytes], tensors: list[bytes], data: bytes, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    head += b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


ARCH = key(b"general.architecture", 8, text(b"llama"))
GOOD_TENSOR = tensor(b"token_embd.weight", (32, 2), 2, 0)  # Q4_0: two blocks of 18 bytes
GOOD = gguf_bytes([ARCH], [GOOD_TENSOR], bytes(36))


def read(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    return read_gguf(path)


def test_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "written.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(77)
    writer.add_float32("some.float", 0.5)
    writer.add_bool("some.bool", True)
    writer.add_token_list(["a", "b", "\N{SNOWMAN}"])
    writer.add_chat_template("{{ messages }}")
    writer.add_array("some.ints", [1, 2, 3])
    for i in range(5):
        writer.add_tensor(f"blk.{i}.w", np.full((3, 64), i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    compare_with_package(path)
    mine = read_gguf(path)
    assert mine.values["some.float"] == 0.5
    assert mine.values["some.bool"] is True
    assert mine.arrays == {"tokenizer.ggml.tokens": 3, "some.ints": 3}
    assert mine.parameters == 5 * 3 * 64


def test_reads_a_real_model_as_the_gguf_package_does(smollm2: Path) -> None:
    compare_with_package(smollm2)


def compare_with_package(path: Path) -> None:
    mine, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert mine.size == path.stat().st_size
    for name, field in theirs.fields.items():
        if name.startswith("GGUF."):
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            assert mine.arrays[name] == len(field.data)
        else:
            assert mine.values[name] == field.contents()
    assert [(t.name, t.shape, t.type.name, t.offset, t.size) for t in mine.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), t.tensor_type.name, t.data_offset, t.n_bytes)
        for t in theirs.tensors
    ]


def test_types_agree_with_the_gguf_package() -> None:
    theirs = {t.value: (t.name, *gguf.GGML_QUANT_SIZES[t]) for t in gguf.GGMLQuantizationType}
    for number, mine in TYPES.items():
        if mine.name == "Q8_1":  # never stored in files; the package counts f32 scales, ggml f16
            continue
        assert theirs[number] == (mine.name, mine.block_len, mine.block_bytes)


def test_types_agree_with_the_runtime(lib: Any, ffi: Any) -> None:
    for number in range(64):
        theirs, mine = lib.lp_type_get(number), TYPES.get(number)
        if mine is None or theirs == ffi.NULL:
            # Each side may know a name the other does not, but nobody computes with it.
            assert mine is None or not mine.computes
            assert theirs == ffi.NULL or not theirs.can_compute
            continue
        assert ffi.string(theirs.name).decode() == mine.name
        assert (theirs.block_len, theirs.block_bytes) == (mine.block_len, mine.block_bytes)
        assert theirs.can_compute == mine.computes


def test_good_file_reads(tmp_path: Path) -> None:
    mine = read(tmp_path, GOOD)
    assert (mine.architecture, mine.parameters, mine.version) == ("llama", 64, 3)
    assert read(tmp_path, gguf_bytes([ARCH], [GOOD_TENSOR], bytes(36), version=2)).version == 2


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for size in range(len(GOOD)):
        with pytest.raises(LlamapackError) as caught:
            read(tmp_path, GOOD[:size])
        assert len(str(caught.value).splitlines()) == 1


HUGE = (1 << 63) - 1
BAD: list[tuple[str, bytes, str]] = [
    ("empty", b"", "not a GGUF file"),
    ("zeros", bytes(64), "not a GGUF file"),
    ("version 1", gguf_bytes([], [], b"", version=1), "version 1 is not supported"),
    ("version 99", gguf_bytes([], [], b"", version=99), "version 99 is not supported"),
    ("big-endian", b"GGUF\0\0\0\3" + bytes(64), "big-endian"),
    ("tensors", b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0) + bytes(64), "tensors, more than"),
    ("keys", b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE) + bytes(64), "keys, more than"),
    ("minus one", b"GGUF" + struct.pack("<Iqq", 3, -1, -1) + bytes(64), "tensors, more than"),
    ("key length", gguf_bytes([struct.pack("<Q", HUGE)], [], bytes(99)), "more than it may have"),
    ("empty key", gguf_bytes([key(b"", 4, bytes(4))], [], bytes(99)), "a key is empty"),
    ("key twice", gguf_bytes([ARCH, ARCH], [], bytes(99)), "is there twice"),
    ("value type", gguf_bytes([key(b"k", 13, bytes(8))], [], bytes(99)), "unknown value type 13"),
    (
        "text length",
        gguf_bytes([key(b"k", 8, struct.pack("<Q", HUGE))], [], bytes(99)),
        "the value of k claims",
    ),
    (
        "array length",
        gguf_bytes([key(b"k", 9, struct.pack("<IQ", 4, HUGE))], [], bytes(99)),
        "the array k ends past",
    ),
    (
        "array of strings",
        gguf_bytes([key(b"k", 9, struct.pack("<IQ", 8, 1 << 40))], [], bytes(99)),
        "strings, more than",
    ),
    (
        "nested array",
        gguf_bytes([key(b"k", 9, struct.pack("<IQ", 9, 1))], [], bytes(99)),
        "unsupported element type 9",
    ),
    (
        "alignment",
        gguf_bytes([key(b"general.alignment", 4, struct.pack("<I", 33))], [], bytes(99)),
        "not a power of two",
    ),
    (
        "alignment 0",
        gguf_bytes([key(b"general.alignment", 4, bytes(4))], [], bytes(99)),
        "not a power of two",
    ),
    ("no dimensions", gguf_bytes([], [tensor(b"t", (), 0, 0)], bytes(99)), "0 dimensions"),
    ("5 dimensions", gguf_bytes([], [tensor(b"t", (1,) * 5, 0, 0)], bytes(99)), "5 dimensions"),
    ("shape", gguf_bytes([], [tensor(b"t", (1 << 40, 1 << 40), 0, 0)], bytes(99)), "impossible"),
    ("zero", gguf_bytes([], [tensor(b"t", (0, 4), 0, 0)], bytes(99)), "impossible shape"),
    ("type", gguf_bytes([], [tensor(b"t", (32,), 77, 0)], bytes(99)), "unknown type 77"),
    ("removed type", gguf_bytes([], [tensor(b"t", (32,), 4, 0)], bytes(99)), "unknown type 4"),
    ("blocks", gguf_bytes([], [tensor(b"t", (33,), 2, 0)], bytes(99)), "do not divide"),
    ("offset", gguf_bytes([], [tensor(b"t", (1,), 0, 3)], bytes(99)), "not aligned"),
    (
        "far offset",
        gguf_bytes([], [tensor(b"t", (1,), 0, (1 << 64) - 32)], bytes(99)),
        "past the end",
    ),
    ("cut data", gguf_bytes([], [tensor(b"t", (64,), 0, 0)], bytes(255)), "ends 1 bytes past"),
    ("same name", gguf_bytes([], [tensor(b"t", (1,), 0, 0)] * 2, bytes(99)), "the same name"),
    (
        "control bytes",
        gguf_bytes([], [tensor(b"\x1b[2J\n", (1,), 77, 0)], bytes(99)),
        "tensor ?[2J? has",
    ),
]


@pytest.mark.parametrize(("data", "message"), [row[1:] for row in BAD], ids=[r[0] for r in BAD])
def test_bad_files_are_refused_with_the_reason(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(LlamapackError, match="m.gguf: ") as caught:
        read(tmp_path, data)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_single_byte_damage_never_escapes(tmp_path: Path) -> None:
    """Whatever one byte becomes, the reader answers with its own error or reads on."""
    header = len(GOOD) - 36
    for at in range(header):
        for value in (0x00, 0x01, 0x7F, 0x80, 0xFF):
            damaged = bytearray(GOOD)
            damaged[at] = value
            try:
                read(tmp_path, bytes(damaged))
            except LlamapackError as error:
                assert str(error).isprintable()


def test_fifty_truncations_of_a_real_model(
    smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run_cli: Callable[..., int]
) -> None:
    """Through the command line; each is one line and exit 1, and nothing is left behind."""
    header = read_gguf(smollm2).data_offset
    size = smollm2.stat().st_size
    points = [header * i // 25 for i in range(25)] + [
        header + (size - header) * i // 25 for i in range(25)
    ]
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(smollm2.read_bytes())
    out = tmp_path / "chat"
    for point in sorted(points, reverse=True):
        with cut.open("rb+") as file:
            file.truncate(point)
        assert run_cli("build", str(cut), "-o", str(out)) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"error: {cut}: ")
        assert captured.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.gguf"]
