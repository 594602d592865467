"""Every target compiles without a warning, is made for the machine it names, and starts.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import llamapack
import pytest
from llamapack import build, payload, plan, toolchain
from llamapack.errors import LlamapackError
from llamapack.formats import macho
from llamapack.targets import TARGETS, Target, find_target
from test_platform import compile_probe

if TYPE_CHECKING:
    import lief

# zig's libc is compiled at the first link of a target, which takes minutes on a slow machine.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

MAIN = [target for target in TARGETS if not target.experimental]
BSD = [target for target in TARGETS if target.experimental]
names = pytest.mark.parametrize("target", MAIN, ids=lambda target: target.name)


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("runtimes")

    def make(name: str) -> Path:
        target = find_target(name)
        path = folder / f"runtime-{name}{target.suffix}"
        if not path.exists():
            path.write_bytes(toolchain.build_runtime(target))
            path.chmod(0o755)
        return path

    return make


@names
def test_compiles_without_warnings(target: Target) -> None:
    """-Wall -Wextra -Wconversion -Wsign-conversion, and a warning is an error."""
    tree = toolchain.find_tree()
    sources = toolchain.sources_for(tree, target.arch, windows=target.windows, quantizers=True)
    toolchain.compile_all(tree, sources, toolchain.runtime_flags(target), strict=True)


@names
def test_is_what_it_says(target: Target, runtimes: Callable[[str], Path]) -> None:
    import lief

    data = runtimes(target.name).read_bytes()
    parsed = lief.parse(list(data))
    machine = {"x86_64": "x86_64", "aarch64": "ARM64"}[target.arch]
    if target.format == "elf":
        assert isinstance(parsed, lief.ELF.Binary)
        assert parsed.header.machine_type.name.lower() == target.arch
        assert not parsed.libraries  # static: no library of the system is needed
        assert not parsed.has_interpreter
        assert parsed.is_pie
        check_elf_protections(parsed)
    elif target.format == "pe":
        assert isinstance(parsed, lief.PE.Binary)
        assert parsed.header.machine.name == {"x86_64": "AMD64", "aarch64": "ARM64"}[target.arch]
        assert parsed.is_pie
        assert parsed.has_nx
    else:
        assert isinstance(parsed, lief.MachO.Binary)
        assert parsed.header.cpu_type.name.lower() == machine.lower()
        assert parsed.is_pie
        minos = {"x86_64": [10, 15], "aarch64": [11, 0]}[target.arch]
        assert list(parsed.build_version.minos)[:2] == minos
        check_mach_o(data, parsed)
    assert len(data) < 1_750_000  # nine million bytes hold all of them in one file


def check_mach_o(data: bytes, parsed: lief.MachO.Binary) -> None:
    """Segments lie in the file one behind the other, the signature ends it, nothing that can be
    executed is writable or unsigned, and the system's libraries alone are linked."""
    import lief

    ok, message = lief.MachO.check_layout(parsed)
    assert ok, message
    end, writable, executable = 0, 2, 4
    for segment in parsed.segments:
        if segment.name == "__PAGEZERO":
            continue
        assert segment.file_offset >= end
        end = segment.file_offset + segment.file_size
        assert int(segment.init_protection) & (writable | executable) != writable | executable
        if int(segment.max_protection) & executable:
            assert end <= check_signature(data)
    assert end == len(data)
    assert [library.name for library in parsed.libraries] == ["/usr/lib/libSystem.B.dylib"]


def check_signature(data: bytes) -> int:
    """Hashes each page as the kernel does, by Apple's published structures alone; how many bytes
    of the file are signed."""
    command = 32
    while struct.unpack_from("<I", data, command)[0] != 0x1D:  # LC_CODE_SIGNATURE
        command += struct.unpack_from("<I", data, command + 4)[0]
    offset, size = struct.unpack_from("<II", data, command + 8)
    assert offset + size == len(data)
    assert offset % 16 == 0
    blob = data[offset : offset + size]
    magic, length, count = struct.unpack_from(">III", blob)
    assert (magic, count) == (0xFADE0CC0, 1)
    assert length <= size
    kind, at = struct.unpack_from(">II", blob, 12)
    assert kind == 0
    directory = blob[at:length]
    (magic, length, version, flags, hashes, name, special, slots, limit,
     hash_size, hash_type, _platform, page) = struct.unpack_from(">9I4B", directory)  # fmt: skip
    assert (magic, version, hash_size, hash_type) == (0xFADE0C02, 0x20400, 32, 2)
    assert length == len(directory) == hashes + 32 * slots
    assert flags & 0x2  # ad hoc
    assert special == 0
    assert directory[name : directory.index(b"\0", name)]
    assert limit == offset
    pages = range(0, limit, 1 << page)
    assert slots == len(pages)
    for slot, start in enumerate(pages):
        digest = hashlib.sha256(data[start : min(start + (1 << page), limit)]).digest()
        assert digest == directory[hashes + 32 * slot :][:32], f"page {slot}"
    base, extent, main = struct.unpack_from(">3Q", directory, 64)
    assert (base, main) == (0, 1)
    assert 0 < extent <= limit
    return int(limit)


def check_elf_protections(parsed: lief.ELF.Binary) -> None:
    import lief

    flags = {segment.type: int(segment.flags) for segment in parsed.segments}
    writable, executable = 2, 1
    for segment in parsed.segments:
        assert int(segment.flags) & (writable | executable) != writable | executable
    assert flags[lief.ELF.Segment.TYPE.GNU_STACK] & executable == 0
    assert lief.ELF.Segment.TYPE.GNU_RELRO in flags
    assert not list(parsed.symtab_symbols)


