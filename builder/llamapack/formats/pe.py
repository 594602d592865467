"""PE (Windows): the payload is appended; an Authenticode signature comes behind it.

Signing rewrites the checksum and the security directory entry of the optional header and appends
a certificate table; the hash of the runtime leaves both out, as Authenticode's own does. Windows
does not start a file of 4 GiB or more (CreateProcess fails with ERROR_BAD_EXE_FORMAT).

Layout: u32 at 0x3C is the offset of "PE\\0\\0"; 20 bytes of COFF header follow (u16 number of
sections at 2), then the optional header, whose u16 magic 0x20B says PE32+: SizeOfInitializedData
at 8, SectionAlignment at 32, FileAlignment at 36, SizeOfImage at 56, SizeOfHeaders at 60, CheckSum
at 64, data directories at 112, 8 bytes each {RVA, size}: index 2 resources, 4 security. Then the
sections, 40 bytes each: name, u32 virtual size, RVA, raw size, raw offset, ..., flags at 36.

SPDX-License-Identifier: Apache-2.0
"""

import struct
from collections.abc import Sequence

from llamapack.errors import LlamapackError
from llamapack.formats.resources import Resource, section

MAGIC = b"MZ"
max_size: int | None = 0xFFFFFFFF


_SECTION = 40
_READABLE_DATA = 0x40000040


def mutable_ranges(data: bytes) -> list[tuple[int, int]]:
    """CheckSum and the security directory entry: (offset, length), ascending."""
    optional = _optional_header(data)
    return [(optional + 64, 4), (optional + 112 + 4 * 8, 8)]


def add_resources(data: bytes, resources: Sequence[Resource]) -> bytes:
    """The runtime with a section `.rsrc` behind its last one."""
    out = bytearray(data)
    optional = _optional_header(data)
    count, table, ends = _sections(data, optional)
    room = min([_u32(data, optional + 60), *(raw for _, raw, _ in ends if raw)])
    at = table + _SECTION * count
    if at + _SECTION > room or any(data[at : at + _SECTION]):
        raise LlamapackError(
            f"the Windows runtime's header has no room for one more section ({count} are there)"
        )
    if struct.unpack_from("<II", data, optional + 112 + 2 * 8) != (0, 0):
        raise LlamapackError("the Windows runtime has resources already")
    if max(raw_end for _, _, raw_end in ends) != len(data):
        raise LlamapackError("the Windows runtime has bytes behind its last section")
    step, file_step = _u32(data, optional + 32), _u32(data, optional + 36)
    rva = _aligned(max(end for end, _, _ in ends), step)
    body = section(resources, rva)
    raw = _aligned(len(data), file_step)
    raw_size = _aligned(len(body), file_step)
    struct.pack_into("<8sIIII12xI", out, at, b".rsrc", len(body), rva, raw_size, raw,
                     _READABLE_DATA)  # fmt: skip
    struct.pack_into("<H", out, optional - 20 + 2, count + 1)
    struct.pack_into("<I", out, optional + 8, _u32(data, optional + 8) + raw_size)
    struct.pack_into("<I", out, optional + 56, rva + _aligned(len(body), step))
    struct.pack_into("<II", out, optional + 112 + 2 * 8, rva, len(body))
    struct.pack_into("<I", out, optional + 64, 0)  # a checksum would be wrong from here on
    return bytes(out).ljust(raw, b"\0") + body.ljust(raw_size, b"\0")


def _optional_header(data: bytes) -> int:
    """Its offset, once its magic number and size are known to be right."""
    if len(data) < 0x40:
        raise LlamapackError("the Windows runtime is too short for a PE file")
    header = _u32(data, 0x3C)
    optional = header + 24
    if data[header : header + 4] != b"PE\0\0" or len(data) < optional + 112 + 5 * 8:
        raise LlamapackError("the Windows runtime is not a PE file")
    if struct.unpack_from("<H", data, optional)[0] != 0x20B:
        raise LlamapackError("the Windows runtime is not a 64-bit PE file")
    return optional


def _sections(data: bytes, optional: int) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Their number, the table's offset, and of each (end in memory, raw offset, raw end)."""
    count, size = struct.unpack_from("<H12xH", data, optional - 20 + 2)
    table = optional + size
    if count == 0 or table + _SECTION * count > len(data):
        raise LlamapackError("the Windows runtime's section table is cut off")
    rows = []
    for index in range(count):
        size, rva, raw_size, raw = struct.unpack_from("<IIII", data, table + _SECTION * index + 8)
        if raw + raw_size > len(data):
            raise LlamapackError("the Windows runtime's sections lie outside the file")
        rows.append((rva + (size or raw_size), raw, raw + raw_size))
    return count, table, rows


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _aligned(offset: int, step: int) -> int:
    return -(-offset // step) * step
