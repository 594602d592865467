"""The runtime built by clang with sanitizers: as a library for the C tests, as fuzz harnesses.

zig does not link AddressSanitizer or libFuzzer, so these use the system's clang. Objects are kept
under the test cache by content, like the product's own.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llamapack import native, toolchain

ROOT = Path(__file__).resolve().parents[1]
SANITIZE = "-fsanitize=address,undefined,fuzzer-no-link"
FLAGS = [
    "-std=c11", "-O1", "-g", "-fPIC", "-fno-omit-frame-pointer", "-ffp-contract=off",
    "-fno-strict-aliasing", "-fno-sanitize-recover=all", "-D_GNU_SOURCE", '-DLP_VERSION="test"',
    SANITIZE,
]  # fmt: skip


def folder() -> Path:
    path = toolchain.cache_dir() / "clang"
    path.mkdir(parents=True, exist_ok=True)
    return path


def objects(clang: str) -> list[Path]:
    """Every source of the runtime but main.c, and the quantizers, compiled with sanitizers."""
    tree = toolchain.find_tree()
    native.refresh_generated(tree)
    sources = toolchain.sources_for(tree, platform.machine(), windows=False, quantizers=True)
    sources = [source for source in sources if source.name != "runtime_c/cli/main.c"]
    headers = hashlib.sha256()
    for path in sorted([*ROOT.rglob("runtime_c/**/*.h"), *ROOT.glob("kernels_x86_arm/**/*")]):
        if path.is_file():
            headers.update(path.read_bytes())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda s: compile_one(clang, tree, s, headers.hexdigest()), sources))


def compile_one(clang: str, tree: toolchain.Tree, source: toolchain.Source, headers: str) -> Path:
    # The sources' own flags are zig's (optimisation); of them only the ISA switches matter here.
    isa = [flag for flag in source.flags if flag.startswith("-m") and "mcpu" not in flag]
    flags = [*FLAGS, *isa, *(f"-I{path}" for path in tree.include_dirs)]
    if source.path.name.startswith("k_"):
        # The bodies of a level are inlined into a few huge functions, on which clang takes many
        # minutes with every check. What matters there is reading past the end, checked by calls.
        flags.remove("-g")
        flags[flags.index(SANITIZE)] = "-fsanitize=address"
        flags += ["-mllvm", "-asan-instrumentation-with-call-threshold=0"]
    key = hashlib.sha256("\0".join([clang, headers, source.name, *flags]).encode())
    key.update(source.path.read_bytes())
    out = folder() / f"{key.hexdigest()[:32]}.o"
    if not out.is_file():
        temporary = out.with_suffix(f".{os.getpid()}.tmp")
        command = [clang, *flags, "-c", str(source.path), "-o", str(temporary)]
        subprocess.run(command, check=True)
        temporary.replace(out)
    return out


def shared_library(clang: str) -> Path:
    built = objects(clang)
    out = folder() / f"sanitized-{digest(built)}.so"
    if not out.is_file():
        command = [clang, "-shared", "-shared-libasan", SANITIZE.replace(",fuzzer-no-link", "")]
        subprocess.run([*command, *map(str, built), "-lm", "-lpthread", "-o", str(out)], check=True)
    return out


def harness(clang: str, source: Path) -> Path:
    """A libFuzzer program of one file of tests/fuzz."""
    built = objects(clang)
    out = folder() / f"{source.stem}-{digest([*built, source])}"
    if not out.is_file():
        tree = toolchain.find_tree()
        flags = [flag for flag in FLAGS if flag != SANITIZE]
        flags += [f"-I{path}" for path in tree.include_dirs]
        command = [clang, *flags, SANITIZE.replace("-no-link", ""), str(source)]
        subprocess.run([*command, *map(str, built), "-lm", "-lpthread", "-o", str(out)], check=True)
    return out


def digest(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def asan_runtime(clang: str) -> str:
    """The shared AddressSanitizer runtime, which must be loaded before Python's own libraries."""
    name = f"libclang_rt.asan-{platform.machine()}.so"
    found = subprocess.run(
        [clang, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert Path(found).is_file(), f"clang has no {name} (package libclang-rt)"
    return found
