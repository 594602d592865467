"""Mach-O (macOS): the payload follows __LINKEDIT. The kernel only demands that segments and the
code signature lie inside the file, and pages behind them need no hash as long as they are never
mapped executable. zig signs ARM64 output ad hoc; those bytes are kept as they are. Intel output
has no signature; `finish` gives it one of the same kind.

The hash of the runtime leaves out what another signing would replace: the signature's bytes, and
where the load commands say how long it and the segment around it are.

Layout: 32 bytes of header (u32 magic, u32 CPU type, ..., u32 ncmds at 16, u32 bytes of commands at
20), then load commands {u32 cmd, u32 size, ...}, then at least as many zeros as one more needs:
    LC_SEGMENT_64      0x19  char[16] name, u64 vmaddr, vmsize, fileoff, filesize, ...
    LC_CODE_SIGNATURE  0x1D  u32 dataoff, u32 datasize; the last bytes of __LINKEDIT and the file

The signature, all numbers big-endian (Apple's published cs_blobs.h; version 0x20400 of a
CodeDirectory is the first that says where executable code lies):
    super blob       u32 0xFADE0CC0, length, count = 1; index {u32 type = 0, offset = 20}
    code directory   u32 0xFADE0C02, length, version, flags, hash offset, identifier offset,
                     special slots = 0, code slots, code limit; u8 hash size = 32, hash type = 2
                     (SHA-256), platform = 0, log2 of the page; u32 0, scatter = 0, team = 0, 0;
                     u64 0; u64 offset, size, flags of the executable segment (1: main program);
                     then the identifier and a SHA-256 of each page up to the code limit

SPDX-License-Identifier: Apache-2.0
"""

import hashlib
import struct
from dataclasses import dataclass

from llamapack.errors import LlamapackError

__all__ = ["MAGIC", "finish", "max_size", "mutable_ranges", "program_size", "sign"]

MAGIC = b"\xcf\xfa\xed\xfe"
max_size: int | None = None

_LC_SEGMENT = 0x19
_LC_CODE_SIGNATURE = 0x1D
_ARM64 = 0x0100000C
_ADHOC, _LINKER_SIGNED = 0x2, 0x20000
_VERSION = 0x20400
_DIRECTORY = struct.Struct(">9I4B4I4Q")
_SUPER = 20


@dataclass(slots=True)
class _Segment:
    at: int  # of the load command
    fileoff: int
    filesize: int


@dataclass(slots=True)
class _Layout:
    cpu: int
    count: int
    commands_end: int
    segments: dict[str, _Segment]
    signature_at: int  # of LC_CODE_SIGNATURE; 0 when there is none
    signature: tuple[int, int]


def mutable_ranges(data: bytes) -> list[tuple[int, int]]:
    """What a signature brings or changes: (offset, length), ascending."""
    layout = _parse(data)
    if not layout.signature_at:
        return []
    spans = [(layout.signature_at + 12, 4), layout.signature]  # datasize
    if linkedit := layout.segments.get("__LINKEDIT"):
        spans += [(linkedit.at + 32, 8), (linkedit.at + 48, 8)]  # vmsize, filesize
    return sorted(spans)


def program_size(data: bytes) -> int:
    """How many bytes there are without the signature."""
    layout = _parse(data)
    return layout.signature[0] if layout.signature_at else len(data)


def finish(data: bytes, identifier: str) -> bytes:
    """Signs what the linker left unsigned."""
    return data if _parse(data).signature_at else sign(data, identifier)


