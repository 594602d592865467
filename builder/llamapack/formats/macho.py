"""Mach-O (macOS): the payload follows __LINKEDIT. The kernel only demands that segments and the
code signature lie inside the file, and pages behind them need no hash as long as they are never
mapped executable. zig signs ARM64 output ad hoc; those bytes are kept as they are.

The hash of the runtime leaves out the signature's bytes, which another signing would replace.

Layout: 32 bytes of header (u32 magic, ..., u32 ncmds at 16), then load commands {u32 cmd, u32
size, ...}; LC_CODE_SIGNATURE (0x1D) holds u32 dataoff, u32 datasize.

SPDX-License-Identifier: Apache-2.0
"""

import struct

from llamapack.errors import LlamapackError

MAGIC = b"\xcf\xfa\xed\xfe"
max_size: int | None = None

_LC_CODE_SIGNATURE = 0x1D


def mutable_ranges(data: bytes) -> list[tuple[int, int]]:
    """The code signature's bytes, when there is one."""
    if len(data) < 32 or not data.startswith(MAGIC):
        raise LlamapackError("the macOS runtime is not a 64-bit Mach-O file")
    (count,) = struct.unpack_from("<I", data, 16)
    at = 32
    for _ in range(count):
        if at + 16 > len(data):
            raise LlamapackError("the macOS runtime's load commands are cut off")
        command, size, offset, length = struct.unpack_from("<IIII", data, at)
        if command == _LC_CODE_SIGNATURE:
            if offset + length > len(data):
                raise LlamapackError("the macOS runtime's signature lies outside the file")
            return [(offset, length)]
        if size < 8:
            raise LlamapackError("the macOS runtime has a load command of no size")
        at += size
    return []
