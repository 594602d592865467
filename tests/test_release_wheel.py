"""A wheel with prebuilt runtimes builds executables where there is no compiler.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from llamapack import build, plan, toolchain
from llamapack.targets import find_target

ROOT = Path(__file__).resolve().parents[1]
PREBUILT = ["linux-x86_64", "macos-aarch64"]
HOOK = """
import sys
sys.path.insert(0, "builder")
import llamapack_build
settings = {"prebuilt": sys.argv[2]}
if sys.argv[1] == "needs":
    print(llamapack_build.get_requires_for_build_wheel(settings))
else:
    llamapack_build.build_wheel(sys.argv[1], settings)
"""  # of a process of its own each, as pip calls them

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links packages together")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout: other tests read this one meanwhile."""
    folder = tmp_path_factory.mktemp("release")
    checkout = folder / "checkout"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
    generated = "builder/llamapack/_generated"
    shutil.copytree(ROOT / generated, checkout / generated)
    script = folder / "hook.py"
    script.write_text(HOOK)
    for word in ("needs", str(folder)):
        done = subprocess.run(
            [sys.executable, script, word, ",".join(PREBUILT)],
            cwd=checkout, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert word != "needs" or f"ziglang=={toolchain.zig_version()}" in done.stdout
    assert not (checkout / "builder" / "llamapack" / "_prebuilt").exists()
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and what it needs, but no compiler."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("ziglang", "llamapack", "__editable__", "distutils-")):
            (packages / path.name).symlink_to(path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return folder / "bin" / "python"


def run(python: Path, cache: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        [python, "-m", "llamapack", *map(str, words)], cwd=cache.parent,
        env={**environment, "LLAMAPACK_CACHE": str(cache)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_wheel_carries_runtimes_and_how_they_were_made(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if "/_prebuilt/" in name]
        manifest = json.loads(archive.read("llamapack/_prebuilt/manifest.json"))
        packed = {name: archive.read(f"llamapack/_prebuilt/{name}.xz") for name in PREBUILT}
    assert len(names) == len(PREBUILT) + 1
    assert manifest["zig"] == toolchain.zig_version()
    assert "Permission is hereby granted" in manifest["licenses"]["musl/COPYRIGHT"]
    for name in PREBUILT:
        assert manifest["runtimes"][name]["key"] == toolchain.runtime_key(
            toolchain.find_tree(), find_target(name)
        )
        assert lzma.decompress(packed[name]) == toolchain.build_runtime(find_target(name))


def test_builds_without_a_compiler(python: Path, smollm2: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    words = [word for name in PREBUILT for word in ("--target", name)]
    done = run(python, cache, "build", smollm2, "-o", tmp_path / "chat", *words)
    assert done.returncode == 0, done.stderr
    (tmp_path / "own").mkdir()
    made = build.build(plan.make_plan(str(smollm2), tmp_path / "own" / "chat", PREBUILT))
    for result in made:
        assert (tmp_path / result.path.name).read_bytes() == result.path.read_bytes()
    # What was not prebuilt needs the compiler, and nothing is left of the attempt.
    before = sorted(tmp_path.iterdir())
    done = run(
        python, cache, "build", smollm2, "-o", tmp_path / "other", "--target", "macos-x86_64"
    )
    assert (done.returncode, done.stderr) == (
        1, "error: the compiler is missing: pip install ziglang\n"
    )  # fmt: skip
    assert sorted(tmp_path.iterdir()) == before


def test_prebuilt_runtime_of_other_sources_is_not_used(
    python: Path, tmp_path: Path, smollm2: Path
) -> None:
    (package,) = (python.parent.parent / "lib").glob("python*/site-packages/llamapack")
    source = package / "_source" / "runtime_c" / "base" / "status.c"
    damaged = package / "_prebuilt" / "linux-x86_64.xz"
    for path, change in ((source, b"\n/* changed */\n"), (damaged, b"")):
        good = path.read_bytes()
        path.write_bytes(good + change if change else good[: len(good) // 2])
        try:
            done = run(python, tmp_path / "cache", "build", smollm2, "-o", tmp_path / "chat",
                       "--target", "linux-x86_64")  # fmt: skip
        finally:
            path.write_bytes(good)
        assert (done.returncode, done.stderr) == (
            1, "error: the compiler is missing: pip install ziglang\n"
        )  # fmt: skip
