"""model/container.c against archives by the builder, by Python's zipfile, and by hand.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from llamapack.container import Facts, Part, Weights, write_container
from llamapack.targets import find_target

# A runtime that brings the end record's signature in its own bytes, as every real one does.
RUNTIME = b"\x7fELF" + b"code PK\5\6 and PK\1\2 and PK\3\4 in an immediate" * 3 + b"\0" * 57
FACTS = Facts(
    name="Test chat",
    system="Be brief.",
    args=("--temp 0.7", "--no-browser"),
    chat_template_sha256="ab" * 32,
    license_name="apache-2.0",
    license_files=("licenses/model/LICENSE",),
    notice="Built with care",
)
MODEL_BYTES = random.Random(7).randbytes(70_001)


class Refused(Exception):
    """(code, text) of a failed lp_container call."""


class Archive:
    """An opened container; entries as {name: (bytes in the file, size, deflated, offset)}."""

    def __init__(self, lib: Any, ffi: Any, c_text: Any, handle: Any, base: Any) -> None:
        self.lib, self.ffi, self.c_text, self.handle = lib, ffi, c_text, handle
        self.entries: dict[str, tuple[bytes, int, bool, int]] = {}
        for i in range(lib.lp_container_count(handle)):
            entry = lib.lp_container_at(handle, i)
            name = c_text(entry.name).decode()
            data = bytes(ffi.buffer(entry.data, entry.stored_bytes))
            offset = entry.data - base
            self.entries[name] = (data, entry.bytes, entry.deflated, offset)
            assert lib.lp_container_find(handle, entry.name) == entry
        assert lib.lp_container_at(handle, len(self.entries)) == ffi.NULL

    def check(self, name: str) -> None:
        error = self.ffi.new("lp_error *")
        raw = self.ffi.new("char[]", name.encode())
        entry = self.lib.lp_container_find(
            self.handle, self.ffi.new("lp_str *", {"data": raw, "len": len(name.encode())})[0]
        )
        assert entry != self.ffi.NULL, name
        if self.lib.lp_container_check(entry, error) != self.lib.LP_OK:
            raise Refused(error.code, self.ffi.string(error.text).decode())

    def manifest(self) -> Any:
        return self.lib.lp_container_manifest(self.handle)

    def verify(self) -> list[tuple[int, int]]:
        error, seen = self.ffi.new("lp_error *"), []

        def note(_user: Any, done: int, total: int) -> None:
            seen.append((done, total))

        progress = self.ffi.callback("void(void *, uint64_t, uint64_t)", note)
        if self.lib.lp_container_verify(self.handle, progress, self.ffi.NULL, error):
            raise Refused(error.code, self.ffi.string(error.text).decode())
        return seen


Open = Callable[[bytes], Any]


@pytest.fixture
def opened(lib: Any, ffi: Any, c_text: Any) -> Open:
    @contextmanager
    def run(data: bytes) -> Iterator[Archive]:
        # The file's exact length, so that a sanitizer sees one byte too far.
        block = ffi.new("uint8_t[]", max(len(data), 1))
        ffi.memmove(block, data, len(data))
        out, error = ffi.new("lp_container **"), ffi.new("lp_error *")
        live = lib.lp_alloc_live()
        if lib.lp_container_open(out, block, len(data), error) != lib.LP_OK:
            assert out[0] == ffi.NULL
            assert lib.lp_alloc_live() == live
            raise Refused(error.code, ffi.string(error.text).decode())
        try:
            yield Archive(lib, ffi, c_text, out[0], block)
        finally:
            lib.lp_container_close(out[0])
            assert lib.lp_alloc_live() == live

    return run


def refusal(opened: Open, data: bytes, verify: bool = False) -> str:
    """The text with which the file is refused; fails when it is not."""
    try:
        with opened(data) as archive:
            if verify:
                archive.verify()
    except Refused as refused:
        return str(refused.args[1])
    pytest.fail("not refused")


def build(folder: Path, runtime: bytes = RUNTIME, model: bytes | None = MODEL_BYTES,
          target: str = "linux-x86_64", facts: Facts = FACTS) -> bytes:  # fmt: skip
    parts = [
        Part("licenses/model/LICENSE", b"Do what is right.\n"),
        Part("web/index.html", b"<p>page</p>\n" * 400, deflate=True),
        Part("web/Grüße.txt", b"x"),
    ]
    weights = None
    if model is not None:
        path = folder / "m.gguf"
        path.write_bytes(model)
        weights = Weights(path, 0, len(model))
    out = io.BytesIO()
    write_container(out, runtime, find_target(target), parts, weights, facts)
    return out.getvalue()


@pytest.fixture
def packed(tmp_path: Path) -> bytes:
    return build(tmp_path)


def test_reads_what_the_builder_writes(opened: Open, c_text: Any, packed: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(packed)) as reference, opened(packed) as archive:
        assert list(archive.entries) == reference.namelist()
        for name, (data, size, deflated, offset) in archive.entries.items():
            plain = zlib.decompress(data, -15) if deflated else data
            assert plain == reference.read(name)
            assert size == len(plain)
            assert packed[offset : offset + len(data)] == data
            archive.check(name)
        assert archive.entries["model.gguf"][0] == MODEL_BYTES
        assert archive.entries["model.gguf"][3] % 65536 == 0
        assert archive.entries["web/index.html"][2]

        manifest = archive.manifest()
        assert manifest.format == 1
        read = {
            key: c_text(getattr(manifest, key)).decode()
            for key in (
                "name target model_entry system license_name license_notice template_sha256"
            ).split()
        }
        assert read == {
            "name": "Test chat",
            "target": "linux-x86_64",
            "model_entry": "model.gguf",
            "system": "Be brief.",
            "license_name": "apache-2.0",
            "license_notice": "Built with care",
            "template_sha256": "ab" * 32,
        }
        assert c_text(manifest.builder).startswith(b"llamapack ")
        args = [c_text(manifest.args[i]) for i in range(manifest.n_args)]
        assert args == [b"--temp 0.7", b"--no-browser"]


def test_what_is_said_of_a_prepared_system_prompt(
    opened: Open, c_text: Any, tmp_path: Path, packed: bytes
) -> None:
    with opened(packed) as archive:
        plain = archive.manifest()
        root = hashlib.sha256(hashlib.sha256(MODEL_BYTES).digest()).digest()
        assert c_text(plain.model_sha256).decode() == root.hex()
        assert (c_text(plain.system_kv_entry), plain.has_date) == (b"", False)
    (tmp_path / "m.gguf").write_bytes(MODEL_BYTES)
    weights = Weights(tmp_path / "m.gguf", 0, len(MODEL_BYTES))
    facts = Facts(system_kv={"tokens": 3}, date=1_772_668_800)
    asked: list[tuple[bytes, int]] = []

    def bound(sha256: bytes, size: int) -> bytes:
        asked.append((sha256, size))
        return b"prepared" * 99

    out = io.BytesIO()
    target = find_target("linux-x86_64")
    write_container(out, RUNTIME, target, [], weights, facts, system_kv=bound)
    assert asked == [(root, len(MODEL_BYTES))]
    with opened(out.getvalue()) as archive:
        manifest = archive.manifest()
        assert c_text(manifest.system_kv_entry) == b"system.kv"
        assert (manifest.has_date, manifest.date) == (True, 1_772_668_800)
        assert archive.entries["system.kv"][:3] == (b"prepared" * 99, 792, False)
        assert archive.entries["system.kv"][3] % 4096 == 0
        archive.verify()


def test_verify_reads_every_byte_once(opened: Open, packed: bytes) -> None:
    with opened(packed) as archive:
        seen = archive.verify()
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == seen[-1][1] == len(packed) - 81  # all but the seal itself


def test_without_a_model(opened: Open, c_text: Any, tmp_path: Path) -> None:
    with opened(build(tmp_path, model=None)) as archive:
        assert c_text(archive.manifest().model_entry) == b""
        archive.verify()


def test_weights_of_several_chunks(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder's chunk is 64 MiB; with a small one the same code meets many and a short last."""
    import llamapack.container

    monkeypatch.setattr(llamapack.container, "CHUNK", 4096)
    monkeypatch.setattr(llamapack.container, "_PIECE", 1024)
    for size in (4096 * 3, 4096 * 3 + 1, 100, 4095):
        data = build(tmp_path, model=MODEL_BYTES[:size])
        with opened(data) as archive:
            archive.verify()
            offset = archive.entries["model.gguf"][3]
    data = build(tmp_path, model=MODEL_BYTES[: 4096 * 3 + 1])
    damaged = bytearray(data)
    damaged[offset + 4096 + 5] ^= 1
    assert "bytes 4096 to 8192" in refusal(opened, bytes(damaged), verify=True)


