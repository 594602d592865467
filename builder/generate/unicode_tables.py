"""Makes unicode_tables.c: the general category and the white space of every code point.

Input is the package unicodedata2, pinned in pyproject.toml, and not the interpreter's own
unicodedata: the tokens of a text must not depend on the Python that built the runtime.

The output is the two-stage table that runtime_c/base/unicode.c reads: stage 1 gives the number of
a block of 256 code points, stage 2 the bytes of the distinct blocks. A byte holds the index of the
category in CATEGORIES (bits 0..4) and whether the code point is white space (bit 5).

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CATEGORIES", "WHITE_SPACE", "generate"]

# The order is the contract with runtime_c/base/unicode.h (LP_UC_LU is bit 0, and so on).
# fmt: off
CATEGORIES = [
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No",
    "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So",
    "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cs", "Cn",
]
# fmt: on
# The property White_Space (PropList.txt); unicodedata knows only categories. Stable since 6.3.
WHITE_SPACE = frozenset(
    [
        *range(0x09, 0x0E),
        0x20,
        0x85,
        0xA0,
        0x1680,
        *range(0x2000, 0x200B),
        0x2028,
        0x2029,
        0x202F,
        0x205F,
        0x3000,
    ]
)
SPACE_BIT = 0x20
BLOCK = 256


def entries() -> bytes:
    """The byte of every code point."""
    import unicodedata2

    index = {category: i for i, category in enumerate(CATEGORIES)}
    values = bytearray(index[unicodedata2.category(chr(c))] for c in range(0x110000))
    for code_point in WHITE_SPACE:
        values[code_point] |= SPACE_BIT
    return bytes(values)


def stages() -> tuple[list[int], list[bytes]]:
    """Block number of each 256 code points, and the distinct blocks in order of appearance."""
    values = entries()
    numbers: dict[bytes, int] = {}
    stage1 = []
    for begin in range(0, len(values), BLOCK):
        block = values[begin : begin + BLOCK]
        stage1.append(numbers.setdefault(block, len(numbers)))
    return stage1, list(numbers)


def array(name: str, values: bytes) -> str:
    lines = [
        ", ".join(str(value) for value in values[i : i + 24]) + ","
        for i in range(0, len(values), 24)
    ]
    body = "\n    ".join(lines)
    return f"const uint8_t {name}[{len(values)}] = {{\n    {body}\n}};\n"


def generate(root: Path, out: Path) -> None:
    """Writes out/unicode_tables.c. `root` is not needed: the input is a package."""
    import unicodedata2

    del root
    stage1, blocks = stages()
    if len(blocks) > 256:
        raise RuntimeError(f"{len(blocks)} distinct blocks do not fit a byte: raise BLOCK")
    text = (
        "/* unicode_tables.c - general categories of Unicode "
        f"{unicodedata2.unidata_version}, made by builder/generate/unicode_tables.py.\n"
        " * Do not edit. Layout: runtime_c/base/unicode.c.\n"
        " * SPDX-License-Identifier: Apache-2.0 AND Unicode-3.0 */\n"
        '#include "base/unicode.h"\n\n'
        + array("lp_unicode_stage1", bytes(stage1))
        + "\n"
        + array("lp_unicode_stage2", b"".join(blocks))
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "unicode_tables.c").write_text(text, encoding="ascii", newline="\n")
