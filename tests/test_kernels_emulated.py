"""Kernel levels of other processors, by a C driver under qemu-user: ARM levels, and x86 levels as
an old processor sees them. The driver (kernels_driver.c) compares every level with ref.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from llamapack import toolchain
from llamapack.targets import find_target

HERE = Path(__file__).resolve().parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="qemu-user exists on Linux only")


def compile_driver(target_name: str, folder: Path) -> Path:
    """The kernels and the driver, static, without the rest of the runtime."""
    target = find_target(target_name)
    tree = toolchain.find_tree()
    sources = [
        source
        for source in toolchain.sources_for(tree, target.arch, windows=False)
        if source.name.startswith("kernels_x86_arm/")
        or source.name == "runtime_c/platform/cpu_features_posix.c"
    ]
    driver = HERE / "kernels_driver.c"
    sources.append(toolchain.Source(driver, "tests/kernels_driver.c", ("-O1",)))
    objects = toolchain.compile_all(tree, sources, toolchain.runtime_flags(target), strict=True)
    link = ("-target", target.triple, "-fPIE", *target.link_flags)
    path = folder / f"driver-{target.arch}"
    path.write_bytes(toolchain.link(objects, link, path.name))
    path.chmod(0o755)
    return path


def run(emulator: str, cpu: str, driver: Path, wanted: tuple[str, ...]) -> None:
    """All of `wanted` must be there, every other level that is must agree as well."""
    process = subprocess.run(
        [emulator, "-cpu", cpu, str(driver), *wanted],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    ended = {line.split(":")[0] for line in process.stdout.splitlines() if line.endswith(", ok")}
    assert ended == {*wanted, "ref"}, process.stdout


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("cpu", "levels"),
    [
        ("cortex-a53", ("neon",)),
        ("cortex-a76", ("dotprod", "neon")),
        ("max,sve=off", ("i8mm", "dotprod", "neon")),
    ],
)
def test_arm_levels(cpu: str, levels: tuple[str, ...], tmp_path: Path) -> None:
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    assert emulator is not None  # the marker skips otherwise
    run(emulator, cpu, compile_driver("linux-aarch64", tmp_path), levels)


@pytest.mark.parametrize(
    ("cpu", "levels"),
    [("qemu64", ("sse2",)), ("SandyBridge", ("avx", "sse2")), ("max", ("avx2", "avx", "sse2"))],
)
def test_x86_levels(cpu: str, levels: tuple[str, ...], tmp_path: Path) -> None:
    """qemu 7.2 emulates up to AVX2; a level that the processor lacks is not chosen."""
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if emulator is None:
        pytest.skip("qemu-x86_64 is not installed")
    run(emulator, cpu, compile_driver("linux-x86_64", tmp_path), levels)