# --- damage ----------------------------------------------------------------------------------


def small(folder: Path) -> bytes:
    """Small enough for a look at every byte, and no 64 KiB of padding."""
    return build(folder, model=None)


def test_truncated_at_every_byte(opened: Open, tmp_path: Path) -> None:
    data = small(tmp_path)
    for end in range(len(data)):
        assert "no archive at the end" in refusal(opened, data[:end]), end


def test_every_flipped_bit_is_found(opened: Open, tmp_path: Path) -> None:
    """Opening may still work, verify must not; and nothing may crash."""
    data = small(tmp_path)
    rng = random.Random(11)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        assert refusal(opened, bytes(damaged), verify=True), at


def test_flipped_bits_of_headers_and_directory(opened: Open, tmp_path: Path) -> None:
    """Whatever still opens holds only entries inside the file."""
    data = small(tmp_path)
    directory = data.index(b"PK\1\2", len(RUNTIME))
    opened_anyway = 0
    for at in range(directory, len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            try:
                with opened(bytes(damaged)) as archive:
                    opened_anyway += 1
                    for name, (raw, _size, _deflated, offset) in archive.entries.items():
                        assert offset + len(raw) <= len(data), name
            except Refused:
                pass
    assert opened_anyway  # times and attributes are nobody's concern until verify


def test_overwritten_fields(opened: Open, tmp_path: Path) -> None:
    """Every 2, 4 and 8 bytes of the records take the values that break arithmetic."""
    data = small(tmp_path)
    start = data.index(b"PK\1\2", len(RUNTIME))
    values = [0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF,
              0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF]  # fmt: skip
    spots = list(range(start, len(data) - 81)) + list(range(len(RUNTIME), len(RUNTIME) + 60))
    for at in spots:
        for width in (2, 4, 8):
            for value in values:
                damaged = bytearray(data)
                low = value & ((1 << 8 * width) - 1)
                damaged[at : at + width] = low.to_bytes(width, "little")
                with suppress(Refused), opened(bytes(damaged[: len(data)])):
                    pass


def test_failing_memory(lib: Any, opened: Open, packed: bytes) -> None:
    for n in range(100):
        lib.lp_alloc_fail_at(n)
        try:
            with opened(packed):
                break
        except Refused as refused:
            assert refused.args[0] == lib.LP_ERR_MEMORY
    else:
        pytest.fail("never enough memory")
    lib.lp_alloc_fail_at(-1)
    assert n >= 5


# --- where the archive ends ------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"P", b"PK\5\6", b"PK\5\6" + bytes(18), RUNTIME, b"MZ" + bytes(200), RUNTIME * 500,
     b"PK\5\6" * 30000],
    ids=["empty", "one", "signature", "empty-zip", "runtime", "mz", "long", "only-signatures"],
)  # fmt: skip
def test_no_archive(opened: Open, data: bytes) -> None:
    assert "no archive at the end" in refusal(opened, data)


