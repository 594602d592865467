"""PE (Windows): the payload is appended; an Authenticode signature comes behind it.

Signing rewrites the checksum and the security directory entry of the optional header and appends
a certificate table; the hash of the runtime leaves both out, as Authenticode's own does. Windows
does not start a file of 4 GiB or more (CreateProcess fails with ERROR_BAD_EXE_FORMAT).

Layout: u32 at 0x3C is the offset of "PE\\0\\0"; 20 bytes of COFF header follow, then the optional
header, whose u16 magic 0x20B says PE32+: CheckSum at 64, data directories at 112, 8 bytes each,
the fifth of them (index 4) being the security entry.

SPDX-License-Identifier: Apache-2.0
"""

import struct

from llamapack.errors import LlamapackError

MAGIC = b"MZ"
max_size: int | None = 0xFFFFFFFF


def mutable_ranges(data: bytes) -> list[tuple[int, int]]:
    """CheckSum and the security directory entry: (offset, length), ascending."""
    if len(data) < 0x40:
        raise LlamapackError("the Windows runtime is too short for a PE file")
    (header,) = struct.unpack_from("<I", data, 0x3C)
    optional = header + 24
    if data[header : header + 4] != b"PE\0\0" or len(data) < optional + 112 + 5 * 8:
        raise LlamapackError("the Windows runtime is not a PE file")
    if struct.unpack_from("<H", data, optional)[0] != 0x20B:
        raise LlamapackError("the Windows runtime is not a 64-bit PE file")
    return [(optional + 64, 4), (optional + 112 + 4 * 8, 8)]
