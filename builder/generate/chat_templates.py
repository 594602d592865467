"""Makes fallback_templates.c: templates/chat/*.jinja as C strings.

Models without a chat template of their own get the one of their family; runtime_c/chat/fallback.c
says which. The texts travel byte for byte, sorted by name.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["generate"]

_HEAD = """\
/* fallback_templates.c - templates/chat/, made by builder/generate/chat_templates.py.
 * SPDX-License-Identifier: Apache-2.0 */
#include "chat/fallback.h"

"""
# C's own escapes; everything else outside of printable ASCII is written as three octal digits,
# which, unlike \\x, end by themselves.
_ESCAPES = {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n", ord("\t"): "\\t"}


def generate(root: Path, out: Path) -> None:
    """Writes out/fallback_templates.c from root/templates/chat."""
    sources = sorted((root / "templates" / "chat").glob("*.jinja"))
    rows = ",\n".join(_row(path) for path in sources)
    text = (
        f"{_HEAD}const lp_fallback lp_fallbacks[] = {{\n{rows},\n}};\n"
        f"const size_t lp_fallback_count = {len(sources)};\n"
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "fallback_templates.c").write_text(text, encoding="ascii", newline="\n")


def _row(path: Path) -> str:
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    literal = "\n".join(f'     "{_escaped(line)}"' for line in lines)
    return f'    {{"{path.stem}",\n{literal},\n     {len(data)}}}'


def _escaped(line: bytes) -> str:
    return "".join(
        _ESCAPES.get(byte, chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in line
    )