@pytest.mark.parametrize(
    "tail",
    [b"PK\5\6" * 50, b"PK\5\6" + bytes(18), b"PK\5\6" + b"\xff" * 18, b"\0" * 60000,
     b"PK\5\6\0\0\0\0\1\0\1\0" + struct.pack("<IIH", 46, 0, 0), b"signature" * 20000],
    ids=["many", "empty-zip", "ones", "zeros", "at-zero", "long"],
)  # fmt: skip
def test_data_behind_the_archive(opened: Open, packed: bytes, tail: bytes) -> None:
    with opened(packed + tail) as archive:
        assert "model.gguf" in archive.entries
        archive.verify()


def test_fake_end_inside_an_entry(opened: Open, tmp_path: Path) -> None:
    fake = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 46, 0, 0)
    with opened(build(tmp_path, model=MODEL_BYTES + fake * 100)) as archive:
        assert len(archive.entries) == 5


def pe_runtime() -> bytes:
    """The least of a PE32+ header that both readers accept."""
    optional = struct.pack("<H", 0x20B) + bytes(62) + bytes(4) + bytes(44) + bytes(16 * 8)
    pe = b"PE\0\0" + bytes(20) + optional
    return b"MZ" + bytes(0x3A) + struct.pack("<I", 0x40) + pe + b"code PK\5\6" * 20


