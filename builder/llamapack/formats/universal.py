"""The universal file: a Windows executable whose first page is also a shell script.

Windows starts it as the PE that it is. Every other system's kernel refuses it, whereupon shells run
it as a script (what else starts programs does, too, or needs `sh ./FILE`): that unpacks the runtime
for its system, an entry of the payload, into the user's cache and becomes it.

    0x000     "MZa=\\n"         the DOS magic number; to a shell an assignment, and a first line of
                              text, as shells want it that look for binary files
    0x005     eval "`dd ...`" reads the script out of this page, so that no shell has to parse the
                              NUL bytes that follow (yash, OpenBSD's and ksh93 cannot)
    0x039     "#--"           opens a comment that hides
    0x03C     u32 e_lfanew    every byte of it below 0x80, none a newline or quote; 16-aligned
    0x040     the script      templates/launch/universal.sh, padded with newlines
    e_lfanew  the PE headers, and zeros to
    0x1000    the sections of the Windows runtime; then the payload (container.py), first of all
              runtime/OS-ARCH an entry per other system, stored, at a multiple of 4096 bytes and as
                              long as one, so that one dd unpacks it

The PE headers say SizeOfHeaders 0x1000, which is where the first section lies in memory too, and
whatever is an offset in the file moves by as much; addresses stay. All of it fits any number of
sections as long as headers and script share the page.

Mach-O runtimes are signed anew so that their padding lies in the signature (macho.py).

SPDX-License-Identifier: Apache-2.0
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamapack.errors import LlamapackError
from llamapack.formats import macho, pe
from llamapack.ziprecords import STORED, Entry, local_header

__all__ = ["BLOCK", "Slice", "Universal", "assemble", "posix_cksum"]

MAGIC = b"MZa="
BLOCK = 4096
max_size: int | None = pe.max_size
mutable_ranges = pe.mutable_ranges

_PAGE = 0x1000
_SCRIPT_AT = 0x40
_UNIT = 64  # of the dd that reads the script
_COFF, _SECTION = 24, 40  # "PE\0\0" and the COFF header; an entry of the section table
_BOUND_IMPORT, _DEBUG, _SECURITY = 11, 6, 4
_UNAME = {
    "linux": "Linux",
    "macos": "Darwin",
    "freebsd": "FreeBSD",
    "netbsd": "NetBSD",
    "openbsd": "OpenBSD",
}
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class Slice:
    """A runtime inside the payload."""

    target: str
    data: bytes  # a whole number of blocks

    @property
    def entry(self) -> str:
        return f"runtime/{self.target}"


@dataclass(frozen=True, slots=True)
class Universal:
    """What the container is written around: its runtime, and its first entries."""

    runtime: bytes  # first page and Windows sections
    slices: tuple[Slice, ...]


def assemble(windows: bytes, others: Mapping[str, bytes], script: str) -> Universal:
    """windows: a finished PE; others: target name (OS-ARCH) to executable, in the order they are to
    lie; script: the source of universal.sh."""
    slices = tuple(Slice(name, _whole_blocks(data)) for name, data in others.items())
    headers, body = _moved(windows)
    rows = _rows(slices, _PAGE + len(body))
    return Universal(_first_page(headers, _packed(script, rows)) + body, slices)


def _whole_blocks(runtime: bytes) -> bytes:
    if runtime.startswith(macho.MAGIC):
        return macho.sign(runtime, "llamapack-runtime", BLOCK)
    return runtime + bytes(-len(runtime) % BLOCK)


def posix_cksum(data: bytes) -> int:
    """What the POSIX utility cksum prints first: CRC-32 with the highest bit first, over the bytes
    and then their number, lowest byte first, without leading zeros. zlib's goes from the lowest
    bit, hence the bits of every byte turned, and begins and ends inverted."""
    length = len(data).to_bytes(-(-len(data).bit_length() // 8), "little")
    crc = zlib.crc32(length.translate(_REVERSED), zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF))
    return int(f"{crc ^ 0xFFFFFFFF:032b}"[::-1], 2) ^ 0xFFFFFFFF


# --- the script ------------------------------------------------------------------------------


def _rows(slices: Sequence[Slice], begin: int) -> str:
    """A line of the script's table per slice; the first entry's header follows at `begin`."""
    lines = []
    for piece in slices:
        size = len(piece.data)
        entry = Entry(piece.entry, STORED, 0, size, size, header=begin)
        local_header(entry, BLOCK)
        begin = entry.data + size
        system, _, machine = piece.target.partition("-")
        name = f"{piece.target}-{hashlib.sha256(piece.data).hexdigest()[:16]}"
        lines.append(
            f"{_UNAME[system]}-{machine}) n={name} b={entry.data // BLOCK} c={size // BLOCK} "
            f"k={posix_cksum(piece.data)} ;;"
        )
    return "\n".join(lines)


def _packed(script: str, rows: str) -> bytes:
    lines = (line.strip() for line in script.splitlines())
    kept = "\n".join(line for line in lines if line and not line.startswith("#"))
    assert kept.count("@SLICES@") == 1
    return kept.replace("@SLICES@", rows).encode("ascii") + b"\n"


def _first_page(headers: bytes, script: bytes) -> bytes:
    script = b"\n" + script
    count = -(-len(script) // _UNIT)
    at = _header_offset(len(headers))
    if _SCRIPT_AT + count * _UNIT > at:
        raise LlamapackError(
            f"the universal file's first page has no room: {len(script)} bytes of script and "
            f"{len(headers)} bytes of Windows headers; name fewer --slices"
        )
    line = f'eval "`dd bs={_UNIT} skip=1 count={count} 2>/dev/null <"$0"`"\n'
    page = (MAGIC + b"\n" + line.encode() + b"#").ljust(_SCRIPT_AT - 4, b"-")
    assert len(page) == _SCRIPT_AT - 4
    page += struct.pack("<I", at) + script
    return (page.ljust(at, b"\n") + headers).ljust(_PAGE, b"\0")


def _header_offset(size: int) -> int:
    """The last place for the headers whose number may stand in a line of text."""
    for at in range((_PAGE - size) // 16 * 16, _SCRIPT_AT, -16):
        if not any(byte >= 0x80 or byte in b"\n'" for byte in struct.pack("<I", at)):
            return at
    raise LlamapackError(f"the Windows runtime's headers do not fit a universal file ({size})")


# --- the Windows runtime ---------------------------------------------------------------------


def _moved(data: bytes) -> tuple[bytes, bytes]:
    """The PE headers as they stand in the first page, and all that follows the old ones."""
    pe.mutable_ranges(data)  # an error unless it is one
    (start,) = struct.unpack_from("<I", data, 0x3C)
    count, optional_size = struct.unpack_from("<H12xH", data, start + 6)
    optional = _COFF
    table = optional + optional_size
    headers = bytearray(data[start : start + table + count * _SECTION])
    (old,) = struct.unpack_from("<I", headers, optional + 60)
    (directories,) = struct.unpack_from("<I", headers, optional + 108)
    if len(headers) != table + count * _SECTION or not count or old > min(len(data), _PAGE):
        raise LlamapackError("the Windows runtime's headers do not fit a universal file")
    shift = _PAGE - old

    def directory(index: int) -> tuple[int, int]:
        if index >= directories:
            return 0, 0
        rva, size = struct.unpack_from("<II", headers, optional + 112 + index * 8)
        return rva, size

    if directory(_SECURITY)[0] or directory(_BOUND_IMPORT)[0]:
        raise LlamapackError("the Windows runtime is signed or bound already; that must come last")

    def move(at: int) -> None:
        (offset,) = struct.unpack_from("<I", headers, at)
        if offset:
            struct.pack_into("<I", headers, at, offset + shift)

    body = bytearray(data[old:])
    sections = range(table, len(headers), _SECTION)
    for debug in _debug_entries(headers, sections, directory(_DEBUG)):
        (offset,) = struct.unpack_from("<I", body, debug - old + 24)
        if offset:
            struct.pack_into("<I", body, debug - old + 24, offset + shift)
    for section in sections:
        rva, _, offset = struct.unpack_from("<III", headers, section + 12)
        if rva < _PAGE or 0 < offset < old:
            raise LlamapackError("the Windows runtime's sections do not fit a universal file")
        for field in (20, 24, 28):  # PointerToRawData, -Relocations, -Linenumbers
            move(section + field)
    if struct.unpack_from("<I", headers, table + 12)[0] != _PAGE:
        raise LlamapackError("the Windows runtime's first section does not follow its headers")
    move(12)  # PointerToSymbolTable
    struct.pack_into("<I", headers, optional + 60, _PAGE)
    struct.pack_into("<I", headers, optional + 64, 0)  # CheckSum
    return bytes(headers), bytes(body)


def _debug_entries(headers: bytearray, sections: range, where: tuple[int, int]) -> list[int]:
    """Offsets in the old file of the entries of the debug directory, 28 bytes each."""
    rva, size = where
    for section in sections:
        begin, length, offset = struct.unpack_from("<III", headers, section + 12)
        if size and begin <= rva and rva + size <= begin + length:
            return [offset + rva - begin + n for n in range(0, size // 28 * 28, 28)]
    return []
