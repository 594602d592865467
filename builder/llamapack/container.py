"""The payload of an executable: an ordinary ZIP behind the runtime, and what it must hold.

The file, in order. All ZIP offsets count from the first byte of the whole file:

    runtime                  the executable for the target, as the linker made it
    runtime/...              stored      only in a universal file: see formats/universal.py
    icon.png or icon.ico     stored      what --icon named, as it was given, for packing again;
                                         only with that option
    licenses/...             stored      texts that must travel with the model and with llamapack
    web/...                  deflated    the page (stored where deflating does not help)
    model.gguf               stored      its data begins at a multiple of 64 KiB of the file: the
                                         local header's extra field 0xD935 is the padding (as
                                         zipalign does it), or a gap of zeros before the header
    system.kv                stored      at a multiple of 4 KiB, if there is one: see system_kv.py
    manifest.json            stored      UTF-8, sorted keys, no spaces; written last because it
                                         holds the hashes of all that was copied before it
    central directory        ZIP64 records only where a size or an offset needs them
    end record               with a comment of 81 bytes: "llamapack sha256 " and 64 hex digits

Names are UTF-8 (flag bit 11 only when not ASCII), times are 1980-01-01, "made by" is Unix 2.0
with mode 0644, CRCs stand in the local headers (no data descriptors). So two builds of the same
input give the same bytes.

manifest.json, format 1. Unknown keys are to be ignored; another major `format` is refused:

    {"format": 1,
     "builder": "llamapack 0.1.0",
     "target": "linux-x86_64",
     "slices": ["windows-x86_64", "linux-x86_64"],   only in a universal file: what it starts on
     "name": "",                        what the sender calls it; "" when not given
     "version": "2.1",                  the sender's, of the program; only when given
     "system": "",                      default system prompt; "" when not given
     "system_kv": {"entry": "system.kv", "tokens": 512,      only with that entry
                   "cpu": "avx2", "act": "int8", "kv_type": "f16"},
     "date": 1795564800,                only when prompts print a fixed date: seconds since 1970
     "args": ["--temp 0.7"],            default arguments, "--flag" or "--flag value" each
     "model": "model.gguf",             name of the weights' entry; "" without weights
     "chat_template_sha256": "",        of tokenizer.chat_template's bytes; "" when it has none
     "license": {"name": "apache-2.0",  general.license of the model; ""
                 "files": ["licenses/model/LICENSE"],      entries with texts, sorted
                 "notice": ""},         a line that must be shown, such as "Built with Llama"
     "weights": {                       only when the weights are in a file of their own:
       "file": "chat.weights",          its name, in the same folder
       "size": 5368840192,              bytes of that file
       "sha256": "hex",                 what its end record's comment says: it covers every byte
       "model": {"size": 5368709120,    of the weights in it; "sha256" is the root over the chunks
                 "sha256": "hex"}},
     "quantized": {"type": "Q4_K_M",    only when the builder quantized the weights
                   "from": {"F16": 2471645696}},   bytes by type before
     "runtime": {"size": 1234567,       bytes before the first entry
                 "sha256": "hex",       of those bytes less the ranges in "skip"
                 "skip": [[216, 4], [288, 8]]},   offset and length, ascending: what signing
                                        changes (PE CheckSum and security entry, Mach-O signature)
     "program": {"name": "chat",        only in an application of macOS (launchers.py): its archive
                 "size": 1234567, ...}, stands alone, so "runtime" is empty and this says the same
                                        of the program less its signature
     "entries": [                       every entry but manifest.json, in the order of the file
       {"name": "model.gguf",
        "size": 98362432,               bytes after inflating
        "stored": 98362432,             bytes in the file
        "sha256": "hex",                of the bytes as they lie in the file; when "chunks" is
                                        there: of the concatenated 32-byte digests (the root)
        "chunk_size": 67108864,         only with "chunks"
        "chunks": ["hex", ...]}]}       SHA-256 of each chunk; model.gguf has them, others do not

Every byte is covered: the runtime and the entries' data by the manifest; all the rest by the
comment of the end record. Its SHA-256 is taken over the bytes from runtime.size up to the end of
the 22 fixed bytes of the end record, in file order, leaving out the data of the entries listed in
the manifest (so local headers, padding, the manifest itself, the directory and the fixed part of
the end record are in it). What follows the comment (an Authenticode signature) is not ours.

Weights in a file of their own ("chat.weights" beside "chat.exe") are the same archive without a
runtime: model.gguf, the model's licence texts, and a manifest with "format", "model", "license",
"runtime" (of 0 bytes) and "entries". Nothing in it depends on the executable or on the version of
llamapack, so an executable built anew fits the weights that are there. What was evaluated with
them (system.kv) is in the executable.

SPDX-License-Identifier: Apache-2.0
"""

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import llamapack
from llamapack.errors import LlamapackError
from llamapack.formats import FORMATS
from llamapack.targets import Target
from llamapack.ziprecords import DEFLATED, STORED, Entry, directory, local_header

