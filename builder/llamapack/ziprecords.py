"""The records of a ZIP file, byte for byte, as this project writes them (PKWARE APPNOTE 6.3).

Only what containers need: stored and deflated entries, ZIP64 where a number needs it, UTF-8
names, fixed times. Functions make bytes; `parse_end` and `parse_directory` read them back from
anyone's file, with every offset checked.

SPDX-License-Identifier: Apache-2.0
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "BadZip",
    "End",
    "Entry",
    "check_name",
    "directory",
    "find_end",
    "local_header",
    "parse_directory",
]

STORED, DEFLATED = 0, 8
_LIMIT32 = 0xFFFFFFFF
_LIMIT16 = 0xFFFF
_DOS_DATE = (1 << 5) | 1  # 1980-01-01, the earliest there is; the time is 00:00
_UTF8 = 1 << 11
_MADE_BY = (3 << 8) | 20  # Unix, so that the mode counts
_MODE = 0o100644 << 16
_PAD_ID = 0xD935  # the extra field that zipalign pads with: u16 alignment, then zeros
_PAD_LEAST = 6
_MAX_ENTRIES = 1 << 16
_MAX_DIRECTORY = 1 << 26

ReadAt = Callable[[int, int], bytes]
"""read(offset, count) of the whole file; shorter only past its end."""


class BadZip(Exception):
    """The archive breaks the rules; the text says how."""


@dataclass(slots=True)
class Entry:
    name: str
    method: int
    crc32: int
    stored: int  # bytes in the file
    size: int  # bytes after inflating
    header: int = 0  # offset of the local header
    data: int = 0  # offset of the first byte of data


@dataclass(frozen=True, slots=True)
class End:
    """Where the directory lies, and where the fixed 22 bytes of the end record end."""

    offset: int
    size: int
    count: int
    fixed_end: int
    comment: bytes


def local_header(entry: Entry, align: int = 1) -> bytes:
    """Zeros of a gap (if any), the header, its padding: data then begins on `align`.

    Expects entry.header to be where writing goes on; sets entry.header and entry.data."""
    name, flags = _name(entry)
    extra = b""
    if entry.size >= _LIMIT32 or entry.stored >= _LIMIT32:
        extra = struct.pack("<HHQQ", 1, 16, entry.size, entry.stored)
    need = -(entry.header + 30 + len(name) + len(extra)) % align
    if 0 < need < _PAD_LEAST:
        need += align
    gap = b""
    if need + len(extra) > _LIMIT16:
        # Too much for one extra field: zeros before the header do the same.
        gap, need = bytes(need % align), 0
    elif need:
        extra += struct.pack("<HHH", _PAD_ID, need - 4, min(align, 1 << 15))
        extra += bytes(need - _PAD_LEAST)
    entry.header += len(gap)
    entry.data = entry.header + 30 + len(name) + len(extra)
    return gap + (
        struct.pack(
            "<4sHHHHHIIIHH",
            b"PK\3\4",
            _version(entry),
            flags,
            entry.method,
            0,
            _DOS_DATE,
            entry.crc32,
            _cap(entry.stored),
            _cap(entry.size),
            len(name),
            len(extra),
        )
        + name
        + extra
    )


def directory(entries: list[Entry], offset: int, comment: bytes) -> bytes:
    """Central directory at `offset`, ZIP64 end when needed, end record; the comment comes last."""
    body = b"".join(_central(entry) for entry in entries)
    end = offset + len(body)
    out = body
    if len(entries) >= _LIMIT16 or len(body) >= _LIMIT32 or offset >= _LIMIT32:
        count, size = len(entries), len(body)
        out += struct.pack(
            "<4sQHHIIQQQQ", b"PK\6\6", 44, _MADE_BY + 25, 45, 0, 0, count, count, size, offset
        )
        out += struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    count16 = min(len(entries), _LIMIT16)
    fields = (b"PK\5\6", 0, 0, count16, count16, _cap(len(body)), _cap(offset), len(comment))
    return out + struct.pack("<4sHHHHIIH", *fields) + comment


def _central(entry: Entry) -> bytes:
    name, flags = _name(entry)
    large = [n for n in (entry.size, entry.stored, entry.header) if n >= _LIMIT32]
    extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    return (
        struct.pack(
            "<4sHHHHHHIIIHHHHHII",
            b"PK\1\2",
            _MADE_BY,
            _version(entry),
            flags,
            entry.method,
            0,
            _DOS_DATE,
            entry.crc32,
            _cap(entry.stored),
            _cap(entry.size),
            len(name),
            len(extra),
            0,
            0,
            0,
            _MODE,
            _cap(entry.header),
        )
        + name
        + extra
    )


def _name(entry: Entry) -> tuple[bytes, int]:
    return entry.name.encode(), 0 if entry.name.isascii() else _UTF8


def _version(entry: Entry) -> int:
    if max(entry.size, entry.stored, entry.header) >= _LIMIT32:
        return 45
    return 20


def _cap(number: int) -> int:
    return min(number, _LIMIT32)


def find_end(read: ReadAt, file_size: int) -> End | None:
    """The end record whose directory lies where it says and ends where the record begins.

    The signature alone proves nothing: runtimes hold its bytes in their own code, and a signed
    Windows file has a certificate table behind the record."""
    reach = min(file_size, 22 + 65535 + (1 << 20))
    tail_start = file_size - reach
    tail = read(tail_start, reach)
    at = tail.rfind(b"PK\5\6")
    while at >= 0:
        end = _try_end(read, tail_start + at, tail[at : at + 22 + 65535])
        if end is not None:
            return end
        at = tail.rfind(b"PK\5\6", 0, at)
    return None


def _try_end(read: ReadAt, at: int, record: bytes) -> End | None:
    if len(record) < 22:
        return None
    fields = struct.unpack_from("<4sHHHHIIH", record)
    _, disk, disk_cd, _, count, size, offset, comment_length = fields
    comment = record[22 : 22 + comment_length]
    if disk or disk_cd or len(comment) != comment_length:
        return None
    directory_end = at
    if _LIMIT32 in (size, offset) or count == _LIMIT16:
        locator = read(at - 20, 20) if at >= 20 else b""
        if len(locator) == 20 and locator[:4] == b"PK\6\7":
            (directory_end,) = struct.unpack_from("<Q", locator, 8)
            end64 = read(directory_end, 56) if directory_end < at else b""
            if len(end64) != 56 or end64[:4] != b"PK\6\6":
                return None
            count, size, offset = struct.unpack_from("<QQQ", end64, 32)
    if offset + size != directory_end or size > _MAX_DIRECTORY or count > _MAX_ENTRIES:
        return None
    if count and read(offset, 4) != b"PK\1\2":
        return None
    return End(offset, size, count, at + 22, comment)


def parse_directory(read: ReadAt, end: End) -> list[Entry]:
    """Every entry, with its data located inside the file and checked against its local header."""
    data = read(end.offset, end.size)
    if len(data) != end.size:
        raise BadZip("the archive's directory is cut off")
    entries: list[Entry] = []
    at = 0
    for _ in range(end.count):
        entry, at = _parse_central(data, at)
        _locate(read, entry, end)
        entries.append(entry)
    if at != len(data):
        raise BadZip("the archive's directory is longer than its entries")
    if len({entry.name for entry in entries}) != len(entries):
        raise BadZip("the archive names an entry twice")
    return entries


def _parse_central(data: bytes, at: int) -> tuple[Entry, int]:
    if len(data) - at < 46 or data[at : at + 4] != b"PK\1\2":
        raise BadZip("the archive's directory is damaged")
    fields = struct.unpack_from("<4sHHHHHHIIIHHHHHII", data, at)
    flags, method, crc, stored, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    name_length, extra_length, comment_length = fields[10:13]
    header = fields[16]
    name_end = at + 46 + name_length
    after = name_end + extra_length + comment_length
    if after > len(data):
        raise BadZip("the archive's directory is cut off")
    numbers = {"size": size, "stored": stored, "header": header}
    _apply_zip64(data[name_end : name_end + extra_length], numbers)
    try:
        name = data[at + 46 : name_end].decode("utf-8")
    except UnicodeDecodeError:
        raise BadZip("an entry's name is not UTF-8") from None
    check_name(name)
    if flags & 1 or method not in (STORED, DEFLATED):
        raise BadZip(f"the entry {name} is encrypted or compressed in an unknown way")
    if method == STORED and numbers["size"] != numbers["stored"]:
        raise BadZip(f"the entry {name} has two different sizes")
    return Entry(name, method, crc, numbers["stored"], numbers["size"], numbers["header"]), after


def _apply_zip64(extra: bytes, numbers: dict[str, int]) -> None:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + length]
        if kind == 1:
            for name in ("size", "stored", "header"):
                if numbers[name] == _LIMIT32:
                    if len(body) < 8:
                        raise BadZip("a ZIP64 record is cut off")
                    (numbers[name],) = struct.unpack_from("<Q", body)
                    body = body[8:]
        at += 4 + length


def check_name(name: str) -> None:
    """BadZip unless it is a plain relative path on every system."""
    parts = name.split("/")
    if (
        not name.isprintable()
        or any(part in ("", ".", "..") for part in parts)
        or any(c in name for c in '\\:*?"<>|')
    ):
        shown = "".join(c if c.isprintable() else "?" for c in name)
        raise BadZip(f"the entry name {shown!r} is not a plain relative path")


def _locate(read: ReadAt, entry: Entry, end: End) -> None:
    header = read(entry.header, 30) if entry.header < end.offset else b""
    if len(header) != 30 or header[:4] != b"PK\3\4":
        raise BadZip(f"the entry {entry.name} has no header where the directory says")
    name_length, extra_length = struct.unpack_from("<HH", header, 26)
    name = read(entry.header + 30, name_length)
    if name != entry.name.encode() or struct.unpack_from("<H", header, 8)[0] != entry.method:
        raise BadZip(f"the entry {entry.name} and its header disagree")
    entry.data = entry.header + 30 + name_length + extra_length
    if entry.data + entry.stored > end.offset:
        raise BadZip(f"the entry {entry.name} runs into the archive's directory")
