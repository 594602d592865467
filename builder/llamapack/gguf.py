"""A careful reader of GGUF headers: what is in a model file, and whether it can be trusted to be
one. The weights themselves are not read.

Layout, little-endian: "GGUF", u32 version (2 or 3), i64 tensors, i64 keys; then the keys
{string key, u32 type, value}; then the tensors {string name, u32 n_dims, u64 dims[], u32 type,
u64 offset}; padding to `general.alignment`; tensor data. A string is u64 length and bytes.

The file is foreign: every count is compared with the bytes left before anything is made of it,
and every failure is one line. The runtime has its own reader (runtime_c/model/gguf.c); this one
refuses early, before work is done and before a broken file reaches somebody else's machine.

SPDX-License-Identifier: Apache-2.0
"""

import hashlib
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from llamapack.errors import LlamapackError

__all__ = ["TYPES", "Gguf", "Tensor", "Type", "read_gguf"]

_MAX_COUNT = 1 << 20  # keys or tensors: hundreds are usual, this is far above any model
_MAX_KEY = 1 << 16
_MAX_TEXT = 1 << 24
_WINDOW = 1 << 20
_SCALARS = {  # value type: format of struct
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Type:
    """A weight type of the file format; the runtime's table is kernels_x86_arm/qtype."""

    name: str
    block_len: int
    block_bytes: int
    computes: bool = False  # the runtime has kernels for it


TYPES: dict[int, Type] = {
    0: Type("F32", 1, 4, True),
    1: Type("F16", 1, 2, True),
    2: Type("Q4_0", 32, 18, True),
    3: Type("Q4_1", 32, 20, True),
    6: Type("Q5_0", 32, 22, True),
    7: Type("Q5_1", 32, 24, True),
    8: Type("Q8_0", 32, 34, True),
    9: Type("Q8_1", 32, 36),
    10: Type("Q2_K", 256, 84, True),
    11: Type("Q3_K", 256, 110, True),
    12: Type("Q4_K", 256, 144, True),
    13: Type("Q5_K", 256, 176, True),
    14: Type("Q6_K", 256, 210, True),
    15: Type("Q8_K", 256, 292),
    16: Type("IQ2_XXS", 256, 66),
    17: Type("IQ2_XS", 256, 74),
    18: Type("IQ3_XXS", 256, 98),
    19: Type("IQ1_S", 256, 50),
    20: Type("IQ4_NL", 32, 18),
    21: Type("IQ3_S", 256, 110),
    22: Type("IQ2_S", 256, 82),
    23: Type("IQ4_XS", 256, 136),
    24: Type("I8", 1, 1),
    25: Type("I16", 1, 2),
    26: Type("I32", 1, 4),
    27: Type("I64", 1, 8),
    28: Type("F64", 1, 8),
    29: Type("IQ1_M", 256, 56),
    30: Type("BF16", 1, 2, True),
    34: Type("TQ1_0", 256, 54),
    35: Type("TQ2_0", 256, 66),
    39: Type("MXFP4", 32, 17),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    shape: tuple[int, ...]  # shape[0] is the contiguous row
    type: Type
    offset: int  # from the first byte of the GGUF
    size: int
    row: tuple[int, int] = (0, 0)  # where its row of the table lies: offset and length

    @property
    def elements(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count


@dataclass(slots=True)
class Gguf:
    """What a model file says of itself. `values` holds scalars and texts; arrays by length."""

    version: int = 0
    size: int = 0
    alignment: int = 32
    data_offset: int = 0
    values: dict[str, int | float | bool | str] = field(default_factory=dict)
    arrays: dict[str, int] = field(default_factory=dict)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Where each key with its value lies in the file: offset and length."""
    template_sha256: str = ""
    tensors: list[Tensor] = field(default_factory=list)

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    @property
    def parameters(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    def text(self, key: str) -> str:
        value = self.values.get(key, "")
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | float | None:
        value = self.values.get(key)
        return None if isinstance(value, str) else value

    def type_counts(self) -> dict[str, int]:
        """Bytes of weights by type, most first."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.size
        return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))


def read_gguf(path: Path, offset: int = 0, size: int | None = None) -> Gguf:
    """Reads and checks the GGUF at offset of a file (size None: to its end)."""
    try:
        with path.open("rb") as file:
            if size is None:
                size = file.seek(0, 2) - offset
            return _Reader(file, offset, size).read()
    except OSError as error:
        raise LlamapackError(f"cannot read {path}: {error.strerror}") from None
    except _Bad as bad:
        raise LlamapackError(f"{path}: {bad}") from None


class _Bad(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the tensor table as it is in the file."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int  # from the beginning of the tensor data
    place: tuple[int, int]


class _Reader:
    """Takes bounded pieces off the front of a file, a window of it in memory at a time."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file = file
        self._base = offset
        self._size = size
        self._window = b""
        self._start = 0  # position of the window's first byte
        self._at = 0  # position of the next byte, from the first of the GGUF

    def read(self) -> Gguf:
        gguf = Gguf(size=self._size)
        n_tensors = self._header(gguf)
        for _ in range(self._n_keys):
            self._key_value(gguf)
        self._check_alignment(gguf)
        rows = [self._tensor_row() for _ in range(n_tensors)]
        gguf.data_offset = -(-self._at // gguf.alignment) * gguf.alignment
        gguf.tensors = [_place(row, gguf) for row in rows]
        if len({tensor.name for tensor in gguf.tensors}) != n_tensors:
            raise _Bad("two tensors have the same name")
        return gguf

    def _header(self, gguf: Gguf) -> int:
        if self._size < 4 or self._take(4) != b"GGUF":
            raise _Bad("not a GGUF file (it does not begin with 'GGUF')")
        gguf.version = self._number("<I")
        if gguf.version in (0x01000000, 0x02000000, 0x03000000):
            raise _Bad("a big-endian GGUF; only little-endian files are supported")
        if gguf.version not in (2, 3):
            raise _Bad(f"GGUF version {gguf.version} is not supported (2 and 3 are)")
        n_tensors = self._count("tensors", 8 + 4 + 8 + 4 + 8)
        self._n_keys = self._count("keys", 8 + 4 + 1)
        return n_tensors

    def _count(self, what: str, least: int) -> int:
        count = self._number("<Q")
        if count > _MAX_COUNT or count * least > self._size - self._at:
            raise _Bad(f"claims {count} {what}, more than the file can hold")
        return count

    def _key_value(self, gguf: Gguf) -> None:
        begin = self._at
        key = self._text("a key", _MAX_KEY)
        if key in gguf.values or key in gguf.arrays:
            raise _Bad(f"the key {key} is there twice")
        kind = self._number("<I")
        if kind == _STRING:
            raw = self._string(f"the value of {key}", _MAX_TEXT)
            if key == "tokenizer.chat_template":
                gguf.template_sha256 = hashlib.sha256(raw).hexdigest()
            gguf.values[key] = raw.decode("utf-8", "replace")
        elif kind == _ARRAY:
            gguf.arrays[key] = self._array(key)
        elif kind in _SCALARS:
            gguf.values[key] = self._scalar(kind)
        else:
            raise _Bad(f"the key {key} has the unknown value type {kind}")
        gguf.places[key] = (begin, self._at - begin)

    def _scalar(self, kind: int) -> int | float | bool:
        (value,) = struct.unpack(_SCALARS[kind], self._take(struct.calcsize(_SCALARS[kind])))
        assert isinstance(value, int | float | bool)
        return value

    def _array(self, key: str) -> int:
        kind = self._number("<I")
        count = self._number("<Q")
        if kind in _SCALARS:
            self._skip(count * struct.calcsize(_SCALARS[kind]), f"the array {key}")
        elif kind == _STRING:
            if count * 8 > self._size - self._at:
                raise _Bad(f"the array {key} claims {count} strings, more than the file can hold")
            for _ in range(count):
                self._skip(self._number("<Q"), f"a string of {key}")
        else:
            raise _Bad(f"the array {key} has the unsupported element type {kind}")
        return count

    def _check_alignment(self, gguf: Gguf) -> None:
        alignment = gguf.values.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or not 1 <= alignment <= 1 << 16
            or alignment & (alignment - 1)
        ):
            raise _Bad(f"general.alignment is {alignment}, not a power of two up to 65536")
        gguf.alignment = alignment

    def _tensor_row(self) -> "_Row":
        begin = self._at
        name = self._text("a tensor's name", _MAX_KEY)
        n_dims = self._number("<I")
        if not 1 <= n_dims <= 4:
            raise _Bad(f"tensor {name} has {n_dims} dimensions (1 to 4 are possible)")
        shape = struct.unpack(f"<{n_dims}Q", self._take(8 * n_dims))
        kind, offset = self._number("<I"), self._number("<Q")
        return _Row(name, shape, kind, offset, (begin, self._at - begin))

    def _text(self, what: str, limit: int) -> str:
        """A name, made safe to print."""
        raw = self._string(what, limit)
        if not raw:
            raise _Bad(f"{what} is empty")
        text = raw.decode("utf-8", "replace")
        return "".join(c if c.isprintable() else "?" for c in text)

    def _string(self, what: str, limit: int) -> bytes:
        length = self._number("<Q")
        if length > limit or length > self._size - self._at:
            raise _Bad(f"{what} claims {length} bytes, more than it may have")
        return self._take(length)

    def _number(self, form: str) -> int:
        value = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        assert isinstance(value, int)
        return value

    def _take(self, count: int) -> bytes:
        if count > self._size - self._at:
            raise _Bad(f"cut off: it ends after {self._size} bytes, inside its header")
        begin = self._at - self._start
        if begin < 0 or begin + count > len(self._window):
            self._file.seek(self._base + self._at)
            want = min(max(count, _WINDOW), self._size - self._at)
            self._window = self._file.read(want)
            self._start, begin = self._at, 0
            if len(self._window) < count:
                raise _Bad("cut off while it was read")
        self._at += count
        return self._window[begin : begin + count]

    def _skip(self, count: int, what: str) -> None:
        if count > self._size - self._at:
            raise _Bad(f"cut off: {what} ends past the end of the file")
        self._at += count


def _place(row: _Row, gguf: Gguf) -> Tensor:
    """Checks one row of the tensor table against the file."""
    name, shape, offset = row.name, row.shape, row.offset
    kind = TYPES.get(row.type_id)
    if kind is None:
        raise _Bad(f"tensor {name} has the unknown type {row.type_id}")
    elements = 1
    for extent in shape:
        elements *= extent
    if elements == 0 or elements >= 1 << 62:
        raise _Bad(f"tensor {name} has the impossible shape {list(shape)}")
    if shape[0] % kind.block_len:
        raise _Bad(f"tensor {name}: rows of {shape[0]} do not divide into blocks of {kind.name}")
    size = elements // kind.block_len * kind.block_bytes
    if offset % gguf.alignment:
        raise _Bad(f"tensor {name} is not aligned to {gguf.alignment} bytes")
    end = gguf.data_offset + offset + size
    if end > gguf.size:
        raise _Bad(f"tensor {name} ends {end - gguf.size} bytes past the end of the file")
    return Tensor(name, shape, kind, gguf.data_offset + offset, size, row.place)