__all__ = [
    "ALIGNMENT",
    "CHUNK",
    "COMMENT_PREFIX",
    "FORMAT",
    "MANIFEST",
    "MODEL",
    "SYSTEM_KV",
    "Checksums",
    "Facts",
    "Part",
    "Partner",
    "Source",
    "Weights",
    "changed",
    "container_size",
    "file_pieces",
    "hash_without",
    "unchanged",
    "weights_name",
    "weights_size",
    "write_container",
    "write_weights",
]

FORMAT = 1
ALIGNMENT = 1 << 16
CHUNK = 64 << 20
MANIFEST = "manifest.json"
MODEL = "model.gguf"
SYSTEM_KV = "system.kv"
WEIGHTS_SUFFIX = ".weights"
COMMENT_PREFIX = b"llamapack sha256 "

_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Part:
    """A small entry, held in memory."""

    name: str
    data: bytes
    deflate: bool = False
    align: int = 1  # of the data in the file


class Source(Protocol):
    """Where the GGUF's bytes come from."""

    @property
    def size(self) -> int: ...

    def pieces(self) -> Iterator[bytes]:
        """Exactly `size` bytes, from first to last."""


@dataclass(frozen=True, slots=True)
class Checksums:
    """Of the weights: computed once, however many files they are written to."""

    crc32: int
    chunks: tuple[bytes, ...]  # SHA-256 of each CHUNK


@dataclass(frozen=True, slots=True)
class Weights:
    """A GGUF that is copied as it is: a range of a file."""

    path: Path
    offset: int
    size: int
    sha256: str = ""  # the root over their chunks, if it is known: copying then compares
    known: Checksums | None = None  # of bytes that this build wrote: copying does not compare

    def pieces(self) -> Iterator[bytes]:
        """The bytes; an error when the file changes while it is read."""
        try:
            yield from _pieces_of(self)
        except OSError as error:
            raise LlamapackError(f"cannot read {self.path}: {error.strerror}") from None

    def check(self, chunks: Sequence[bytes]) -> None:
        """An error when the digests of what was read are not those that it had before."""
        if self.sha256 and self.sha256 != hashlib.sha256(b"".join(chunks)).hexdigest():
            raise LlamapackError(
                f"{self.path}: damaged: its weights differ from their hash (llamapack verify says "
                "where)"
            )


@dataclass(frozen=True, slots=True)
class Partner:
    """The file with the weights that an executable without its own needs beside it."""

    file: str
    size: int
    sha256: str  # its end record's comment
    model_size: int
    model_sha256: str  # the root over the chunks


@dataclass(frozen=True, slots=True)
class Facts:
    """What the manifest says beyond names and hashes."""

    name: str = ""
    system: str = ""
    args: tuple[str, ...] = ()
    chat_template_sha256: str = ""
    license_name: str = ""
    license_files: tuple[str, ...] = ()
    notice: str = ""
    quantized: dict[str, Any] = field(default_factory=dict)
    system_kv: Mapping[str, Any] | None = None  # the row about it, less "entry"
    date: int | None = None
    partner: Partner | None = None
    program: Mapping[str, Any] | None = None  # of an application: launchers.program_row
    slices: tuple[str, ...] = ()
    version: str = ""