def sign(data: bytes, identifier: str, multiple: int = 8) -> bytes:
    """The program with an ad hoc signature (which names nobody) in place of what it had. Its size
    is a multiple as asked: the padding is the signature's."""
    layout = _parse(data)
    linkedit = _linkedit(layout)
    out = bytearray(data[: program_size(data)])
    if linkedit.fileoff + linkedit.filesize < len(out):
        raise LlamapackError("the macOS program has bytes behind its last segment")
    out += bytes(-len(out) % 16)
    limit = len(out)
    page = 14 if layout.cpu == _ARM64 else 12
    name = identifier.encode() + b"\0"
    slots = (limit + (1 << page) - 1) >> page
    length = _SUPER + _DIRECTORY.size + len(name) + 32 * slots
    room = length + -(limit + length) % multiple
    _set_load_command(out, layout, limit, room)
    text = layout.segments["__TEXT"]
    filesize = limit + room - linkedit.fileoff
    vm_page = 1 << (14 if layout.cpu == _ARM64 else 12)
    struct.pack_into("<Q", out, linkedit.at + 32, filesize + -filesize % vm_page)
    struct.pack_into("<Q", out, linkedit.at + 48, filesize)
    hashes = b"".join(
        hashlib.sha256(out[at : min(at + (1 << page), limit)]).digest()
        for at in range(0, limit, 1 << page)
    )
    directory = _DIRECTORY.pack(
        0xFADE0C02, length - _SUPER, _VERSION, _ADHOC | _LINKER_SIGNED,
        _DIRECTORY.size + len(name), _DIRECTORY.size, 0, slots, limit,
        32, 2, 0, page,
        0, 0, 0, 0,
        0, text.fileoff, text.filesize, 1,
    )  # fmt: skip
    blob = struct.pack(">5I", 0xFADE0CC0, length, 1, 0, _SUPER) + directory + name + hashes
    return bytes(out) + blob.ljust(room, b"\0")


def _set_load_command(out: bytearray, layout: _Layout, offset: int, size: int) -> None:
    """LC_CODE_SIGNATURE, where it was or behind the other commands."""
    at = layout.signature_at
    if not at:
        at = layout.commands_end
        first = _first_section(out, layout)
        if at + 16 > first or any(out[at : at + 16]):
            raise LlamapackError("the macOS program has no room for a signature's load command")
        (length,) = struct.unpack_from("<I", out, 20)
        struct.pack_into("<II", out, 16, layout.count + 1, length + 16)
    struct.pack_into("<IIII", out, at, _LC_CODE_SIGNATURE, 16, offset, size)


def _first_section(data: bytes | bytearray, layout: _Layout) -> int:
    """Where the contents of __TEXT begin. Its sections' rows stand 72 bytes behind its command, 80
    bytes each, with a u32 file offset at 48."""
    text = layout.segments["__TEXT"]
    (count,) = struct.unpack_from("<I", data, text.at + 64)
    rows = range(text.at + 72, text.at + 72 + 80 * count, 80)
    return min((struct.unpack_from("<I", data, at + 48)[0] for at in rows), default=0)


def _linkedit(layout: _Layout) -> _Segment:
    if "__LINKEDIT" not in layout.segments or "__TEXT" not in layout.segments:
        raise LlamapackError("the macOS program lacks a segment")
    return layout.segments["__LINKEDIT"]


def _parse(data: bytes) -> _Layout:
    if len(data) < 32 or not data.startswith(MAGIC):
        raise LlamapackError("the macOS runtime is not a 64-bit Mach-O file")
    cpu, count, size = (struct.unpack_from("<I", data, at)[0] for at in (4, 16, 20))
    layout = _Layout(cpu, count, 32 + size, {}, 0, (0, 0))
    at = 32
    for _ in range(count):
        if at + 16 > len(data):
            raise LlamapackError("the macOS runtime's load commands are cut off")
        command, length, offset, extent = struct.unpack_from("<IIII", data, at)
        if command == _LC_SEGMENT and at + 72 <= len(data):
            name, _, _, start, filled = struct.unpack_from("<16s4Q", data, at + 8)
            segment = _Segment(at, start, filled)
            layout.segments[name.rstrip(b"\0").decode("latin-1")] = segment
        if command == _LC_CODE_SIGNATURE:
            if offset + extent > len(data):
                raise LlamapackError("the macOS runtime's signature lies outside the file")
            layout.signature_at, layout.signature = at, (offset, extent)
        if length < 8:
            raise LlamapackError("the macOS runtime has a load command of no size")
        at += length
    return layout