def test_signed_windows_executable(opened: Open, tmp_path: Path) -> None:
    """A certificate table far longer than the reach of a scan: the header says where it begins."""
    data = bytearray(build(tmp_path, runtime=pe_runtime(), target="windows-x86_64"))
    data += bytes(-len(data) % 8)
    table = random.Random(5).randbytes(3 << 20) + b"PK\5\6" * 100
    entry = 0x40 + 24 + 112 + 4 * 8
    struct.pack_into("<II", data, entry, len(data), len(table))
    struct.pack_into("<I", data, 0x40 + 24 + 64, 0x12345678)  # the checksum, too, is rewritten
    with opened(bytes(data) + table) as archive:
        archive.verify()
    # Without the header's help the end record is out of reach.
    struct.pack_into("<II", data, entry, 0, 0)
    assert "no archive" in refusal(opened, bytes(data) + table)
    # A table that is said to lie outside changes nothing.
    struct.pack_into("<II", data, entry, 0xFFFFFFF0, 0xFFFFFFF0)
    with opened(bytes(data)) as archive:
        assert archive.entries


# --- archives by zipfile and by hand ---------------------------------------------------------


def by_zipfile(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b"",
               force64: bool = False) -> bytes:  # fmt: skip
    out = io.BytesIO(RUNTIME)
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "a", method) as archive:
        archive.comment = comment
        for name, data in entries.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=force64) as file:
                file.write(data)
    return out.getvalue()


@pytest.mark.parametrize("force64", [False, True])
@pytest.mark.parametrize("comment", [b"", b"a comment", b"PK\5\6" * 16000])
def test_archives_of_zipfile(opened: Open, comment: bytes, force64: bool) -> None:
    files = {"a.txt": b"alpha", "b/c.bin": bytes(range(256)), "empty": b""}
    data = by_zipfile(files, comment=comment, force64=force64)
    with opened(data) as archive:
        assert {name: raw for name, (raw, *_) in archive.entries.items()} == files
        assert archive.manifest() == archive.ffi.NULL
        with pytest.raises(Refused, match=r"no manifest\.json"):
            archive.verify()


def zip64_end(data: bytes, **changes: int) -> bytes:
    """The same archive with ZIP64 records and all ones in the end record."""
    at = data.rindex(b"PK\5\6")
    _, _, _, _, count, size, offset, comment = struct.unpack_from("<4sHHHHIIH", data, at)
    values = {"count": count, "size": size, "offset": offset, "at": at, "record": 44, "disks": 1}
    values |= changes
    record = struct.pack(
        "<4sQHHIIQQQQ", b"PK\6\6", values["record"], 45, 45, 0, 0,
        values["count"], values["count"], values["size"], values["offset"])  # fmt: skip
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, values["at"], values["disks"])
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, *[0xFFFFFFFF] * 2, comment)
    return data[:at] + record + locator + end + data[at + 22 :]


def test_zip64_end_record(opened: Open) -> None:
    data = by_zipfile({"a": b"1", "b": b"22"}, comment=b"c")
    assert zipfile.ZipFile(io.BytesIO(zip64_end(data))).namelist() == ["a", "b"]
    with opened(zip64_end(data)) as archive:
        assert archive.entries["b"][0] == b"22"
    for changes in (
        {"offset": 2**64 - 1}, {"size": 2**64 - 1}, {"size": 2**63}, {"at": 2**64 - 1}, {"at": 0},
        {"record": 2**64 - 1}, {"record": 43}, {"disks": 2}, {"count": 0}, {"offset": 0},
    ):  # fmt: skip
        assert "no archive" in refusal(opened, zip64_end(data, **changes)), changes
    for count in (1, 3, 2**32, 2**63, 2**64 - 1):
        assert "directory" in refusal(opened, zip64_end(data, count=count)), count


def with_zip64_entry(sizes: int = 3, cut: int = 0) -> bytes:
    """One entry whose central sizes and offset stand in a ZIP64 extra field."""
    name, data = b"big", b"contents"
    crc = zlib.crc32(data)
    header = len(RUNTIME)
    extra = struct.pack("<HHQQ", 1, 16, len(data), len(data))
    ones = 0xFFFFFFFF
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 0, 0, 33, crc, ones, ones, 3, len(extra))
    body = local + name + extra + data
    values = struct.pack("<QQQ", len(data), len(data), header)[: 8 * sizes - cut]
    extra = struct.pack("<HHB", 0x7777, 1, 9) + struct.pack("<HH", 1, len(values)) + values
    central = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, 0, 0, 0, 33, crc, ones, ones, 3, len(extra),
        0, 0, 0, 0, ones) + name + extra  # fmt: skip
    offset = header + len(body)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central), offset, 0)
    return RUNTIME + body + central + end


