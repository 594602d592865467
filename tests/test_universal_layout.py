"""The universal file's bytes: first page, moved PE headers, slices, what other tools make of it.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from llamapack import build, inspect, layout, payload, plan, toolchain
from llamapack.errors import LlamapackError, UsageError
from llamapack.formats import macho, pe, resources, universal
from llamapack.icons import standard_icon
from llamapack.targets import find_target
from universal_file import SCRIPT, collect, compile_probe, probe_file, start

HEADERS = 0x1000
SLICES = ("linux-x86_64", "linux-aarch64", "macos-aarch64", "macos-x86_64")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user builds, from a tiny model."""
    folder = tmp_path_factory.mktemp("universal")
    model = tiny_model.build("llama", "Q8_0", seed=1).save(folder / "tiny.gguf")
    return build.build(plan.make_plan(str(model), folder / "chat", ["universal"]))[0].path


@pytest.fixture(scope="module")
def windows() -> bytes:
    return compile_probe("windows-x86_64")


def check_first_page(data: bytes) -> None:
    assert data.startswith(b"MZa=\n")
    assert b"\0" not in data[:0x3C]
    (at,) = struct.unpack_from("<I", data, 0x3C)
    assert at % 16 == 0
    assert all(byte < 0x80 and byte not in b"\n'" for byte in data[0x3C:0x40])
    line = data[5:0x39].decode()
    found = re.fullmatch(r'eval "`dd bs=64 skip=1 count=(\d\d) 2>/dev/null <"\$0"`"\n', line)
    assert found
    assert data[0x39:0x3C] == b"#--"
    assert 0x40 + 64 * int(found[1]) <= at
    script = data[0x40:at]
    assert script.startswith(b"\n")
    assert not script[64 * int(found[1]) :].strip()
    assert script.isascii() and b"\0" not in script
    assert b"#" not in script.replace(b'"$#"', b""), "a comment was left in the packed script"
    subprocess.run(["sh", "-n"], input=script, check=True)


def check_pe(data: bytes, before: bytes) -> None:
    """The moved PE is one, and holds what the PE before it held."""
    import pefile

    now, old = pefile.PE(data=data), pefile.PE(data=before)
    assert now.get_warnings() == []
    table_end = now.sections[-1].get_file_offset() + 40
    assert table_end <= HEADERS
    assert now.OPTIONAL_HEADER.SizeOfHeaders == HEADERS == now.sections[0].VirtualAddress
    assert now.OPTIONAL_HEADER.CheckSum == 0
    offsets = [section.PointerToRawData for section in now.sections if section.SizeOfRawData]
    assert offsets[0] == HEADERS
    assert offsets == sorted(offsets)
    for mine, other in zip(now.sections, old.sections, strict=True):
        assert mine.Name == other.Name
        assert mine.VirtualAddress == other.VirtualAddress
        assert mine.get_data() == other.get_data() or b"debug" in debug_sections(old, other)
    for mine, other in zip(
        getattr(now, "DIRECTORY_ENTRY_DEBUG", []),
        getattr(old, "DIRECTORY_ENTRY_DEBUG", []),
        strict=True,
    ):
        begin, end = mine.struct.PointerToRawData, mine.struct.SizeOfData
        was = other.struct.PointerToRawData
        assert data[begin : begin + end] == before[was : was + end]


def debug_sections(parsed: Any, section: Any) -> bytes:
    """b"debug" for the section that holds the debug directory, whose offsets are moved."""
    entry = parsed.OPTIONAL_HEADER.DATA_DIRECTORY[6]
    begin = section.VirtualAddress
    inside = entry.Size and begin <= entry.VirtualAddress < begin + section.Misc_VirtualSize
    return b"debug" if inside else b""


def test_the_first_page_is_a_script_and_pe_headers(made: Path) -> None:
    data = made.read_bytes()
    check_first_page(data)
    planned = plan.make_plan(str(made.parent / "tiny.gguf"), made, ["windows-x86_64"])
    target = find_target("windows-x86_64")
    dressed = build._dressed(planned, target, toolchain.build_runtime(target))
    check_pe(data, dressed)  # with icon, version and manifest


