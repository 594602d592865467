"""Reads what container.py wrote: opens, verifies, extracts.

The weights may lie in a file of their own (the partner), which is looked for beside the executable
by the name recorded and by the executable's own, as the runtime does (runtime_c/cli/partner.h).

The file may come from anyone. Offsets and sizes are checked before use; deflated entries are
inflated no further than their stated size; names were checked to be plain relative paths.

SPDX-License-Identifier: Apache-2.0
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llamapack.atomic import atomic_file
from llamapack.container import COMMENT_PREFIX, FORMAT, MANIFEST, hash_without, weights_name
from llamapack.errors import LlamapackError
from llamapack.formats import detect
from llamapack.launchers import payload_file
from llamapack.ziprecords import (
    DEFLATED,
    BadZip,
    End,
    Entry,
    check_name,
    find_end,
    parse_directory,
)

__all__ = [
    "Payload",
    "extract",
    "is_packed",
    "open_payload",
    "read_entry",
    "verify",
    "verify_alone",
]

_PIECE = 1 << 20
_MAX_MANIFEST = 64 << 20
_MAX_TEXT = 4 << 20
_KV_HEAD = 112
_FAT_LIMIT = 0xFFFFFFFF

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(slots=True)
class Payload:
    """A packed executable's archive, located and read but not verified."""

    path: Path
    file_size: int
    end: End
    entries: dict[str, Entry]
    manifest: dict[str, Any]
    partner: "Payload | None" = None  # the file with the weights, if they are not in this one
    partner_problem: str = ""  # why there is none although the manifest names one

    @property
    def model(self) -> Entry | None:
        """The weights in this very file; see `holder`."""
        return self.entries.get(text(self.manifest, "model"))

    @property
    def weights(self) -> dict[str, Any] | None:
        """The manifest's row about the file with the weights."""
        row = self.manifest.get("weights")
        return row if isinstance(row, dict) else None

    @property
    def holder(self) -> "Payload":
        """What holds the weights: this file, or its partner, which must be there."""
        if self.weights is None:
            return self
        if self.partner is None:
            raise LlamapackError(self.partner_problem)
        return self.partner

    @property
    def root(self) -> str:
        """The SHA-256 of the weights in this file (the root over their chunks); "" if unknown."""
        name = text(self.manifest, "model")
        return text(self.entry_row(name), "sha256") if name else ""

    def entry_row(self, name: str) -> dict[str, Any]:
        """The manifest's row about an entry; empty when there is none."""
        rows = self.manifest.get("entries")
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and text(row, "name") == name:
                return row
        return {}

    @property
    def covered(self) -> int:
        """Bytes that are ours: to the end of the archive."""
        return self.end.fixed_end + len(self.end.comment)

    @property
    def system_kv(self) -> dict[str, Any] | None:
        """The manifest's row about the system prompt evaluated at build time."""
        row = self.manifest.get("system_kv")
        return row if isinstance(row, dict) and text(row, "entry") in self.entries else None


def is_packed(head: bytes) -> bool:
    """Whether a file that begins so is an executable or a file of weights made for one."""
    return bool(detect(head)) or head.startswith(b"PK\3\4")


def open_payload(path: Path) -> Payload:
    """Finds the archive at the end of an executable, or in an application, and reads its directory
    and manifest; the same for the file with its weights, if they are not inside."""
    path = payload_file(path)
    try:
        with path.open("rb") as file:
            payload = _open(path, file)
        if payload.weights is not None:
            _find_partner(payload, payload.weights)
        return payload
    except OSError as error:
        raise LlamapackError(f"cannot read {path}: {error.strerror}") from None
    except BadZip as bad:
        raise LlamapackError(f"{path}: {bad}") from None


