"""The container: an ordinary ZIP for everyone, every byte of it covered by verify.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import stat
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from llamapack import container, payload
from llamapack.container import Facts, Part, Weights, write_container
from llamapack.errors import LlamapackError
from llamapack.formats import FORMATS, detect
from llamapack.targets import TARGETS, find_target
from llamapack.ziprecords import BadZip, Entry, directory, find_end, local_header, parse_directory

# The runtime's own code holds the end record's signature, so a fake runtime does too.
RUNTIME = b"\x7fELF" + bytes(range(256)) * 9 + b"PK\5\6" + bytes(300) + b"PK\1\2 PK\3\4"
PARTS = [
    Part("licenses/model/LICENSE", b"text\n" * 50),
    Part("web/index.html", b"<p>hello</p>" * 500, deflate=True),
    Part("web/noise.bin", random.Random(1).randbytes(400), deflate=True),
    Part("web/\N{SNOWMAN}.txt", b"", deflate=True),
]


def pack(
    folder: Path,
    weights: bytes | None,
    *,
    name: str = "chat",
    runtime: bytes = RUNTIME,
    parts: list[Part] | None = None,
    target: str = "linux-x86_64",
) -> Path:
    path = folder / name
    source = None
    if weights is not None:
        file = folder / "weights.gguf"
        file.write_bytes(b"before" + weights + b"after")
        source = Weights(file, 6, len(weights))
    with path.open("wb+") as out:
        facts = Facts(name="A \N{SNOWMAN}", args=("--temp 0",), license_name="mit")
        rows = PARTS if parts is None else parts
        write_container(out, runtime, find_target(target), rows, source, facts)
    return path


def weights_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", [1, 4096, 65536, 300_001])
def test_zipfile_reads_every_entry(tmp_path: Path, size: int) -> None:
    data = weights_of(size)
    path = pack(tmp_path, data)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("model.gguf") == data
        assert [i.filename for i in archive.infolist()] == [
            *(part.name for part in PARTS),
            "model.gguf",
            "manifest.json",
        ]
        for part in PARTS:
            assert archive.read(part.name) == part.data
        assert archive.getinfo("web/index.html").compress_type == zipfile.ZIP_DEFLATED
        # Deflating noise makes it longer, so it is stored.
        assert archive.getinfo("web/noise.bin").compress_type == zipfile.ZIP_STORED
        for info in archive.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert stat.S_IMODE(info.external_attr >> 16) == 0o644
    assert path.read_bytes().startswith(RUNTIME)


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_unzip_lists_tests_and_extracts(tmp_path: Path) -> None:
    data = weights_of(70_000)
    path = pack(tmp_path, data)
    for option in ("-l", "-tq"):
        done = subprocess.run(["unzip", option, path], capture_output=True, text=True, check=False)
        # No "extra bytes at beginning": the offsets count from the start of the file.
        assert (done.returncode, done.stderr) == (0, "")
        assert "warning" not in done.stdout
    done = subprocess.run(["unzip", "-p", path, "model.gguf"], capture_output=True, check=True)
    assert done.stdout == data


def data_offset(path: Path, name: str = "model.gguf") -> int:
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        header = archive.getinfo(name).header_offset
    name_length, extra_length = struct.unpack_from("<HH", raw, header + 26)
    return header + 30 + name_length + extra_length


def test_weights_begin_on_64_kib(tmp_path: Path) -> None:
    """Wherever the runtime ends: also where the padding is 0, too small or too large for one
    extra field (0xD935 needs 6 bytes and takes 65535)."""
    header = 30 + len("model.gguf")
    ends = [65536 - header - n for n in (0, 1, 5, 6, 7, 65535, 65536 - 1, 40_000)]
    ends += [65536 + header + n for n in range(3)]
    for end in ends:
        runtime = b"\x7fELF" + bytes(max(end, 10) - 4)
        path = pack(tmp_path, weights_of(100), runtime=runtime, parts=[])
        assert data_offset(path) % 65536 == 0
        assert path.stat().st_size < len(runtime) + 2 * 65536 + 4096
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
        payload.verify(payload.open_payload(path))


def test_same_input_same_bytes(tmp_path: Path) -> None:
    first = pack(tmp_path, weights_of(5000), name="a").read_bytes()
    assert pack(tmp_path, weights_of(5000), name="b").read_bytes() == first


def test_manifest_says_what_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "CHUNK", 1 << 20)
    data = weights_of((5 << 19) + 3)
    path = pack(tmp_path, data)
    with zipfile.ZipFile(path) as archive:
        raw = archive.read("manifest.json")
    manifest = json.loads(raw)
    assert (
        raw
        == json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )
    assert manifest["format"] == 1
    assert manifest["name"] == "A \N{SNOWMAN}"
    assert manifest["args"] == ["--temp 0"]
    assert manifest["runtime"] == {
        "size": len(RUNTIME),
        "sha256": hashlib.sha256(RUNTIME).hexdigest(),
        "skip": [],
    }
    rows = {row["name"]: row for row in manifest["entries"]}
    chunks = [data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20)]
    digests = [hashlib.sha256(chunk).digest() for chunk in chunks]
    assert rows["model.gguf"]["chunks"] == [digest.hex() for digest in digests]
    assert rows["model.gguf"]["sha256"] == hashlib.sha256(b"".join(digests)).hexdigest()
    packed = rows["web/index.html"]
    begin = data_offset(path, "web/index.html")
    stored = path.read_bytes()[begin : begin + packed["stored"]]
    assert packed["sha256"] == hashlib.sha256(stored).hexdigest()
    assert packed["size"] == len(PARTS[1].data)
    payload.verify(payload.open_payload(path))


def test_verify_covers_the_whole_file(tmp_path: Path) -> None:
    path = pack(tmp_path, weights_of(3000))
    opened = payload.open_payload(path)
    seen: list[tuple[int, int]] = []
    size = path.stat().st_size
    assert payload.verify(opened, lambda done, total: seen.append((done, total))) == size
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_verify_finds_every_flipped_bit(tmp_path: Path) -> None:
    """1,000 places over all parts of the file, the long padding less often than the rest."""
    path = pack(tmp_path, weights_of(3000))
    raw = bytearray(path.read_bytes())
    model = data_offset(path)
    draw = random.Random(3)
    places = [draw.randrange(len(RUNTIME) + 1500) for _ in range(300)]
    places += [draw.randrange(len(raw)) for _ in range(100)]
    places += [model - 1, model, model + 2999, len(raw) - 1]
    places += [draw.randrange(model, len(raw)) for _ in range(596)]
    for place in places:
        bit = 1 << draw.randrange(8)
        raw[place] ^= bit
        path.write_bytes(raw)
        raw[place] ^= bit
        with pytest.raises(LlamapackError) as caught:
            payload.verify(payload.open_payload(path))
        assert len(str(caught.value).splitlines()) == 1, place


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = pack(tmp_path, weights_of(3000)).read_bytes()
    path = tmp_path / "cut"
    draw = random.Random(4)
    for size in [
        *range(len(whole) - 300, len(whole)),
        *(draw.randrange(len(whole)) for _ in "x" * 50),
    ]:
        path.write_bytes(whole[:size])
        with pytest.raises(LlamapackError, match="no archive at the end|damaged|cut off"):
            payload.verify(payload.open_payload(path))


def test_bytes_behind_the_archive_are_not_ours(tmp_path: Path) -> None:
    """As Authenticode leaves them: found, verified, and not counted."""
    path = pack(tmp_path, weights_of(3000))
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"signature PK\5\6 " * 700)
    opened = payload.open_payload(path)
    assert payload.verify(opened) == size
    assert opened.file_size == size + 700 * 15


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_signing_does_not_break_verify(tmp_path: Path, target: object) -> None:
    """The parts of a runtime that signing changes are left out of its hash."""
    name = getattr(target, "name", "")
    runtime = fake_runtime(find_target(name).format)
    path = pack(tmp_path, weights_of(100), runtime=runtime, target=name)
    skip = FORMATS[find_target(name).format].mutable_ranges(runtime)
    raw = bytearray(path.read_bytes())
    for offset, length in skip:
        raw[offset : offset + length] = b"\xaa" * length
        for outside in (offset - 1, offset + length):
            damaged = bytearray(raw)
            damaged[outside] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(LlamapackError, match="runtime differs"):
                payload.verify(payload.open_payload(path))
    path.write_bytes(raw)
    payload.verify(payload.open_payload(path))


def fake_runtime(kind: str) -> bytes:
    if kind in ("pe", "universal"):
        data = bytearray((b"MZ" if kind == "pe" else b"MZa=") + bytes(1022))
        data = data[:1024]
        struct.pack_into("<I", data, 0x3C, 128)
        data[128:132] = b"PE\0\0"
        struct.pack_into("<H", data, 152, 0x20B)
        return bytes(data)
    if kind == "macho":
        segment = struct.pack("<II16s4Q4I", 0x19, 72, b"__LINKEDIT", 0, 4096, 500, 164, 1, 1, 0, 0)
        commands = segment + struct.pack("<IIII", 0x1D, 16, 600, 64)
        return struct.pack("<IIIIIIII", 0xFEEDFACF, 0, 0, 2, 2, 88, 0, 0) + commands + bytes(900)
    return RUNTIME


def test_formats_are_told_apart() -> None:
    for kind in FORMATS:
        assert detect(fake_runtime(kind)) == kind
    assert detect(b"GGUF") is None
    assert detect(b"") is None


BROKEN_MANIFESTS = [
    (b"", "not JSON"),
    (b"[]", "no format number"),
    (b"{}", "no format number"),
    (b'{"format": 2}', "container format 2 is not known"),
    (b"[" * 100_000, "not JSON"),
    (b'{"format": 1}', "names no runtime"),
    (b'{"format": 1, "runtime": {"size": 1e30}}', "runtime"),
    (b'{"format": 1, "runtime": {"size": 99999999999}}', "larger than the file"),
    (b'{"format": 1, "runtime": {"size": 3, "skip": [[9, -9]]}}', "make no sense"),
    (b'{"format": 1, "runtime": {"size": 3, "skip": 7}}', "make no sense"),
]


@pytest.mark.parametrize(("manifest", "message"), BROKEN_MANIFESTS)
def test_hostile_manifests(tmp_path: Path, manifest: bytes, message: str) -> None:
    path = tmp_path / "bad"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", manifest)
    with pytest.raises(LlamapackError, match=message):
        payload.verify(payload.open_payload(path))


HOSTILE_NAMES = ["../x", "/etc/x", "a/../b", "a\\b", "c:x", "a//b", ".", "a\nb", "\x1b[2J"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", b'{"format":1,"model":"m"}')
        archive.writestr(zipfile.ZipInfo(name), b"data")
    with pytest.raises(LlamapackError, match="is not a plain relative path") as caught:
        payload.open_payload(path)
    assert str(caught.value).isprintable()


def test_a_bomb_inflates_no_further_than_it_says(tmp_path: Path) -> None:
    path = pack(tmp_path, None, parts=[Part("web/bomb", bytes(1 << 20), deflate=True)])
    opened = payload.open_payload(path)
    entry = opened.entries["web/bomb"]
    entry.size = 1000
    with pytest.raises(LlamapackError, match="inflates to more than its stated size"):
        payload.extract(opened, entry, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_zip64_where_numbers_need_it(tmp_path: Path) -> None:
    """A sparse entry of 5 GiB and a small one behind it: zipfile and unzip find both."""
    path = tmp_path / "large"
    big = Entry("model.gguf", 0, 0, 5 << 30, 5 << 30, header=100)
    small = Entry("manifest.json", 0, 0x3610A686, 5, 5)  # crc32(b"hello")
    with path.open("wb") as file:
        file.seek(100)
        file.write(local_header(big, 1 << 16))
        small.header = big.data + big.stored
        file.seek(small.header)
        file.write(local_header(small) + b"hello")
        file.write(directory([big, small], small.data + 5, b"comment"))
    assert big.data % 65536 == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.comment == b"comment"
        assert [i.file_size for i in archive.infolist()] == [5 << 30, 5]
        assert archive.read("manifest.json") == b"hello"
    if shutil.which("unzip"):
        done = subprocess.run(
            ["unzip", "-p", path, "manifest.json"], capture_output=True, check=True
        )
        assert done.stdout == b"hello"
    with path.open("rb") as file:

        def read(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        end = find_end(read, path.stat().st_size)
        assert end is not None
        mine = parse_directory(read, end)
    assert [(e.name, e.size, e.data) for e in mine] == [
        ("model.gguf", 5 << 30, big.data),
        ("manifest.json", 5, small.data),
    ]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [70_000, (4 << 30) + 70_000], ids=["", "zip64"])
def test_tools_read_it_behind_any_executable(kind: str, size: int, tmp_path: Path) -> None:
    """Python, unzip, 7z, bsdtar; also where numbers need ZIP64 (the weights are a hole then)."""
    path = tmp_path / "chat"
    data = weights_of(5000)
    with path.open("wb") as file:
        # Without the false signatures of RUNTIME, which 7z believes.
        file.write(fake_runtime(kind).replace(b"PK", b"--"))
        model = Entry("model.gguf", 0, 0, size, size, header=file.tell())
        file.write(local_header(model, 1 << 16))
        small = Entry("manifest.json", 0, zlib.crc32(data), 5000, 5000, header=model.data + size)
        file.seek(small.header)
        file.write(local_header(small) + data)
        file.write(directory([model, small], small.data + 5000, b""))
    assert model.data % 65536 == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.read("manifest.json") == data
        assert archive.getinfo("model.gguf").file_size == size
    for words in (["unzip", "-p"], ["7z", "x", "-tzip", "-so"], ["bsdtar", "-xOf"]):
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not installed")
        done = subprocess.run([*words, path, "manifest.json"], capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (0, data), (words, done.stderr)
        assert b"warning" not in done.stderr.lower()


def test_small_archives_carry_no_zip64(tmp_path: Path) -> None:
    """busybox unzip does not read ZIP64, so it is there only when needed."""
    raw = pack(tmp_path, weights_of(100), runtime=b"\x7fELF" + bytes(64)).read_bytes()
    assert b"PK\6\6" not in raw
    assert b"PK\6\7" not in raw


def test_mutated_directories_never_escape(tmp_path: Path) -> None:
    """Whatever one byte of the directory becomes: our own error, or entries inside the file."""
    whole = pack(tmp_path, weights_of(10)).read_bytes()

    def read_of(raw: bytes) -> Callable[[int, int], bytes]:
        return lambda offset, count: raw[offset : offset + count]

    end = find_end(read_of(whole), len(whole))
    assert end is not None
    draw = random.Random(5)
    for _ in range(3000):
        raw = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            raw[draw.randrange(end.offset, len(raw))] = draw.choice([0, 1, 0x7F, 0xFF, 0x50])
        data = bytes(raw)
        try:
            found = find_end(read_of(data), len(data))
            entries = parse_directory(read_of(data), found) if found else []
        except BadZip:
            continue
        assert all(e.data >= 0 and e.data + e.stored <= len(data) for e in entries)


def test_reads_what_zipfile_writes(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(40):
            archive.writestr(f"a/{i}", bytes(i * 100))
    data = raw.getvalue()

    def read(offset: int, count: int) -> bytes:
        return data[offset : offset + count]

    end = find_end(read, len(data))
    assert end is not None
    assert [(e.name, e.size) for e in parse_directory(read, end)] == [
        (f"a/{i}", i * 100) for i in range(40)
    ]