@names
def test_no_path_of_this_machine_gets_in(target: Target, runtimes: Callable[[str], Path]) -> None:
    data = runtimes(target.name).read_bytes()
    tree = toolchain.find_tree()
    for path in (tree.root, toolchain.cache_dir(), Path.home()):
        if len(str(path)) > 5:
            assert str(path).encode() not in data


@pytest.mark.parametrize("target", BSD, ids=lambda target: target.name)
def test_platform_of_the_bsds(target: Target) -> None:
    """The part that knows the system compiles without a warning and links with its libraries."""
    import lief

    parsed = lief.parse(list(compile_probe(target.name)))
    assert isinstance(parsed, lief.ELF.Binary)
    assert parsed.header.machine_type.name.lower() == target.arch
    assert parsed.is_pie
    assert {name.split(".")[0] for name in parsed.libraries} <= {
        "libc",
        "libm",
        "libpthread",
        "libthr",
    }
    notes = {note.name.strip("\0").lower() for note in parsed.notes}
    assert target.system in notes  # how its kernel knows that the file is meant for it
    # Nothing of another system: what Linux lists in files must not even be looked for.
    assert b"/proc/" not in bytes(parsed.get_section(".rodata").content)


def test_a_program_signed_again_is_as_signed_at_first() -> None:
    """The ARM64 linker's own signature is what ours is held against."""
    linked = toolchain.build_runtime(find_target("macos-aarch64"))
    assert macho.sign(linked, "runtime") == linked
    assert macho.sign(macho.sign(linked, "another"), "runtime") == linked


def test_linking_again_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another checkout, another working directory, another cache of objects: one result."""
    target = find_target("windows-x86_64")
    tree = toolchain.find_tree()
    expected = toolchain.build_runtime(target)
    zig = toolchain.cache_dir() / "zig"
    other = tmp_path / "other cache"
    other.mkdir()
    (other / "zig").symlink_to(zig)
    (tmp_path / "copy").mkdir()
    for name in ("runtime_c", "kernels_x86_arm"):
        (tmp_path / "copy" / name).symlink_to(tree.root / name)
    moved = toolchain.Tree(tmp_path / "copy", tree.generated, checkout=True)
    monkeypatch.setenv("LLAMAPACK_CACHE", str(other))
    monkeypatch.setattr(toolchain, "find_tree", lambda: moved)
    assert toolchain.build_runtime(target) == expected


def packed(name: str, model: Path, folder: Path) -> Path:
    made = build.build(plan.make_plan(str(model), folder / "chat", [name]))
    path = made[0].path
    payload.verify(payload.open_payload(path))
    return path


def check_starts(command: list[str], program: Path) -> None:
    done = run([*command, str(program), "--version"])
    assert llamapack.__version__ in done.stdout
    done = run([*command, str(program), "--frobnicate"], code=None)
    assert done.returncode != 0
    assert "--frobnicate" in done.stderr


def check_answers(command: list[str], program: Path) -> None:
    check_starts(command, program)
    done = run([*command, str(program), "info"])
    assert "llama" in done.stdout
    # The builder's hashes are OpenSSL's; here the processor's own instructions take part.
    assert "as it was built" in run([*command, str(program), "verify"]).stdout
    done = run(
        [*command, str(program), "-p", "What is the capital of France?", "--temp", "0", "-n", "8"]
    )
    assert "Paris" in done.stdout


def run(command: list[str], code: int | None = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env={**os.environ, "WINEDEBUG": "-all"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=600,
        check=False,
    )
    assert code is None or done.returncode == code, done.stderr
    return done


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="this machine is no x86-64")
def test_linux_answers(smollm2: Path, tmp_path: Path) -> None:
    check_answers([], packed("linux-x86_64", smollm2, tmp_path))


@pytest.mark.wine
def test_windows_answers_under_wine(
    smollm2: Path, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    program = packed("windows-x86_64", smollm2, tmp_path)
    check_answers([tool("wine")], program)
    # Levels with fma give the same bits, sampled text shows a difference in any of them: pages that
    # come into use while a kernel runs must not cost it its registers.
    ask = ["--raw", "-p", "One, two three four", "--temp", "1", "--seed", "1", "-n", "12"]
    texts = {}
    for cpu in ("avx512bf16", "avx512", "avx2"):
        done = run([tool("wine"), str(program), *ask, "--cpu", cpu], code=None)
        if done.returncode == 0:
            texts[cpu] = done.stdout
        else:
            assert "cannot run" in done.stderr
    assert len(set(texts.values())) == 1, texts


@pytest.mark.qemu
def test_arm_answers_under_qemu(smollm2: Path, tmp_path: Path, tool: Callable[[str], str]) -> None:
    check_answers([tool("qemu"), "-cpu", "max"], packed("linux-aarch64", smollm2, tmp_path))


def test_a_warning_is_an_error_also_from_the_cache(tmp_path: Path) -> None:
    source = tmp_path / "w.c"
    source.write_text("int f(long x); int f(long x) { return x; }\n")
    tree = toolchain.find_tree()
    flags = toolchain.runtime_flags(find_target("linux-x86_64"))
    rows = [toolchain.Source(source, "w.c", ("-O2",))]
    assert len(toolchain.compile_all(tree, rows, flags)) == 1
    with pytest.raises(LlamapackError, match="compiling w.c warns: .*implicit conversion"):
        toolchain.compile_all(tree, rows, flags, strict=True)