Bound = Callable[[bytes, int], bytes]
"""Of the weights' SHA-256 (the root over the chunks) and size: the bytes of system.kv for them."""


def write_container(
    out: BinaryIO,
    runtime: bytes,
    target: Target,
    parts: Sequence[Part],
    weights: Source | None,
    facts: Facts,
    progress: Callable[[int], None] | None = None,
    system_kv: Bound | None = None,
) -> None:
    """Writes runtime and payload from the file's beginning. progress: bytes of weights written."""
    _fill(_Writer(out, runtime), runtime, target, parts, weights, facts, progress, system_kv)


def container_size(
    runtime: bytes,
    target: Target,
    parts: Sequence[Part],
    weights: Source | None,
    facts: Facts,
    system_kv: Bound | None = None,
) -> int:
    """How many bytes write_container writes, to the byte; the weights are not read."""
    writer = _Measure(runtime)
    _fill(writer, runtime, target, parts, weights, facts, None, system_kv)
    return writer.size


def write_weights(
    out: BinaryIO,
    name: str,
    parts: Sequence[Part],
    weights: Source,
    license_name: str = "",
    progress: Callable[[int], None] | None = None,
) -> Partner:
    """Writes weights as a file of their own, to be called `name`, with the model's licence texts;
    what executables have to know of it."""
    return _fill_weights(_Writer(out, b""), name, parts, weights, license_name, progress)


def weights_size(parts: Sequence[Part], weights: Source, license_name: str = "") -> Partner:
    """What write_weights writes, to the byte, with zeros for hashes; the weights are not read."""
    return _fill_weights(_Measure(b""), "", parts, weights, license_name, None)


def weights_name(executable: str) -> str:
    """What the file with an executable's weights is called."""
    stem = executable[:-4] if executable.lower().endswith(".exe") else executable
    return f"{stem}{WEIGHTS_SUFFIX}"


def _fill(
    writer: "_Writer",
    runtime: bytes,
    target: Target,
    parts: Sequence[Part],
    weights: Source | None,
    facts: Facts,
    progress: Callable[[int], None] | None,
    system_kv: Bound | None,
) -> None:
    for part in parts:
        writer.add(part)
    root, size = "", 0
    if weights is not None:
        writer.add_weights(weights, progress)
        root, size = writer.rows[-1]["sha256"], weights.size
    elif facts.partner is not None:
        root, size = facts.partner.model_sha256, facts.partner.model_size
    if system_kv is not None and root:
        writer.add(Part(SYSTEM_KV, system_kv(bytes.fromhex(root), size), align=_PAGE))
    writer.finish(_manifest(runtime, target, weights, facts, writer.rows))


def _fill_weights(
    writer: "_Writer",
    name: str,
    parts: Sequence[Part],
    weights: Source,
    license_name: str,
    progress: Callable[[int], None] | None,
) -> Partner:
    writer.add_weights(weights, progress)
    for part in parts:
        writer.add(part)
    manifest = {
        "format": FORMAT,
        "model": MODEL,
        "license": {
            "name": license_name,
            "files": sorted(part.name for part in parts),
            "notice": "",
        },
        "runtime": {"size": 0, "sha256": hash_without(b"", []), "skip": []},
        "entries": writer.rows,
    }
    seal = writer.finish(_json(manifest))
    return Partner(name, writer.size, seal, weights.size, writer.rows[0]["sha256"])


