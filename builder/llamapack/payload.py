"""Reads what container.py wrote: opens, verifies, extracts.

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
from llamapack.container import COMMENT_PREFIX, FORMAT, MANIFEST
from llamapack.errors import LlamapackError
from llamapack.ziprecords import DEFLATED, BadZip, End, Entry, find_end, parse_directory

__all__ = ["Payload", "extract", "open_payload", "read_entry", "verify"]

_PIECE = 1 << 20
_MAX_MANIFEST = 64 << 20
_MAX_TEXT = 4 << 20
_KV_HEAD = 112

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

    @property
    def model(self) -> Entry | None:
        return self.entries.get(text(self.manifest, "model"))

    @property
    def system_kv(self) -> dict[str, Any] | None:
        """The manifest's row about the system prompt evaluated at build time."""
        row = self.manifest.get("system_kv")
        return row if isinstance(row, dict) and text(row, "entry") in self.entries else None


def open_payload(path: Path) -> Payload:
    """Finds the archive at the end of an executable and reads its directory and manifest."""
    try:
        with path.open("rb") as file:
            return _open(path, file)
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


def verify(payload: Payload, progress: Progress | None = None) -> int:
    """Compares every byte with the manifest and the end record; returns how many were checked."""
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
        self._total = payload.end.fixed_end + len(payload.end.comment)

    def run(self) -> int:
        self._runtime()
        rows = self._rows()
        for row in rows:
            self._entry(row)
        self._rest([self._payload.entries[text(row, "name")] for row in rows])
        self._system_kv(rows)
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

    def _system_kv(self, rows: list[dict[str, Any]]) -> None:
        """Whether the evaluated system prompt is of these weights: runtime_c/engine/kv_file.h."""
        row, weights = self._payload.system_kv, self._payload.model
        if row is None or weights is None:
            return
        entry = self._payload.entries[row["entry"]]
        self._file.seek(entry.data)
        head = self._file.read(min(_KV_HEAD, entry.stored))
        root = next(text(r, "sha256") for r in rows if text(r, "name") == weights.name)
        bound = head[32:64].hex() == root and head[64:72] == weights.size.to_bytes(8, "little")
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


def read_entry(payload: Payload, entry: Entry) -> bytes:
    """A small entry's bytes, inflated; its checksum must agree."""
    if entry.size > _MAX_TEXT:
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
