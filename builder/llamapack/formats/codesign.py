"""Signs a Mach-O executable ad hoc, as Apple's linker does: macOS starts nothing else on ARM64.

The signature stands at the end of __LINKEDIT, which ends the file; all numbers big-endian:

    SuperBlob      u32 0xFADE0CC0, length, 1 blob; index {u32 0 (CodeDirectory), u32 offset 20}
    CodeDirectory  u32 0xFADE0C02, length, version 0x20400, flags 0x20002 (ad hoc, linker-signed),
                   offset of the hashes, offset of the identifier (88), 0 special hashes, n hashes,
                   code limit; u8 hash size 32, hash type 2 (SHA-256), platform 0, log2 page size;
                   u32 0, scatter 0, team 0, 0; u64 code limit 0 (it fits 32 bits), offset and size
                   of __TEXT in the file, flags 1 (main binary); identifier; the hashes

The hashes are of the pages from the file's beginning up to the code limit, where the signature
begins, so the load commands are final before they are taken. Format: XNU's cs_blobs.h.

SPDX-License-Identifier: Apache-2.0
"""

import hashlib
import struct
from dataclasses import dataclass

from llamapack.errors import LlamapackError

__all__ = ["sign"]

_MAGIC = b"\xcf\xfa\xed\xfe"
_ARM64 = 0x0100000C
_LC_SEGMENT_64, _LC_CODE_SIGNATURE = 0x19, 0x1D
_HEADER, _SEGMENT, _SECTION, _LINKEDIT_DATA = 32, 72, 80, 16
_DIRECTORY = 88


@dataclass(slots=True)
class _Commands:
    """Where what signing reads or changes stands in the file."""

    text: tuple[int, int] | None = None  # __TEXT's range of the file: offset, size
    linkedit: int = 0  # offset of __LINKEDIT's load command
    signature: int = 0  # offset of LC_CODE_SIGNATURE
    first_section: int = 0  # offset of the first section's data: room for load commands ends
    end: int = 0  # offset behind the last load command


def sign(data: bytes, identifier: str, multiple: int) -> bytes:
    """The executable, signed anew. Its size is a multiple as asked: the room is the signature's."""
    code = bytearray(data)
    found = _find(code)
    arm = struct.unpack_from("<I", code, 4)[0] == _ARM64
    page = 1 << (14 if arm else 12)
    if not found.signature:
        code += bytes(-len(code) % 16)
        _add_command(code, found)
    begin = struct.unpack_from("<I", code, found.signature + 8)[0]
    begin = begin or len(code)
    del code[begin:]

    name = identifier.encode() + b"\0"
    count = -(-begin // page)
    length = _DIRECTORY + len(name) + 32 * count
    room = 20 + length
    room += -(begin + room) % multiple
    struct.pack_into("<II", code, found.signature + 8, begin, room)
    (offset,) = struct.unpack_from("<Q", code, found.linkedit + 40)
    size = begin + room - offset
    # Memory of whole pages, of the larger kind for both: it is the last segment.
    struct.pack_into("<QQQ", code, found.linkedit + 32, -(-size // 0x4000) * 0x4000, offset, size)

    assert found.text is not None
    hashes = [hashlib.sha256(code[at : at + page]).digest() for at in range(0, begin, page)]
    directory = struct.pack(
        ">9I4B4I4Q",
        *(0xFADE0C02, length, 0x20400, 0x20002),
        *(_DIRECTORY + len(name), _DIRECTORY, 0, count, begin),
        *(32, 2, 0, page.bit_length() - 1),
        *(0, 0, 0, 0),
        *(0, *found.text, 1),
    )
    blob = struct.pack(">5I", 0xFADE0CC0, 20 + length, 1, 0, 20) + directory + name
    return bytes(code) + (blob + b"".join(hashes)).ljust(room, b"\0")


def _find(code: bytearray) -> _Commands:
    if len(code) < _HEADER or not code.startswith(_MAGIC):
        raise LlamapackError("the macOS runtime is not a 64-bit Mach-O file")
    count, size = struct.unpack_from("<II", code, 16)
    found = _Commands(end=_HEADER + size, first_section=len(code))
    at = _HEADER
    for _ in range(count):
        command, length = struct.unpack_from("<II", code, at) if at + 8 <= found.end else (0, 0)
        if length < 8 or at + length > min(found.end, len(code)):
            raise LlamapackError("the macOS runtime's load commands are damaged")
        if command == _LC_CODE_SIGNATURE and length >= _LINKEDIT_DATA:
            found.signature = at
        elif command == _LC_SEGMENT_64 and length >= _SEGMENT:
            _note_segment(code, at, length, found)
        at += length
    if found.text is None or not found.linkedit:
        raise LlamapackError("the macOS runtime has no segment __TEXT or __LINKEDIT")
    _check_end(code, found)
    return found


def _note_segment(code: bytearray, at: int, length: int, found: _Commands) -> None:
    name = bytes(code[at + 8 : at + 24]).rstrip(b"\0")
    offset, size = struct.unpack_from("<QQ", code, at + 40)
    if name == b"__TEXT":
        found.text = (offset, size)
    elif name == b"__LINKEDIT":
        found.linkedit = at
    (sections,) = struct.unpack_from("<I", code, at + 64)
    for section in range(at + _SEGMENT, at + length - _SECTION + 1, _SECTION)[:sections]:
        (begin,) = struct.unpack_from("<I", code, section + 48)
        if begin:  # zero-filled ones have none
            found.first_section = min(found.first_section, begin)


def _check_end(code: bytearray, found: _Commands) -> None:
    """Whether __LINKEDIT ends the file, and the old signature __LINKEDIT: else what lies behind
    would be cut off."""
    offset, size = struct.unpack_from("<QQ", code, found.linkedit + 40)
    ends = [offset + size]
    if found.signature:
        ends.append(sum(struct.unpack_from("<II", code, found.signature + 8)))
    if any(end != len(code) for end in ends):
        raise LlamapackError("the macOS runtime does not end with its segment __LINKEDIT")


def _add_command(code: bytearray, found: _Commands) -> None:
    end = found.end + _LINKEDIT_DATA
    if end > found.first_section or any(code[found.end : end]):
        raise LlamapackError("the macOS runtime has no room for the command of a signature")
    struct.pack_into("<IIII", code, found.end, _LC_CODE_SIGNATURE, _LINKEDIT_DATA, 0, 0)
    count, size = struct.unpack_from("<II", code, 16)
    struct.pack_into("<II", code, 16, count + 1, size + _LINKEDIT_DATA)
    found.signature = found.end
