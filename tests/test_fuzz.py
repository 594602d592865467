"""Every libFuzzer harness in tests/fuzz, briefly; longer with LLAMAPACK_FUZZ_SECONDS.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import clang_build
import pytest
import tiny_model

FUZZ = Path(__file__).resolve().parent / "fuzz"
HARNESSES = sorted(FUZZ.glob("fuzz_*.c"))
SECONDS = int(os.environ.get("LLAMAPACK_FUZZ_SECONDS", "15"))


def seeds(name: str, folder: Path) -> None:
    """Well-formed inputs to begin from."""
    if name == "fuzz_model":
        for arch in tiny_model.ARCHS:
            tiny_model.build(arch, "Q8_0", seed=1).save(folder / f"{arch}.gguf")
    if name == "fuzz_kv_file":
        size = 192 + 3 * 4 * 32  # three tokens, two layers, slots of 32 bytes
        head = struct.pack("<8s2I2Q40x", b"LPKVDATA", 2, 2, size, 0)
        head += struct.pack("<6I16s6I3i", 0, 0, 2, 384, 3, 0, b"avx2", *[32, 32, 0] * 2, 1, 2, 3)
        (folder / "whole").write_bytes(head.ljust(size, b"\0"))
    (folder / "empty").write_bytes(b"")
    for path in (FUZZ / "seeds" / name).glob("*"):
        (folder / path.name).write_bytes(path.read_bytes())


@pytest.mark.clang
@pytest.mark.parametrize("source", HARNESSES, ids=lambda path: path.stem)
def test_no_input_crashes(source: Path, tool: Callable[[str], str], tmp_path: Path) -> None:
    program = clang_build.harness(tool("clang"), source)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    seeds(source.stem, corpus)
    result = subprocess.run(
        [str(program), f"-max_total_time={SECONDS}", "-timeout=10", "-rss_limit_mb=2048",
         "-max_len=1048576", f"-artifact_prefix={tmp_path}/", str(corpus)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]
    assert "DONE" in result.stderr
