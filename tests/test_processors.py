"""The packed program on processors of every kind, by qemu-user's models of them: it picks the level
that the processor has, says so, and answers with the text that this machine's levels give.

Levels with fused multiply-add give the same bits as each other, on ARM and on x86, and so do those
without (kernels.h). Sampled text shows a difference in any of them, so the text expected of an
emulated processor is the text of this machine's own program at a level of the same kind.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_model
from llamapack import build, plan

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="qemu-user exists on Linux only"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="texts are compared with x86 levels"),
]

# K types for the int8 kernels of 256, bf16 for the products of their own; 40 tokens of prompt fill
# tiles, pairs and an odd row.
ASK = ["--raw", "-p", "One, two, three and four. What is the capital of France? Once upon a time",
       "--temp", "1", "--seed", "7", "-n", "10", "-t", "2"]  # fmt: skip

ARM = {
    "cortex-a53": "neon",
    "cortex-a72": "neon",
    "cortex-a76": "dotprod",
    "neoverse-n1": "dotprod",
    "max": "i8mm",
    "max,sve=off": "i8mm",
}
X86 = {
    "qemu64": "sse2",
    "Nehalem": "sse2",
    "SandyBridge": "avx",
    "Haswell": "avx2",
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same tiny models for ARM64 and x86-64, by weight type and target."""
    folder = tmp_path_factory.mktemp("processors")
    made = {}
    for weights in ("Q4_K", "Q8_0", "BF16"):
        model = tiny_model.build("llama", weights, seed=3).save(folder / f"{weights}.gguf")
        targets = ["linux-aarch64", "linux-x86_64"]
        for item in build.build(plan.make_plan(str(model), folder / weights, targets)):
            made[f"{weights} {item.target}"] = item.path
    return made


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, timeout=300, check=False, text=True)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def answer(start: list[str], program: Path, act: str, *more: str) -> str:
    return run([*start, str(program), *ASK, "--act", act, *more])


@pytest.fixture(scope="module")
def expected(programs: dict[str, Path]) -> Callable[[str, str, bool], str]:
    """The text of this machine's program, by weights, activations and whether with fma."""
    known: dict[tuple[str, str, bool], str] = {}

    def text(weights: str, act: str, fma: bool) -> str:
        key = weights, act, fma
        if key not in known:
            program = programs[f"{weights} linux-x86_64"]
            known[key] = answer([], program, act, "--cpu", "avx2" if fma else "sse2")
        return known[key]

    return text


def emulator(name: str) -> str:
    path = shutil.which(name) or shutil.which(f"{name}-static")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def check(
    start: list[str],
    target: str,
    level: str,
    programs: dict[str, Path],
    expected: Callable[[str, str, bool], str],
) -> None:
    fma = level not in ("sse2", "avx", "ref")
    facts = json.loads(run([*start, str(programs[f"Q4_K {target}"]), "info", "--json"]))
    assert facts["cpu"] == level
    for weights, act in (("Q4_K", "int8"), ("Q8_0", "int16"), ("BF16", "int8"), ("Q4_K", "f32")):
        program = programs[f"{weights} {target}"]
        assert answer(start, program, act) == expected(weights, act, fma), (weights, act)


@pytest.mark.qemu
@pytest.mark.parametrize("cpu", ARM)
def test_arm(
    cpu: str, programs: dict[str, Path], expected: Callable[[str, str, bool], str]
) -> None:
    check([emulator("qemu-aarch64"), "-cpu", cpu], "linux-aarch64", ARM[cpu], programs, expected)


@pytest.mark.parametrize("cpu", X86)
def test_x86(
    cpu: str, programs: dict[str, Path], expected: Callable[[str, str, bool], str]
) -> None:
    check([emulator("qemu-x86_64"), "-cpu", cpu], "linux-x86_64", X86[cpu], programs, expected)


@pytest.mark.qemu
def test_a_level_that_the_processor_lacks_is_refused(programs: dict[str, Path]) -> None:
    start = [emulator("qemu-aarch64"), "-cpu", "cortex-a72"]
    command = [*start, str(programs["Q8_0 linux-aarch64"]), *ASK, "--cpu", "i8mm"]
    done = subprocess.run(command, capture_output=True, timeout=300, check=False, text=True)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "i8mm" in done.stderr
    assert "cannot run" in done.stderr
