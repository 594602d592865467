"""The resources of a Windows executable: icon, version information, manifest.

The linker knows nothing of them. They are one section, `.rsrc`, that `pe.add_resources` appends to
a finished runtime, so that a prebuilt runtime needs no linking and every model can bring its own.

Layout (PE format, "The .rsrc Section"): three levels of directories, type / id / language, each
16 bytes of header (u16 count of ids at 14) and 8 bytes per entry {u32 id, u32 offset, high bit:
another directory}, ascending by id; then data entries {u32 RVA, u32 size, u32 code page, u32 0};
then the data. The directories' offsets count from the section, the data's are RVAs.

RT_GROUP_ICON is an .ico file's directory with the images' ids in place of their offsets.
RT_VERSION is a tree of {u16 length, u16 length of the value, u16 1 for text, key in UTF-16, value,
children}, each part at a multiple of 4; values of text are counted in UTF-16 units with the NUL.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import llamapack

if TYPE_CHECKING:
    from llamapack.icons import Image

__all__ = ["Resource", "describe_program", "section"]

_ICON, _GROUP_ICON, _VERSION, _MANIFEST = 3, 14, 16, 24
_ENGLISH = 0x0409  # what resource compilers take when they are told nothing
_UNICODE = 1200
_LONGEST = 200  # characters of a text of foreign origin
_NUMBERS = re.compile(r"[vV]?([0-9]{1,5}(?:\.[0-9]{1,5}){0,3})(?![0-9])")


@dataclass(frozen=True, slots=True)
class Resource:
    """One piece of data under its type and id."""

    kind: int
    id: int
    data: bytes


def describe_program(
    name: str, version: str, icon: Sequence[Image], manifest: bytes
) -> list[Resource]:
    """What every program carries. name: product and description; version: any text, "" for
    llamapack's own."""
    resources = [Resource(_ICON, i, image.data) for i, image in enumerate(icon, 1)]
    if icon:
        resources.append(Resource(_GROUP_ICON, 1, _group(icon)))
    resources.append(Resource(_VERSION, 1, _version_info(name, version)))
    resources.append(Resource(_MANIFEST, 1, manifest))
    return resources


def section(resources: Sequence[Resource], rva: int) -> bytes:
    """The section's bytes when it is loaded at rva. Same resources, same bytes."""
    kinds: dict[int, dict[int, bytes]] = {}
    for resource in sorted(resources, key=lambda resource: (resource.kind, resource.id)):
        kinds.setdefault(resource.kind, {})[resource.id] = resource.data
    # Directories first, level by level, then data entries, then data.
    ids_at = _directory_size(len(kinds))
    languages_at = ids_at + sum(_directory_size(len(ids)) for ids in kinds.values())
    count = sum(len(ids) for ids in kinds.values())
    entries_at = languages_at + count * _directory_size(1)
    data_at = _aligned(entries_at + count * 16, 8)

    top: list[tuple[int, int]] = []
    ids_level, languages, entries, data = b"", b"", b"", b""
    for kind, ids in kinds.items():
        top.append((kind, ids_at + len(ids_level) | 1 << 31))
        rows = []
        for number, piece in ids.items():
            rows.append((number, languages_at + len(languages) | 1 << 31))
            languages += _directory([(_ENGLISH, entries_at + len(entries))])
            entries += struct.pack("<IIII", rva + data_at + len(data), len(piece), 0, 0)
            data += _padded(piece, 8)
        ids_level += _directory(rows)
    return _padded(_directory(top) + ids_level + languages + entries, 8) + data


def _directory_size(count: int) -> int:
    return 16 + 8 * count


def _directory(rows: Sequence[tuple[int, int]]) -> bytes:
    head = struct.pack("<IIHHHH", 0, 0, 0, 0, 0, len(rows))
    return head + b"".join(struct.pack("<II", *row) for row in rows)


def _group(icon: Sequence[Image]) -> bytes:
    rows = [
        # One byte for a side, so that 256 is 0.
        struct.pack("<BBBBHHIH", i.width & 255, i.height & 255, i.colors, 0, 1, i.bits,
                    len(i.data), number)
        for number, i in enumerate(icon, 1)
    ]  # fmt: skip
    return struct.pack("<HHH", 0, 1, len(rows)) + b"".join(rows)


def version_numbers(version: str) -> tuple[int, int, int, int]:
    """The four numbers that Windows compares, from the text's beginning; 0 where it has none."""
    match = _NUMBERS.match(version)
    numbers = [min(int(part), 0xFFFF) for part in match[1].split(".")] if match else []
    major, minor, patch, build = (numbers + [0] * 4)[:4]
    return major, minor, patch, build


def _version_info(name: str, version: str) -> bytes:
    version = version or llamapack.__version__
    major, minor, patch, build = version_numbers(version)
    numbers = (major << 16 | minor, patch << 16 | build)
    # Signature, structure 1.0, file and product version, flags and their mask, Windows NT,
    # application, no subtype, no date.
    fixed = struct.pack(
        "<13I", 0xFEEF04BD, 0x10000, *numbers, *numbers, 0x3F, 0, 0x40004, 1, 0, 0, 0
    )
    texts = {
        "Comments": f"Made with llamapack {llamapack.__version__}",
        "FileDescription": name,
        "FileVersion": version,
        "InternalName": name,
        "ProductName": name,
        "ProductVersion": version,
    }
    rows = [_node(key, _clean(text), text=True) for key, text in texts.items()]
    table = _node(f"{_ENGLISH:04X}{_UNICODE:04X}", b"", rows, text=True)
    strings = _node("StringFileInfo", b"", [table], text=True)
    translation = _node("Translation", struct.pack("<HH", _ENGLISH, _UNICODE))
    variables = _node("VarFileInfo", b"", [translation], text=True)
    return _node("VS_VERSION_INFO", fixed, [strings, variables])


def _clean(text: str) -> bytes:
    """UTF-16 with its NUL; no control characters, not too long."""
    shown = "".join(c if c.isprintable() else " " for c in text[:_LONGEST])
    return f"{shown}\0".encode("utf-16-le", "replace")


def _node(key: str, value: bytes, children: Sequence[bytes] = (), *, text: bool = False) -> bytes:
    head = _padded(bytes(6) + f"{key}\0".encode("utf-16-le"), 4)
    body = head + value
    for child in children:
        body = _padded(body, 4) + child
    length = len(value) // 2 if text else len(value)
    return struct.pack("<HHH", len(body), length, int(text)) + body[6:]


def _aligned(offset: int, step: int) -> int:
    return -(-offset // step) * step


def _padded(data: bytes, step: int) -> bytes:
    return data + bytes(-len(data) % step)
