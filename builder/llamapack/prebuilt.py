"""Runtimes that travel in a release wheel, so that a first build compiles nothing.

The folder `_prebuilt` of the package holds NAME.xz for each target (the runtime as build_runtimes
gives it) and manifest.json:

    {"format": 1, "zig": "0.17.1",
     "runtimes": {"linux-x86_64": {"key": "hex",      what it was built from: runtime_key
                                   "sha256": "hex",   of the runtime
                                   "size": 1234567},
                  ...},
     "licenses": {"musl/COPYRIGHT": "text"}}          of the C libraries linked into them

A runtime whose key is not that of the sources in the wheel is as if it were not there. A checkout
does not look here.

SPDX-License-Identifier: Apache-2.0
"""

import hashlib
import json
import lzma
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from llamapack.targets import Target

__all__ = ["FOLDER", "find", "library_license", "write", "zig_version"]

FOLDER = Path(__file__).resolve().parent / "_prebuilt"

_FORMAT = 1
_MANIFEST = "manifest.json"
_MOST = 64 << 20  # bytes of a runtime


def zig_version() -> str:
    """Of the compiler that made them; "" when there are none."""
    return str(_manifest().get("zig", ""))


def find(target: Target, key: str) -> bytes | None:
    """The target's runtime, if there is one of this key."""
    row = _manifest().get("runtimes", {}).get(target.name)
    if row is None or row["key"] != key:
        return None
    try:
        packed = (FOLDER / f"{target.name}.xz").read_bytes()
        data = lzma.LZMADecompressor(memlimit=_MOST * 4).decompress(packed, _MOST)
    except (OSError, EOFError, lzma.LZMAError):
        return None
    return data if hashlib.sha256(data).hexdigest() == row["sha256"] else None


def library_license(name: str) -> bytes:
    """The licence of a C library inside the runtimes, such as "musl/COPYRIGHT"; b"" if unknown."""
    return str(_manifest().get("licenses", {}).get(name, "")).encode()


@cache
def _manifest() -> dict[str, Any]:
    try:
        manifest = json.loads((FOLDER / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if manifest.get("format") == _FORMAT else {}


def write(
    folder: Path,
    zig: str,
    runtimes: Mapping[str, tuple[str, bytes]],
    licenses: Mapping[str, str],
) -> None:
    """Writes the folder; runtimes: key and bytes by the target's name."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name, (key, data) in runtimes.items():
        (folder / f"{name}.xz").write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
        rows[name] = {"key": key, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    manifest = {"format": _FORMAT, "zig": zig, "runtimes": rows, "licenses": dict(licenses)}
    text = json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=False)
    (folder / _MANIFEST).write_text(text, encoding="utf-8")