class _Writer:
    """Writes entries in order and keeps what the manifest and the end record say about them."""

    def __init__(self, out: BinaryIO, runtime: bytes) -> None:
        self._out = out
        self._at = len(runtime)
        self._entries: list[Entry] = []
        self._rest = hashlib.sha256()  # of all that the manifest does not cover
        self.rows: list[dict[str, Any]] = []
        self.size = 0  # of the whole, once finished
        out.write(runtime)

    def add(self, part: Part) -> None:
        data, method = part.data, STORED
        if part.deflate:
            packed = _deflated(data)
            if len(packed) < len(data):
                data, method = packed, DEFLATED
        self._add(part.name, data, method, len(part.data), zlib.crc32(part.data), part.align)
        self.rows.append(_row(self._entries[-1], hashlib.sha256(data).hexdigest()))

    def _add(
        self, name: str, data: bytes, method: int, size: int, crc: int, align: int = 1
    ) -> None:
        entry = Entry(name, method, crc, len(data), size, header=self._at)
        header = local_header(entry, align)
        self._out.write(header)
        self._out.write(data)
        self._rest.update(header)
        self._at = entry.data + len(data)
        self._entries.append(entry)

    def add_weights(self, weights: Source, progress: Callable[[int], None] | None) -> None:
        entry = Entry(MODEL, STORED, 0, weights.size, weights.size, header=self._at)
        begin = self._at
        self._out.write(local_header(entry, ALIGNMENT))
        chunks = self._copy(weights, entry, progress)
        # The header again, now that the checksum is known.
        entry.header = begin
        header = local_header(entry, ALIGNMENT)
        self._out.seek(begin)
        self._out.write(header)
        self._rest.update(header)
        self._at = entry.data + weights.size
        self._out.seek(self._at)
        self._entries.append(entry)
        row = _row(entry, hashlib.sha256(b"".join(chunks)).hexdigest())
        self.rows.append(row | {"chunk_size": CHUNK, "chunks": [c.hex() for c in chunks]})

    def _copy(
        self, weights: Source, entry: Entry, progress: Callable[[int], None] | None
    ) -> list[bytes]:
        """Writes the weights and sets the entry's checksum; the digest of each chunk."""
        if isinstance(weights, Weights) and weights.known:
            _clone(weights, self._out, progress)
            entry.crc32 = weights.known.crc32
            return list(weights.known.chunks)
        chunks: list[bytes] = []
        chunk, in_chunk, done = hashlib.sha256(), 0, 0
        for piece in weights.pieces():
            entry.crc32 = zlib.crc32(piece, entry.crc32)
            if piece == _ZEROS:
                # A hole stays one; what is written behind the weights sets the file's end.
                self._out.seek(len(piece), os.SEEK_CUR)
            else:
                self._out.write(piece)
            done += len(piece)
            while in_chunk + len(piece) >= CHUNK:
                chunk.update(piece[: CHUNK - in_chunk])
                piece = piece[CHUNK - in_chunk :]
                chunks.append(chunk.digest())
                chunk, in_chunk = hashlib.sha256(), 0
            chunk.update(piece)
            in_chunk += len(piece)
            if progress:
                progress(done)
        if in_chunk:
            chunks.append(chunk.digest())
        assert done == weights.size
        if isinstance(weights, Weights):
            weights.check(chunks)
        return chunks

    def finish(self, manifest: bytes) -> str:
        """Writes what comes last; the digest in the end record's comment."""
        self._add(MANIFEST, manifest, STORED, len(manifest), zlib.crc32(manifest))
        self._rest.update(manifest)
        blank = bytes(len(COMMENT_PREFIX) + 64)
        records = directory(self._entries, self._at, blank)
        fixed = records[: -len(blank)]
        self._rest.update(fixed)
        seal = self._rest.hexdigest()
        self._out.write(fixed + COMMENT_PREFIX + seal.encode())
        self.size = self._at + len(records)
        return seal