def with_debug(pe: bytes) -> bytes:
    """The PE with a debug directory: an entry and its data in what pads a section."""
    (start_of,) = struct.unpack_from("<I", pe, 0x3C)
    count, optional = struct.unpack_from("<H12xH", pe, start_of + 6)
    data = bytearray(pe)
    code_view = b"RSDS" + bytes(range(16)) + struct.pack("<I", 1) + b"chat.pdb\0"
    need = 28 + len(code_view)
    for n in range(count):
        at = start_of + 24 + optional + n * 40
        size, rva, raw_size, raw = struct.unpack_from("<IIII", pe, at + 8)
        begin = -(-size // 16) * 16
        if begin + need <= raw_size:
            break
    else:
        raise AssertionError("no section has so much padding")
    struct.pack_into("<I", data, at + 8, begin + need)
    struct.pack_into("<II", data, start_of + 24 + 112 + 6 * 8, rva + begin, 28)
    entry = struct.pack(
        "<IIHHIIII", 0, 0, 0, 0, 2, len(code_view), rva + begin + 28, raw + begin + 28
    )
    data[raw + begin : raw + begin + need] = entry + code_view
    return bytes(data)


@pytest.mark.wine
@pytest.mark.parametrize("kind", ["plain", "debug", "resources"])
def test_kinds_of_windows_programs(
    kind: str, windows: bytes, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    """Also signed, each starts on Windows (wine) and in a shell, and unzip reads it."""
    import pefile

    before = with_debug(windows) if kind == "debug" else windows
    if kind == "resources":
        before = pe.add_resources(
            windows, resources.describe_program("Chat", "1.2.3", standard_icon(), b"<assembly/>")
        )
    parsed = pefile.PE(data=before)
    assert hasattr(parsed, "DIRECTORY_ENTRY_DEBUG") == (kind == "debug")
    assert hasattr(parsed, "DIRECTORY_ENTRY_RESOURCE") == (kind == "resources")
    path = tmp_path / "chat.exe"
    probe_file(path, ["linux-x86_64"], before)
    check_first_page(path.read_bytes())
    check_pe(path.read_bytes(), before)
    check_runs(path, tmp_path / "home", tool("wine"))
    if shutil.which("osslsigncode") is None:
        pytest.skip("osslsigncode is not installed")
    signed = tmp_path / "signed.exe"
    sign(path, signed, tmp_path)
    assert signed.stat().st_size > path.stat().st_size
    payload.verify(payload.open_payload(signed))
    check_runs(signed, tmp_path / "home", tool("wine"))
    subprocess.run(["unzip", "-tq", signed], check=True, capture_output=True)


def check_runs(path: Path, home: Path, wine: str) -> None:
    env = {"WINEDEBUG": "-all", "HOME": os.environ["HOME"]}
    env["WINEPREFIX"] = os.environ.get("WINEPREFIX") or str(toolchain.cache_dir() / "wine")
    there = start([wine, path, "on windows"], home, env=env)
    assert (there.code, there.args) == (0, ["on windows"]), there.errors
    here = start(["sh", path, "here"], home)
    assert (here.code, here.args[-1]) == (0, "here"), here.errors


def sign(path: Path, signed: Path, folder: Path) -> None:
    key, certificate = folder / "key.pem", folder / "cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    words += ["-nodes", "-subj", "/CN=test"]
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    words = ["osslsigncode", "sign", "-certs", str(certificate), "-key", str(key)]
    subprocess.run([*words, "-in", path, "-out", signed], check=True, capture_output=True)
    words = ["osslsigncode", "verify", "-CAfile", str(certificate), "-in", str(signed)]
    subprocess.run(words, check=True, capture_output=True)


def with_sections(pe: bytes, count: int) -> bytes:
    """The PE with more sections, all empty, so that only its headers grow."""
    (start_of,) = struct.unpack_from("<I", pe, 0x3C)
    (have, optional) = struct.unpack_from("<H12xH", pe, start_of + 6)
    (headers,) = struct.unpack_from("<I", pe, start_of + 24 + 60)
    table = start_of + 24 + optional
    end = table + have * 40
    last = struct.unpack_from("<I", pe, end - 40 + 12)[0]
    rows = b"".join(
        struct.pack("<8sIIIIIIHHI", b".e", 16, last + 0x100000 * n, 0, 0, 0, 0, 0, 0, 0xC0000080)
        for n in range(1, count - have + 1)
    )
    room = -(-(end + len(rows)) // 512) * 512
    out = bytearray(pe[:end] + rows)
    out = out.ljust(max(room, headers), b"\0") + pe[headers:]
    struct.pack_into("<H", out, start_of + 6, count)
    struct.pack_into("<I", out, start_of + 24 + 60, max(room, headers))
    for n in range(have):
        at = table + n * 40 + 20
        (offset,) = struct.unpack_from("<I", out, at)
        struct.pack_into("<I", out, at, offset + max(room, headers) - headers if offset else 0)
    return bytes(out)


def test_any_number_of_sections_that_fits(windows: bytes) -> None:
    others = {"linux-x86_64": b"\x7fELF" + bytes(100)}
    fitted = 0
    for count in range(7, 60):
        grown = with_sections(windows, count)
        try:
            whole = universal.assemble(grown, others, SCRIPT.read_text())
        except LlamapackError as error:
            assert re.search("first page has no room|do not fit", str(error)), count
            break
        fitted = count
        check_first_page(whole.runtime)
        check_pe(whole.runtime, grown)
    assert 12 < fitted < 59


def test_a_script_that_is_too_long_is_an_error(windows: bytes) -> None:
    script = SCRIPT.read_text() + "\n" + "echo and so on\n" * 200
    with pytest.raises(LlamapackError, match="first page has no room"):
        universal.assemble(windows, {}, script)


def spoil(program: bytes, at: int, value: int) -> bytes:
    (start_of,) = struct.unpack_from("<I", program, 0x3C)
    data = bytearray(program)
    struct.pack_into("<I", data, start_of + at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (24 + 112 + 4 * 8, 4096, "signed or bound already"),  # the security entry
        (24 + 112 + 11 * 8, 512, "signed or bound already"),  # bound imports lie in the headers
        (24 + 240 + 12, 0x2000, "does not follow its headers"),  # RVA of the first section
        (24 + 240 + 20, 8, "sections do not fit"),  # its data in the headers
        (24 + 60, 0x2000, "headers do not fit"),
        (0, 0, "not a PE file"),
    ],
)
def test_windows_programs_that_do_not_fit(
    windows: bytes, at: int, value: int, message: str
) -> None:
    with pytest.raises(LlamapackError, match=message):
        universal.assemble(spoil(windows, at, value), {}, SCRIPT.read_text())


# --- slices ----------------------------------------------------------------------------------


def test_cksum_is_the_utility_of_posix() -> None:
    draw = random.Random(1)
    for size in (0, 1, 255, 256, 4096, 65535, 65536, 300_001):
        data = draw.randbytes(size)
        done = subprocess.run(["cksum"], input=data, capture_output=True, check=True)
        assert done.stdout.split()[0] == str(universal.posix_cksum(data)).encode(), size


def table_of(data: bytes) -> dict[str, dict[str, str]]:
    """The script's rows: system-machine to its variables."""
    (at,) = struct.unpack_from("<I", data, 0x3C)
    rows = re.findall(r"^(\w+-\w+)\) (n=.*) ;;$", data[0x40:at].decode(), re.MULTILINE)
    return {
        name: dict(pair.split("=") for pair in values.split(" ") if pair) for name, values in rows
    }


def test_slices_lie_where_the_script_says(made: Path) -> None:
    data = made.read_bytes()
    rows = table_of(data)
    assert sorted(rows) == ["Darwin-aarch64", "Darwin-x86_64", "Linux-aarch64", "Linux-x86_64"]
    with zipfile.ZipFile(made) as archive:
        for name in SLICES:
            entry = archive.read(f"runtime/{name}")
            row = rows[name.replace("linux", "Linux").replace("macos", "Darwin")]
            begin, size = int(row["b"]) * 4096, int(row["c"]) * 4096
            assert data[begin : begin + size] == entry
            done = subprocess.run(["cksum"], input=entry, capture_output=True, check=True)
            assert done.stdout.decode().split() == [row["k"], str(size)]
            assert row["n"] == f"{name}-{hashlib.sha256(entry).hexdigest()[:16]}"
            if name.startswith("linux"):
                before = toolchain.build_runtime(find_target(name))
                assert entry == before + bytes(-len(before) % 4096)


@pytest.mark.parametrize("name", ["macos-aarch64", "macos-x86_64"])
def test_macos_slices_are_signed(name: str, made: Path) -> None:
    with zipfile.ZipFile(made) as archive:
        data = archive.read(f"runtime/{name}")
    target = find_target(name)
    check_signature(data, list(map(int, target.triple.rsplit("macos.")[1].split("."))))
    before = toolchain.build_runtime(target)
    check_same_code(data, before)
    # Signing what is signed changes nothing.
    assert macho.sign(data, "llamapack-runtime", 4096) == data


def check_signature(data: bytes, oldest: list[int]) -> None:
    """Every page hash and the numbers around them, read anew from the format's description."""
    import lief

    parsed = lief.parse(list(data))
    assert isinstance(parsed, lief.MachO.Binary)
    assert lief.MachO.check_layout(parsed)[0]
    assert list(parsed.build_version.minos)[:2] == oldest
    segments = {segment.name: segment for segment in parsed.segments}
    linkedit = segments["__LINKEDIT"]
    begin, size = parsed.code_signature.data_offset, parsed.code_signature.data_size
    assert begin % 16 == 0
    assert linkedit.file_offset + linkedit.file_size == begin + size == len(data)
    assert len(data) % 4096 == 0
    assert linkedit.virtual_size >= linkedit.file_size
    magic, length, blobs, slot, offset = struct.unpack_from(">5I", data, begin)
    assert (magic, blobs, slot, offset) == (0xFADE0CC0, 1, 0, 20)
    assert length <= size
    assert not any(data[begin + length :])
    at = begin + offset
    fields = struct.unpack_from(">9I4B4I4Q", data, at)
    (magic, length2, version, flags, hashes, name, special, count, limit) = fields[:9]
    assert (magic, version, flags, special) == (0xFADE0C02, 0x20400, 0x20002, 0)
    assert length == offset + length2
    assert limit == begin
    assert fields[9:11] == (32, 2)
    page = 1 << fields[12]
    assert page in (4096, 16384)
    assert fields[-3:] == (segments["__TEXT"].file_offset, segments["__TEXT"].file_size, 1)
    assert data[at + name : at + hashes].startswith(b"llamapack-runtime\0")
    assert count == -(-limit // page)
    assert hashes + 32 * count == length2
    for n in range(count):
        digest = hashlib.sha256(data[n * page : min((n + 1) * page, limit)]).digest()
        assert data[at + hashes + n * 32 :][:32] == digest, n


def check_same_code(now: bytes, before: bytes) -> None:
    """But for load commands and signature the runtime is what the linker made."""
    import lief

    for parsed, other in [(lief.parse(list(now)), lief.parse(list(before)))]:
        assert isinstance(parsed, lief.MachO.Binary) and isinstance(other, lief.MachO.Binary)
        for mine, old in zip(parsed.sections, other.sections, strict=True):
            assert (mine.name, mine.virtual_address) == (old.name, old.virtual_address)
            assert bytes(mine.content) == bytes(old.content)


# --- the builder -----------------------------------------------------------------------------


def test_other_tools_read_it(made: Path) -> None:
    with zipfile.ZipFile(made) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    assert names[:4] == [f"runtime/{name}" for name in SLICES]
    for words in (["unzip", "-tq"], ["7z", "t"], ["bsdtar", "-tf"], ["busybox", "unzip", "-t"]):
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not installed")
        done = subprocess.run([*words, made], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr)
        assert "warning" not in (done.stdout + done.stderr).lower()
    model = payload.open_payload(made).model
    assert model is not None
    assert model.data % 65536 == 0


def test_it_says_what_it_starts_on_and_how_large_it_is(made: Path) -> None:
    facts = inspect.describe(made)
    assert facts["target"] == "universal"
    assert facts["slices"] == ["linux-x86_64", "linux-aarch64", "windows-x86_64",
                               "macos-aarch64", "macos-x86_64"]  # fmt: skip
    assert "starts on" in "\n".join(inspect.lines(facts))
    model = payload.open_payload(made).model
    assert model is not None
    assert made.stat().st_size - model.size <= 9 << 20
    payload.verify(payload.open_payload(made))
    names = {entry["name"] for entry in facts["entries"]}
    assert {"licenses/musl/COPYRIGHT", "licenses/mingw-w64/COPYING"} <= names


def test_every_byte_is_covered(made: Path, tmp_path: Path) -> None:
    raw = bytearray(made.read_bytes())
    copy = tmp_path / "damaged"
    offsets = [e["offset"] for e in inspect.describe(made)["entries"]]
    # First line, script, PE headers, sections; each slice's header, first and later bytes.
    for at in [
        1,
        9,
        0x3E,
        0x100,
        0xF80,
        0x1000,
        200_000,
        *(o + d for o in offsets[:5] for d in (-40, 0, 999)),
    ]:
        raw[at] ^= 4
        copy.write_bytes(raw)
        raw[at] ^= 4
        with pytest.raises(LlamapackError):
            payload.verify(payload.open_payload(copy))


def test_packed_again_it_is_the_same(made: Path, tmp_path: Path) -> None:
    """Two builds, the second from the first: the same bytes."""
    again = build.build(plan.make_plan(str(made), tmp_path / "other.exe", ["universal"]))[0].path
    assert again.name == "other.exe"
    assert again.read_bytes() == made.read_bytes()


def test_slices_are_chosen(tmp_path: Path, run_cli: Callable[..., int], capsys: Any) -> None:
    out = tmp_path / "few"
    words = ["build", "--no-model", "-o", str(out), "--target", "universal"]
    words += ["--version-string", "9.8.7"]
    assert run_cli(*words, "--slices", "linux-x86_64") == 0
    assert "--version-string" not in capsys.readouterr().err
    assert "9.8.7".encode("utf-16-le") in (tmp_path / "few.exe").read_bytes()
    facts = inspect.describe(tmp_path / "few.exe")
    assert facts["slices"] == ["linux-x86_64", "windows-x86_64"]
    assert next(e["name"] for e in facts["entries"]) == "runtime/linux-x86_64"
    assert list(table_of((tmp_path / "few.exe").read_bytes())) == ["Linux-x86_64"]
    capsys.readouterr()
    for slices, message in [("windows-aarch64", "cannot be part of a universal file"),
                            ("universal", "cannot be part"), ("amiga", "no target named 'amiga'"),
                            ("linux-x86_64,", "no target named ''")]:  # fmt: skip
        assert run_cli(*words, "--slices", slices) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UsageError, match="about --target universal"):
        plan.plan_outputs(tmp_path / "x", ["linux-x86_64"], "linux-x86_64")
    outputs = plan.plan_outputs(tmp_path / "x", ["linux-x86_64", "universal"])
    assert [output.path.name for output in outputs] == ["x-linux-x86_64", "x-universal.exe"]


@pytest.mark.parametrize("name", ["universal", "linux-x86_64"])
def test_4_gib_is_too_much_for_windows(
    name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte less is not; then the weights go into a file beside it. Linux has no such limit."""
    planned = plan.make_plan(str(made.parent / "tiny.gguf"), tmp_path / "chat", [name])
    (output,) = planned.outputs
    runtimes = {row.name: toolchain.build_runtime(row) for row in output.runtimes}
    job = build._job(planned, output, runtimes)

    def written(size: int) -> list[tuple[str, int]]:
        class Hole:
            """Weights of which only the size is asked."""

        Hole.size = size  # type: ignore[attr-defined]
        monkeypatch.setattr(plan.Plan, "weights", Hole())
        return [(path.name, count) for path, count in layout.lay_out(planned, [job], None).files]

    limit = 0xFFFFFFFF
    size = limit - (written(4 << 20)[0][1] - (4 << 20))
    size -= written(size - 100_000)[0][1] + 100_000 - limit  # the list of hashes grows with it
    assert written(size) == [(output.path.name, limit)]
    files = written(size + 1)
    if name == "universal":
        assert [path for path, _ in files] == ["chat.weights", "chat.exe"]
        assert files[1][1] < 16 << 20
    else:
        assert files == [("chat", limit + 1)]


def test_weights_beside_it(made: Path, tmp_path: Path) -> None:
    """Split, and packed again with the same slices."""
    model = str(made.parent / "tiny.gguf")
    planned = plan.make_plan(
        model, tmp_path / "chat.exe", ["universal"], slices="linux-x86_64", split=True
    )
    path = build.build(planned)[0].path
    assert sorted(os.listdir(tmp_path)) == ["chat.exe", "chat.weights"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}
    words = ["-p", "hello", "-n", "4", "--temp", "0"]
    texts = [collect(["sh", file, *words], env) for file in (path, made)]
    assert texts[0] == texts[1]
    assert texts[0][0] == 0
    again = plan.repack_plan(path, tmp_path / "again.exe", (), args=(), split=False)
    packed = build.build(again)[0].path
    assert inspect.describe(packed)["slices"] == ["linux-x86_64", "windows-x86_64"]
    assert collect(["sh", packed, *words], env) == texts[0]