def _open(path: Path, file: BinaryIO) -> Payload:
    size = file.seek(0, 2)

    def read(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    end = find_end(read, size)
    if end is None:
        if size == _FAT_LIMIT:
            raise LlamapackError(
                f"{path}: cut off at 4 GiB - 1, which is all that a FAT32 file system holds; copy "
                "the whole file to another one (exFAT, NTFS), or build with --split or --max-size"
            )
        raise LlamapackError(
            f"{path}: no archive at the end of this file (not packed by llamapack, cut off, "
            "or stripped: strip, objcopy and UPX remove it)"
        )
    entries = {entry.name: entry for entry in parse_directory(read, end)}
    entry = entries.get(MANIFEST)
    if entry is None:
        raise LlamapackError(f"{path}: holds an archive without {MANIFEST}: not made by llamapack")
    if entry.method == DEFLATED or entry.stored > _MAX_MANIFEST:
        raise LlamapackError(f"{path}: {MANIFEST} is compressed or too large")
    return Payload(path, size, end, entries, _parse_manifest(path, read(entry.data, entry.stored)))


def _parse_manifest(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError):
        raise LlamapackError(f"{path}: {MANIFEST} is damaged: not JSON") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise LlamapackError(f"{path}: {MANIFEST} is damaged: no format number")
    if manifest["format"] != FORMAT:
        raise LlamapackError(
            f"{path}: container format {manifest['format']} is not known to this llamapack "
            f"(it knows {FORMAT}); upgrade llamapack"
        )
    return manifest


def _find_partner(payload: Payload, row: dict[str, Any]) -> None:
    """Sets payload.partner, or says in payload.partner_problem why there is none."""
    recorded, path = text(row, "file"), payload.path
    try:
        check_name(recorded)
    except BadZip:
        recorded = ""
    if not recorded or "/" in recorded:
        raise LlamapackError(f"{path}: {MANIFEST} is damaged: no name of a file with the weights")
    real = path.resolve()
    places = (
        folder / name
        for folder in (real.parent, path.absolute().parent)
        for name in (weights_name(real.name), recorded)
    )
    strangers = []
    for place in dict.fromkeys(places):
        if not place.exists():
            continue
        try:
            payload.partner = _partner_at(payload, row, place)
            return
        except LlamapackError as error:
            strangers.append(str(error))
    payload.partner_problem = (
        strangers[0]
        if strangers
        else f"{path} needs {recorded} beside it, which is missing: the two belong together, copy "
        "both into one folder"
    )


def _partner_at(payload: Payload, row: dict[str, Any], place: Path) -> Payload:
    """The partner, if that is what lies there: by size, and by a hash that covers all its bytes."""
    size, there = number(row, "size"), place.stat().st_size
    if there < size:
        raise LlamapackError(f"{place}: cut off: {there:,} of {size:,} bytes; copy it again")
    stranger = f"{place} does not belong to {payload.path}: it is the file of another build"
    if there > size:
        raise LlamapackError(stranger)
    partner = open_payload(place)
    if partner.end.comment != COMMENT_PREFIX + text(row, "sha256").encode():
        raise LlamapackError(stranger)
    if partner.model is None or partner.weights is not None:
        raise LlamapackError(f"{place}: holds no weights")
    return partner


def verify(payload: Payload, progress: Progress | None = None) -> int:
    """Compares every byte with the manifest and the end record, in the partner as well; returns how
    many were checked. The error names each file that is missing or damaged."""
    total = payload.covered + (payload.partner.covered if payload.partner else 0)
    checked, problems = 0, []
    for one in (payload, payload.partner):
        if one is None:
            continue
        shift = checked
        show = (lambda done, _, shift=shift: progress(shift + done, total)) if progress else None
        try:
            checked += verify_alone(one, show)
        except LlamapackError as error:
            problems.append(str(error))
            checked += one.covered
    if payload.weights is not None and payload.partner is None:
        problems.append(payload.partner_problem)
    if problems:
        raise LlamapackError("; ".join(problems))
    return checked


def verify_alone(payload: Payload, progress: Progress | None = None) -> int:
    """The same for this file only, wherever its weights are."""
    try:
        with payload.path.open("rb") as file:
            return _Verifier(payload, file, progress).run()
    except OSError as error:
        raise LlamapackError(f"cannot read {payload.path}: {error.strerror}") from None


class _Verifier:
    def __init__(self, payload: Payload, file: BinaryIO, progress: Progress | None) -> None:
        self._payload = payload
        self._file = file
        self._progress = progress
        self._done = 0
        self._total = payload.covered

    def run(self) -> int:
        self._runtime()
        rows = self._rows()
        for row in rows:
            self._entry(row)
        self._rest([self._payload.entries[text(row, "name")] for row in rows])
        self._system_kv()
        self._program()
        return self._total

    def _fail(self, what: str) -> LlamapackError:
        return LlamapackError(f"{self._payload.path}: damaged: {what}")

    def _runtime(self) -> None:
        runtime = self._payload.manifest.get("runtime")
        if not isinstance(runtime, dict):
            raise self._fail("the manifest names no runtime")
        digest, at = hashlib.sha256(), 0
        self._runtime_size = number(runtime, "size")
        if self._runtime_size > self._total:
            raise self._fail("the runtime is larger than the file")
        skip = runtime.get("skip", [])
        if not isinstance(skip, list):
            raise self._fail("the manifest's ranges of the runtime make no sense")
        for span in [*skip, [self._runtime_size, 0]]:
            if not _is_span(span) or span[0] < at or sum(span) > self._runtime_size:
                raise self._fail("the manifest's ranges of the runtime make no sense")
            for piece in self._read(at, span[0] - at):
                digest.update(piece)
            at = span[0] + span[1]
            self._step(span[1])
        if digest.hexdigest() != text(runtime, "sha256"):
            raise self._fail("the runtime differs from its hash")

    def _program(self) -> None:
        """The executable of an application, which stands in a file of its own."""
        row = self._payload.manifest.get("program")
        if row is None:
            return
        name, skip = text(row, "name") if isinstance(row, dict) else "", row.get("skip", [])
        if not name or "/" in name or not isinstance(skip, list) or not all(map(_is_span, skip)):
            raise self._fail("the manifest's row about the program makes no sense")
        path = self._payload.path.parents[1] / "MacOS" / name
        try:
            with path.open("rb") as file:
                data = file.read(number(row, "size"))
        except OSError as error:
            raise LlamapackError(f"cannot read {path}: {error.strerror}") from None
        if hash_without(data, sorted(map(tuple, skip))) != text(row, "sha256"):
            raise LlamapackError(f"{path}: damaged: the program differs from its hash")
        self._total += len(data)

    def _rows(self) -> list[dict[str, Any]]:
        rows = self._payload.manifest.get("entries")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._fail("the manifest lists no entries")
        listed = [text(row, "name") for row in rows]
        if sorted([*listed, MANIFEST]) != sorted(self._payload.entries):
            raise self._fail("the manifest and the archive's directory list different entries")
        return rows

    def _entry(self, row: dict[str, Any]) -> None:
        entry = self._payload.entries[text(row, "name")]
        if (entry.size, entry.stored) != (number(row, "size"), number(row, "stored")):
            raise self._fail(f"{entry.name} is not as large as the manifest says")
        digest = hashlib.sha256()
        if "chunks" in row:
            self._chunks(entry, row, digest)
        else:
            for piece in self._read(entry.data, entry.stored):
                digest.update(piece)
        if digest.hexdigest() != text(row, "sha256"):
            raise self._fail(f"{entry.name} differs from its hash")

    def _chunks(self, entry: Entry, row: dict[str, Any], root: "hashlib._Hash") -> None:
        size, chunks = number(row, "chunk_size"), row["chunks"]
        if size < 1 or not isinstance(chunks, list) or len(chunks) != -(-entry.stored // size):
            raise self._fail(f"the manifest's chunks of {entry.name} make no sense")
        for index, expected in enumerate(chunks):
            begin = index * size
            digest = hashlib.sha256()
            for piece in self._read(entry.data + begin, min(size, entry.stored - begin)):
                digest.update(piece)
            if digest.hexdigest() != expected:
                raise self._fail(f"{entry.name} differs from its hash near byte {begin}")
            root.update(digest.digest())

    def _rest(self, entries: list[Entry]) -> None:
        """Everything behind the runtime but the listed entries' data, against the comment."""
        digest, at = hashlib.sha256(), self._runtime_size
        for entry in sorted(entries, key=lambda entry: entry.data):
            if entry.data < at:
                raise self._fail("entries overlap")
            for piece in self._read(at, entry.data - at):
                digest.update(piece)
            at = entry.data + entry.stored
        for piece in self._read(at, self._payload.end.fixed_end - at):
            digest.update(piece)
        comment = self._payload.end.comment
        if comment != COMMENT_PREFIX + digest.hexdigest().encode():
            raise self._fail("the archive's headers or directory differ from their hash")
        self._step(len(comment))

    def _system_kv(self) -> None:
        """Whether the evaluated system prompt is of these weights: runtime_c/engine/kv_file.h."""
        row = self._payload.system_kv
        holder = self._payload if self._payload.weights is None else self._payload.partner
        weights = holder.model if holder else None
        if row is None or holder is None or weights is None:
            return
        entry = self._payload.entries[row["entry"]]
        self._file.seek(entry.data)
        head = self._file.read(min(_KV_HEAD, entry.stored))
        size = weights.size.to_bytes(8, "little")
        bound = head[32:64].hex() == holder.root and head[64:72] == size
        if len(head) != _KV_HEAD or not head.startswith(b"LPKVDATA") or not bound:
            raise self._fail(f"{entry.name} does not belong to {weights.name}")

    def _read(self, offset: int, count: int) -> Iterator[bytes]:
        self._file.seek(offset)
        while count > 0:
            piece = self._file.read(min(_PIECE, count))
            if not piece:
                raise self._fail("cut off")
            count -= len(piece)
            self._step(len(piece))
            yield piece

    def _step(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(self._done, self._total)


def read_entry(payload: Payload, entry: Entry, most: int = _MAX_TEXT) -> bytes:
    """A small entry's bytes (not more than `most`), inflated; its checksum must agree."""
    if entry.size > most:
        raise LlamapackError(f"{payload.path}: the entry {entry.name} is too large")
    with payload.path.open("rb") as source:
        source.seek(entry.data)
        data = b"".join(_inflated(source, entry))
    if zlib.crc32(data) != entry.crc32 or len(data) != entry.size:
        raise LlamapackError(f"{payload.path}: damaged: {entry.name} differs from its checksum")
    return data


def extract(payload: Payload, entry: Entry, out: Path, progress: Progress | None = None) -> None:
    """Writes one entry to a new file, atomically; its checksum must agree."""
    with payload.path.open("rb") as source, atomic_file(out, 0o644) as file:
        source.seek(entry.data)
        crc, done = 0, 0
        for piece in _inflated(source, entry):
            crc = zlib.crc32(piece, crc)
            file.write(piece)
            done += len(piece)
            if progress:
                progress(done, entry.size)
        if crc != entry.crc32 or done != entry.size:
            raise LlamapackError(f"{payload.path}: damaged: {entry.name} differs from its checksum")


def _inflated(source: BinaryIO, entry: Entry) -> Iterator[bytes]:
    left = entry.stored
    inflater = zlib.decompressobj(-15) if entry.method == DEFLATED else None
    room = entry.size
    while left:
        piece = source.read(min(_PIECE, left))
        if not piece:
            return
        left -= len(piece)
        if inflater is None:
            yield piece
            continue
        try:
            while piece and not inflater.eof:
                # One byte more than stated, so that too much is noticed and not produced.
                made = inflater.decompress(piece, min(_PIECE, room + 1))
                piece = inflater.unconsumed_tail
                room -= len(made)
                if room < 0:
                    raise LlamapackError(f"{entry.name} inflates to more than its stated size")
                yield made
        except zlib.error:
            raise LlamapackError(f"{entry.name} is damaged: it does not inflate") from None


def text(row: dict[str, Any], key: str) -> str:
    """The text under a key; "" when it is missing or something else."""
    value = row.get(key, "")
    return value if isinstance(value, str) else ""


def number(row: dict[str, Any], key: str) -> int:
    """The natural number under a key; 0 when it is missing or something else."""
    value = row.get(key, 0)
    return value if isinstance(value, int) and value >= 0 else 0


def _is_span(span: object) -> bool:
    return (
        isinstance(span, list)
        and len(span) == 2
        and all(isinstance(n, int) and n >= 0 for n in span)
    )
