"""A model's GGUF with its weights in smaller types, made while it is read.

Tensor by tensor in pieces of fixed length, on all cores; a few pieces are in memory at a time.
What goes in decides what comes out, byte for byte: the number of threads and the machine do not.
Keys are copied as they lie in the file, but for general.file_type and
general.quantization_version, which state the new types.

SPDX-License-Identifier: Apache-2.0
"""

import struct
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO

from llamapack import native
from llamapack.console import size_text
from llamapack.container import changed, file_pieces, unchanged
from llamapack.errors import LlamapackError
from llamapack.gguf import TYPES, Gguf, Tensor, Type
from llamapack.jobs import cores
from llamapack.mixes import Mix, find_mix, types_of
from llamapack.sources import Model

__all__ = ["Quantized", "quantized"]

_PIECE = 1 << 18  # elements: a whole number of blocks of every type
_FLOATS = ("F32", "F16", "BF16")
_VERSION = 2  # general.quantization_version: of the block layouts
_UINT32 = 4
_NOT_FINITE = 1  # lp_quantize_result
_IDS = {kind.name: number for number, kind in TYPES.items()}


@dataclass
class Quantized:
    """The new GGUF: its size is known, its bytes are made by `pieces`."""

    model: Model
    mix: Mix
    types: list[Type]
    threads: int
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def size(self) -> int:
        return self._data_offset + sum(_aligned(size, self._gguf.alignment) for size in self._sizes)

    @property
    def record(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"type": self.mix.name, "from": self._gguf.type_counts()}

    def pieces(self) -> Iterator[bytes]:
        """The bytes from first to last. An error when the file changes while it is read."""
        path = self.model.path
        library = native.load_quantizers()
        try:
            with path.open("rb") as file, unchanged(path, file):
                yield from self._header(file)
                pool = ThreadPoolExecutor(self.threads)
                try:
                    yield from _in_order(self._data(file, pool, library), 2 * self.threads)
                finally:
                    pool.shutdown(cancel_futures=True)
        except OSError as error:
            raise LlamapackError(f"cannot read {path}: {error.strerror}") from None

    @property
    def _gguf(self) -> Gguf:
        return self.model.gguf

    @cached_property
    def _sizes(self) -> list[int]:
        return [
            tensor.elements // kind.block_len * kind.block_bytes
            for tensor, kind in zip(self._gguf.tensors, self.types, strict=True)
        ]

    @cached_property
    def _keys(self) -> dict[str, bytes]:
        """The two keys that are set anew; a file that lacks them gets them after its own."""
        return {
            key: struct.pack("<Q", len(key)) + key.encode() + struct.pack("<II", _UINT32, value)
            for key, value in (
                ("general.quantization_version", _VERSION),
                ("general.file_type", self.mix.file_type),
            )
        }

    @cached_property
    def _header_size(self) -> int:
        places = self._gguf.places
        old = sum(length for key, (_, length) in places.items() if key not in self._keys)
        rows = sum(tensor.row[1] for tensor in self._gguf.tensors)
        return 24 + old + sum(map(len, self._keys.values())) + rows

    @property
    def _data_offset(self) -> int:
        return _aligned(self._header_size, self._gguf.alignment)

    def _header(self, file: BinaryIO) -> Iterator[bytes]:
        gguf, base = self._gguf, self.model.offset
        new = dict(self._keys)
        n_keys = len(gguf.places.keys() | new.keys())
        yield struct.pack("<4sIQQ", b"GGUF", gguf.version, len(gguf.tensors), n_keys)
        for key, (offset, length) in gguf.places.items():
            if key in new:
                yield new.pop(key)
            else:
                yield from file_pieces(file, base + offset, length)
        yield from new.values()
        at = 0
        for tensor, kind, size in zip(gguf.tensors, self.types, self._sizes, strict=True):
            offset, length = tensor.row
            # The name and the shape as they were; then the type, 4 bytes, and the offset, 8.
            yield from file_pieces(file, base + offset, length - 12)
            yield struct.pack("<IQ", _IDS[kind.name], at)
            at += _aligned(size, gguf.alignment)
        yield bytes(self._data_offset - self._header_size)

    def _data(
        self, file: BinaryIO, pool: ThreadPoolExecutor, library: native.Native
    ) -> Iterator["bytes | Future[bytes]"]:
        for tensor, kind, size in zip(self._gguf.tensors, self.types, self._sizes, strict=True):
            offset = self.model.offset + tensor.offset
            if kind == tensor.type:
                yield from file_pieces(file, offset, size)
            else:
                for first in range(0, tensor.elements, _PIECE):
                    count = min(_PIECE, tensor.elements - first)
                    length = count // tensor.type.block_len * tensor.type.block_bytes
                    file.seek(offset)
                    source = file.read(length)
                    if len(source) < length:
                        raise changed(self.model.path)
                    offset += length
                    yield pool.submit(self._quantize, library, tensor, kind, first, count, source)
            yield bytes(_aligned(size, self._gguf.alignment) - size)

    def _quantize(
        self, library: native.Native, tensor: Tensor, kind: Type, first: int, count: int, raw: bytes
    ) -> bytes:
        ffi, lib = library.ffi, library.lib
        out = bytearray(count // kind.block_len * kind.block_bytes)
        bad = ffi.new("size_t *")
        ids = _IDS[kind.name], _IDS[tensor.type.name]
        code = lib.lp_quantize(*ids, ffi.from_buffer(raw), ffi.from_buffer(out), count, bad)
        if code:
            what = (
                "is infinite or not a number: the model is damaged"
                if code == _NOT_FINITE
                else f"is too large for {kind.name}"
            )
            raise LlamapackError(
                f"{self.model.path}: tensor {tensor.name}: element {first + bad[0]} {what}"
            )
        return bytes(out)


def quantized(model: Model, name: str) -> Quantized:
    """Checks that a model can be quantized to a mix, and that this makes it smaller."""
    mix = find_mix(name)
    tensors = model.gguf.tensors
    wanted = Quantized(model, mix, types_of(mix, model.gguf), cores())
    if wanted.size >= model.size:
        now = next(iter(model.gguf.type_counts()))
        raise LlamapackError(
            f"{model.path}: as {mix.name} it would not be smaller ({size_text(wanted.size)}) than "
            f"it is, mostly {now} ({size_text(model.size)}); build it without --quant"
        )
    # A tensor that has as few bits already gains nothing from another rounding.
    sizes = zip(tensors, wanted.types, wanted._sizes, strict=True)
    types = [kind if size < tensor.size else tensor.type for tensor, kind, size in sizes]
    result = Quantized(model, mix, types, wanted.threads)
    pairs = zip(tensors, types, strict=True)
    twice = {t.type.name for t, kind in pairs if kind != t.type and t.type.name not in _FLOATS}
    if twice:
        result.warnings.append(
            f"the model is quantized already ({', '.join(sorted(twice))}): to {mix.name} it loses "
            "quality a second time; better start from its F16 or BF16 file"
        )
    return result


def _in_order(items: Iterator["bytes | Future[bytes]"], most: int) -> Iterator[bytes]:
    """The results in the order of the items, with no more than `most` of them being worked on."""
    waiting: deque[bytes | Future[bytes]] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > most:
            yield _bytes_of(waiting.popleft())
    while waiting:
        yield _bytes_of(waiting.popleft())


def _bytes_of(item: "bytes | Future[bytes]") -> bytes:
    return item if isinstance(item, bytes) else item.result()


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
