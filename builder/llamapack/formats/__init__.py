"""What each executable format asks for around the payload.

A module per format (universal, elf, pe, macho), each with `mutable_ranges(data)`: the parts of a
runtime that signing it changes later, which its hash therefore leaves out; and `max_size`: the
largest file the system starts, or None.

SPDX-License-Identifier: Apache-2.0
"""

from types import ModuleType

from llamapack.formats import elf, macho, pe, universal

__all__ = ["FORMATS", "detect"]

# A universal file is a PE as well, so it is asked for first.
FORMATS: dict[str, ModuleType] = {"universal": universal, "elf": elf, "pe": pe, "macho": macho}


def detect(head: bytes) -> str | None:
    """The format whose magic number a file begins with."""
    for name, module in FORMATS.items():
        if head.startswith(module.MAGIC):
            return name
    return None