class _Measure(_Writer):
    """Goes through the same steps and writes nothing; the weights are not read."""

    def __init__(self, runtime: bytes) -> None:
        super().__init__(_Nowhere(), runtime)

    def _copy(
        self, weights: Source, entry: Entry, progress: Callable[[int], None] | None
    ) -> list[bytes]:
        del entry, progress
        return [bytes(32)] * -(-weights.size // CHUNK)


class _Nowhere(io.BytesIO):
    def write(self, data: Any) -> int:
        return len(data)


@functools.lru_cache(maxsize=64)
def _deflated(data: bytes) -> bytes:
    """The page is measured, and written once per target."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _row(entry: Entry, digest: str) -> dict[str, Any]:
    return {"name": entry.name, "size": entry.size, "stored": entry.stored, "sha256": digest}


def _clone(weights: Weights, out: BinaryIO, progress: Callable[[int], None] | None) -> None:
    """Copies to where `out` stands, by the kernel if it can: some file systems then share the
    blocks."""
    begin = out.tell()
    done = 0
    try:
        with weights.path.open("rb") as file, unchanged(weights.path, file):
            out.flush()
            while hasattr(os, "copy_file_range") and done < weights.size:
                count = min(CHUNK, weights.size - done)
                moved = os.copy_file_range(
                    file.fileno(), out.fileno(), count, weights.offset + done, begin + done
                )
                if moved == 0:
                    raise changed(weights.path)
                done += moved
                if progress:
                    progress(done)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
    out.seek(begin + done)
    rest = Weights(weights.path, weights.offset + done, weights.size - done)
    for piece in rest.pieces():  # across file systems, and elsewhere than on Linux
        out.write(piece)
        done += len(piece)
        if progress:
            progress(done)


def _pieces_of(weights: Weights) -> Iterator[bytes]:
    with weights.path.open("rb") as file, unchanged(weights.path, file):
        yield from file_pieces(file, weights.offset, weights.size)


def file_pieces(file: BinaryIO, offset: int, size: int) -> Iterator[bytes]:
    """A range of a file, a little at a time."""
    while size:
        file.seek(offset)
        piece = file.read(min(_PIECE, size))
        if not piece:
            raise changed(file.name)
        offset += len(piece)
        size -= len(piece)
        yield piece


@contextlib.contextmanager
def unchanged(path: Path, file: BinaryIO) -> Iterator[None]:
    """An error at the end when somebody wrote to the file meanwhile."""
    before = os.fstat(file.fileno())
    yield
    after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise changed(path)


def changed(path: Path | str) -> LlamapackError:
    return LlamapackError(f"{path} changed while it was copied; build again")


def _manifest(
    runtime: bytes,
    target: Target,
    weights: Source | None,
    facts: Facts,
    rows: list[dict[str, Any]],
) -> bytes:
    skip = FORMATS[target.format].mutable_ranges(runtime) if runtime else []
    manifest = {
        "format": FORMAT,
        "builder": f"llamapack {llamapack.__version__}",
        "target": target.name,
        "name": facts.name,
        "system": facts.system,
        "args": list(facts.args),
        "model": MODEL if weights else "",
        "chat_template_sha256": facts.chat_template_sha256,
        "license": {
            "name": facts.license_name,
            "files": sorted(facts.license_files),
            "notice": facts.notice,
        },
        "runtime": {
            "size": len(runtime),
            "sha256": hash_without(runtime, skip),
            "skip": [list(span) for span in skip],
        },
        "entries": rows,
    }
    if facts.partner:
        partner = facts.partner
        manifest["weights"] = {
            "file": partner.file,
            "size": partner.size,
            "sha256": partner.sha256,
            "model": {"size": partner.model_size, "sha256": partner.model_sha256},
        }
    if facts.program is not None:
        manifest["program"] = dict(facts.program)
    if facts.quantized:
        manifest["quantized"] = facts.quantized
    if facts.system_kv is not None and (weights or facts.partner):
        manifest["system_kv"] = {"entry": SYSTEM_KV, **facts.system_kv}
    if facts.slices:
        manifest["slices"] = list(facts.slices)
    if facts.version:
        manifest["version"] = facts.version
    if facts.date is not None:
        manifest["date"] = facts.date
    return _json(manifest)


def _json(manifest: dict[str, Any]) -> bytes:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def hash_without(data: bytes, skip: Sequence[tuple[int, int]]) -> str:
    """SHA-256 of data less the (offset, length) ranges, which ascend."""
    digest, at = hashlib.sha256(), 0
    for offset, length in skip:
        digest.update(data[at:offset])
        at = offset + length
    digest.update(data[at:])
    return digest.hexdigest()