def test_zip64_entry(opened: Open) -> None:
    assert zipfile.ZipFile(io.BytesIO(with_zip64_entry())).read("big") == b"contents"
    with opened(with_zip64_entry()) as archive:
        assert archive.entries["big"][0] == b"contents"
    assert "ZIP64" in refusal(opened, with_zip64_entry(sizes=2))
    assert "ZIP64" in refusal(opened, with_zip64_entry(cut=1))


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/.", "a\\b", "c:x", "a\nb", "a\x7fb", "..",
     "dir/", "a*", "x" * 1025],
)  # fmt: skip
def test_names_that_could_leave_a_directory(opened: Open, name: str) -> None:
    # zipfile cleans some names itself, so a harmless one of the same length is replaced.
    plain = "n" * len(name.encode())
    data = by_zipfile({plain: b"data"}).replace(plain.encode(), name.encode())
    text = refusal(opened, data)
    assert "plain relative path" in text
    assert "\n" not in text


def test_name_that_is_not_utf8(opened: Open) -> None:
    data = by_zipfile({"nnnn": b"data"}).replace(b"nnnn", b"n\xff\xfen")
    assert "plain relative path" in refusal(opened, data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name(opened: Open) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    assert "two of this name" in refusal(opened, out.getvalue())


def test_entries_that_overlap(opened: Open) -> None:
    """Two directory entries on one header, as in a ZIP bomb: names differ in the directory only if
    the header's name is not compared; so the header is doubled inside the first entry's data."""
    inner = by_zipfile({"b": b"xyz"})[len(RUNTIME) :]
    inner_local = inner[: inner.index(b"PK\1\2")]
    data = by_zipfile({"a": inner_local})
    at = data.rindex(b"PK\5\6")
    directory = struct.unpack_from("<I", data, at + 16)[0]
    inner_central = bytearray(inner[inner.index(b"PK\1\2") : inner.rindex(b"PK\5\6")])
    struct.pack_into("<I", inner_central, 42, data.index(inner_local, len(RUNTIME) + 30))
    body = data[directory:at] + bytes(inner_central)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 2, 2, len(body), directory, 0)
    forged = data[:directory] + body + end
    assert zipfile.ZipFile(io.BytesIO(forged)).namelist() == ["a", "b"]
    assert "overlaps" in refusal(opened, forged)


@pytest.mark.parametrize(
    ("offset", "form", "value", "expected"),
    [
        (6, "<H", 1 << 3, "sizes behind the data"),
        (8, "<H", 8, "disagree"),
        (14, "<I", 1, "disagree"),
        (18, "<I", 5, "disagree"),
        (22, "<I", 5, "disagree"),
        (26, "<H", 2, "disagree"),
        (28, "<H", 60000, "cut off"),
        (30, "<B", ord("z"), "disagree"),
        (0, "<I", 0, "no header"),
    ],
)
def test_local_header_disagrees(
    opened: Open, offset: int, form: str, value: int, expected: str
) -> None:
    data = bytearray(by_zipfile({"a": b"1234"}))
    struct.pack_into(form, data, len(RUNTIME) + offset, value)
    assert expected in refusal(opened, bytes(data))


def test_compression_and_encryption_of_unknown_kind(opened: Open) -> None:
    data = bytearray(by_zipfile({"a": b"1234"}))
    central = data.index(b"PK\1\2", len(RUNTIME))
    struct.pack_into("<H", data, central + 10, 93)
    assert "unknown way" in refusal(opened, bytes(data))
    struct.pack_into("<H", data, central + 10, 0)
    struct.pack_into("<H", data, central + 8, 1)
    assert "encrypted" in refusal(opened, bytes(data))


def test_damaged_contents_are_found_by_check(opened: Open) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = bytearray(by_zipfile({"a": b"words and words " * 20}, method))
        data[len(RUNTIME) + 31 + 8] ^= 1
        with opened(bytes(data)) as archive, pytest.raises(Refused):
            archive.check("a")


