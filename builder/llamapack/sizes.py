"""Sizes that people type, and what a disk or its file system can hold.

SPDX-License-Identifier: Apache-2.0
"""

import os
import re
import shutil
import sys
from collections.abc import Collection, Sequence
from fractions import Fraction
from pathlib import Path

from llamapack.errors import LlamapackError, UsageError

__all__ = ["LEAST_LIMIT", "check_files", "check_space", "exact_text", "file_limit", "parse_size"]

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9,
          "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}  # fmt: skip
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")
LEAST_LIMIT = 0xFFFFFFFF
"""The largest file of FAT, where a size is 32 bits of a directory entry."""

_MSDOS_MAGIC = 0x4D44  # f_type of FAT12, FAT16 and FAT32; exFAT has another


def parse_size(text: str) -> int:
    """Bytes of "3.9GiB", "700 MB" or "123456" (bytes); a UsageError otherwise."""
    match = _SIZE.fullmatch(text.strip())
    unit = match[2].upper() if match else ""
    if match is None or unit not in ("", *_UNITS) or ("." in match[1] and not unit):
        raise UsageError(
            f"--max-size {text}: no size; write it as 3.9GiB (KiB, MiB, GiB, KB, MB, GB, or bytes)"
        )
    size = int(Fraction(match[1]) * _UNITS.get(unit, 1))
    if not size:
        raise UsageError(f"--max-size {text}: nothing is that small")
    return size


def exact_text(size: int) -> str:
    """For messages where the last byte may matter."""
    if size < 1 << 20:
        return f"{size:,} bytes"
    unit, name = (1 << 30, "GiB") if size >= 1 << 30 else (1 << 20, "MiB")
    return f"{size / unit:,.2f} {name} ({size:,} bytes)"


def check_space(files: Sequence[tuple[Path, int]]) -> None:
    """Whether all of them can lie beside what is there now; nothing of that is counted as free, for
    the old file goes only when the new one is whole."""
    needed: dict[Path, int] = {}
    for path, size in files:
        needed[path.parent] = needed.get(path.parent, 0) + size
    for folder, total in needed.items():
        usage = shutil.disk_usage(folder)
        # A total of 0 is how a file system says that it does not know.
        if usage.total and usage.free < total:
            raise LlamapackError(
                f"not enough space in {folder}: {_mib(total)} needed, {_mib(usage.free)} free"
            )


def check_files(files: Sequence[tuple[Path, int]], splits: Collection[Path]) -> None:
    """Whether the file systems hold files so large. splits: those that --split would make fit."""
    for path, size in files:
        limit = file_limit(path.parent)
        if limit is None or size <= limit:
            continue
        advice = "; --max-size 4GB makes it smaller, and exFAT or NTFS hold it as it is"
        if path in splits:
            advice = "; --split writes program and weights as two files that fit"
        raise LlamapackError(
            f"cannot write {path}: it would have {exact_text(size)}, and {path.parent} is on a FAT "
            f"file system, which holds files up to 4 GiB - 1{advice}"
        )


def file_limit(folder: Path) -> int | None:
    """The largest file that this folder's file system holds; None when it is not worth asking."""
    try:
        return LEAST_LIMIT if _is_fat(folder) else None
    except (OSError, ValueError, AttributeError):
        return None


def _is_fat(folder: Path) -> bool:
    if sys.platform == "win32":
        return _windows_file_system(folder).startswith("FAT")
    if sys.platform == "linux":
        return _linux_magic(folder) == _MSDOS_MAGIC
    # macOS and the BSDs say how many bits a size has, with its sign: 33 for FAT.
    return os.pathconf(folder, "PC_FILESIZEBITS") <= 33


def _linux_magic(folder: Path) -> int:
    """f_type of statfs(2): the first field, a long; the whole takes 120 bytes."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    room = (ctypes.c_long * 64)()
    if libc.statfs(os.fsencode(folder), room):
        raise OSError(ctypes.get_errno(), "statfs")
    return int(room[0])


def _windows_file_system(folder: Path) -> str:
    if sys.platform != "win32":
        return ""
    import ctypes

    kernel = ctypes.windll.kernel32
    root, name = ctypes.create_unicode_buffer(1024), ctypes.create_unicode_buffer(64)
    if kernel.GetVolumePathNameW(str(folder.resolve()), root, 1024):
        kernel.GetVolumeInformationW(root, None, 0, None, None, None, name, 64)
    return name.value


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
