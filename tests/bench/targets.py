"""Builds all main targets twice, each time from an empty cache, and once more from the full one.

    .venv/bin/python tests/bench/targets.py smollm2 [--target NAME ...]

Prints wall and processor time of each build and whether the files are the same, byte for byte.
Takes minutes of processor time per target: everything is compiled, zig's C libraries too.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import filecmp
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "builder"))

from llamapack.targets import TARGETS  # noqa: E402


def build(model: str, targets: list[str], out: Path, cache: Path) -> str:
    """Builds; wall and processor seconds as text."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    words = [word for name in targets for word in ("--target", name)]
    subprocess.run(
        [sys.executable, "-m", "llamapack", "build", model, "-o", str(out), *words],
        env={**os.environ, "LLAMAPACK_CACHE": str(cache), "PYTHONPATH": str(ROOT / "builder")},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{wall:.1f} s ({cpu:.1f} s of processor time)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--target", action="append", default=[])
    given = parser.parse_args()
    targets = given.target or [target.name for target in TARGETS if not target.experimental]
    with tempfile.TemporaryDirectory() as work:
        folders = [Path(work) / name for name in ("first", "second", "warm")]
        for folder in folders:
            folder.mkdir()
        first, second, warm = folders
        caches = [first / "cache", second / "cache", second / "cache"]
        for folder, cache in zip(folders, caches, strict=True):
            print(folder.name, build(given.model, targets, folder / "chat", cache), flush=True)
        same = True
        for path in sorted(first.glob("chat*")):
            equal = all(filecmp.cmp(path, f / path.name, shallow=False) for f in (second, warm))
            print(f"{path.name:24} {path.stat().st_size:>12,} {'same' if equal else 'DIFFERS'}")
            same = same and equal
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
