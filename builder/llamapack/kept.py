"""What a packed executable hands on when it is packed again.

All that its builder decided: name, icon, version, system prompt and what was evaluated of it,
default arguments, licence texts, where its weights came from. `build PACKED` and `repack` both
start from here; what the user gives replaces what was kept.

SPDX-License-Identifier: Apache-2.0
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamapack import container
from llamapack.icons import ICON_ENTRIES, MAX_FILE, IconFile
from llamapack.payload import Payload, number, read_entry, text

__all__ = ["Kept", "KeptKv", "kept_of"]

_LICENSES = "licenses/model/"


@dataclass(frozen=True, slots=True)
class KeptKv:
    """An evaluated system prompt where it lies (system_kv.py), and the manifest's row about it."""

    path: Path
    offset: int
    size: int
    sha256: str  # as the manifest has it
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """Decisions of an earlier build, as its manifest has them."""

    target: str = ""  # what it was packed for; "" for a file of weights alone
    name: str = ""
    system: str = ""
    args: tuple[str, ...] = ()
    date: int | None = None  # of prompts that print one
    quantized: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""  # the root; "" when it is over chunks of another size
    system_kv: KeptKv | None = None
    licenses: dict[str, bytes] = field(default_factory=dict)  # texts by file name
    slices: str = ""  # of a universal file, as --slices takes them
    version: str = ""
    icon: IconFile | None = None


def kept_of(payload: Payload) -> Kept:
    """Reads it from an opened executable (or file of weights), whose weights must be there."""
    manifest, holder = payload.manifest, payload.holder
    args, date, quantized = (manifest.get(key) for key in ("args", "date", "quantized"))
    slices = manifest.get("slices")
    slices = slices if isinstance(slices, list) else []
    texts = {
        name.removeprefix(_LICENSES): read_entry(one, entry)
        for one in (holder, payload)
        for name, entry in one.entries.items()
        if name.startswith(_LICENSES)
    }
    weights = holder.entry_row(text(holder.manifest, "model"))
    kv = None
    if (row := payload.system_kv) is not None:
        entry = payload.entries[row["entry"]]
        if not entry.method:
            digest = text(payload.entry_row(entry.name), "sha256")
            kv = KeptKv(payload.path, entry.data, entry.stored, digest, row)
    return Kept(
        text(manifest, "target"),
        text(manifest, "name"),
        text(manifest, "system"),
        tuple(arg for arg in args if isinstance(arg, str)) if isinstance(args, list) else (),
        date if isinstance(date, int) and date >= 0 else None,
        quantized if isinstance(quantized, dict) else {},
        holder.root if number(weights, "chunk_size") == container.CHUNK else "",
        kv,
        texts,
        ",".join(name for name in slices if isinstance(name, str)),
        text(manifest, "version"),
        _icon_of(payload),
    )


def _icon_of(payload: Payload) -> IconFile | None:
    entry = next((payload.entries[name] for name in ICON_ENTRIES if name in payload.entries), None)
    if entry is None:
        return None
    data = read_entry(payload, entry, MAX_FILE)
    return IconFile(data, f"{payload.path}: its icon", "; build it with --icon to replace it")