# --- manifests -------------------------------------------------------------------------------

MANIFEST = {"format": 1, "name": "n", "model": "", "args": [], "future": {"x": [1, None]}}


def with_manifest(manifest: object, **entries: bytes) -> bytes:
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    return by_zipfile({"manifest.json": text} | entries)


def test_unknown_keys_are_ignored(opened: Open, c_text: Any) -> None:
    with opened(with_manifest(MANIFEST)) as archive:
        assert c_text(archive.manifest().name) == b"n"
        assert c_text(archive.manifest().license_name) == b""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 2}, "format 2, this runtime knows 1"),
        ({"format": 0}, "format 0"),
        ({"format": "1"}, "format"),
        ({"format": None}, "format"),
        ({"format": 1.5}, "format"),
        ({"format": 1e300}, "format"),
        ({"name": 5}, '"name" is not a text'),
        ({"name": "a\0b"}, "NUL"),
        ({"args": "x"}, '"args" is not a list'),
        ({"args": [1]}, "args"),
        ({"args": ["a\0"]}, "args"),
        ({"args": ["x"] * 2000}, "too long"),
        ({"license": []}, "license"),
        ({"license": {"name": 1}}, "name"),
        ({"model": "absent.gguf"}, "not there"),
        ({"model": ["x"]}, "model"),
        ({"system": {}}, "system"),
        ({"program": {"name": ""}}, '"program" has no name'),
    ],
)
def test_manifest_of_wrong_kind(opened: Open, changes: dict[str, object], expected: str) -> None:
    assert expected in refusal(opened, with_manifest(MANIFEST | changes))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"5", b"[" * 100000])
def test_manifest_that_is_not_json(opened: Open, text: bytes) -> None:
    assert "manifest.json" in refusal(opened, with_manifest(text))


def test_damaged_manifest_is_refused_at_the_start(opened: Open, packed: bytes) -> None:
    damaged = packed.replace(b'"system":"Be brief."', b'"system":"Be brief!"')
    assert damaged != packed
    assert "manifest.json" in refusal(opened, damaged)


def test_compressed_model_is_refused(opened: Open) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("manifest.json", json.dumps(MANIFEST | {"model": "m.gguf"}))
        archive.writestr("m.gguf", b"GGUF" * 100, zipfile.ZIP_DEFLATED)
    assert "must be stored" in refusal(opened, out.getvalue())


def test_model_that_is_not_aligned_is_refused(opened: Open) -> None:
    data = with_manifest(MANIFEST | {"model": "m"}, m=b"GGUF" * 16)
    at = data.index(b"GGUF")
    if at % 64 == 0:
        pytest.fail("the test's own file is aligned by chance")
    assert "not aligned" in refusal(opened, data)


def test_verify_finds_what_was_added_or_removed(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "added"
    path.write_bytes(small(tmp_path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.txt", b"more")
    assert refusal(opened, path.read_bytes(), verify=True)

    rows = [{"name": "gone", "size": 1, "stored": 1, "sha256": "0" * 64}]
    runtime = {"size": len(RUNTIME), "skip": [],
               "sha256": hashlib.sha256(RUNTIME).hexdigest()}  # fmt: skip
    manifest = MANIFEST | {"entries": rows, "runtime": runtime}
    assert "not in the archive" in refusal(opened, with_manifest(manifest), verify=True)
    manifest["entries"] = []
    text = refusal(opened, with_manifest(manifest, extra=b"1"), verify=True)
    assert "extra was added" in text
    assert "seal" in refusal(opened, with_manifest(manifest), verify=True)


@pytest.mark.parametrize(
    "runtime",
    [None, 5, {}, {"size": -1}, {"size": 2**60}, {"size": 10, "skip": 1},
     {"size": 10, "skip": [[5, 6]]}, {"size": 10, "skip": [[5, 2], [4, 1]]},
     {"size": 10, "skip": [[-1, 2]]}, {"size": 10, "skip": [[1]]}, {"size": 10, "skip": [1, 2]},
     {"size": 10, "skip": [[11, 0]]}, {"size": 10, "skip": [[1, 2**53]]}],
    ids=str,
)  # fmt: skip
def test_verify_with_a_hostile_runtime_row(opened: Open, runtime: object) -> None:
    assert refusal(opened, with_manifest(MANIFEST | {"runtime": runtime, "entries": []}), True)
