"""Several targets in one go: side by side, from one cache, the same bytes again, stopped as one.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llamapack import build, container, payload, plan, toolchain
from llamapack.errors import LlamapackError
from llamapack.jobs import Jobs
from llamapack.targets import find_target, host_target

ROOT = Path(__file__).resolve().parents[1]
CHEAP = ["macos-aarch64", "macos-x86_64"]  # nothing of their libc has to be built

Shown = list[tuple[str, int, int]]


@pytest.fixture
def small_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime of two files in place of ours, and an empty cache of objects."""
    root = tmp_path / "tree"
    (root / "runtime_c").mkdir(parents=True)
    (root / "kernels_x86_arm").mkdir()
    (root / "runtime_c" / "main.c").write_text("int f(int x); int main(void) { return f(1); }\n")
    (root / "runtime_c" / "part.c").write_text("int f(int x); int f(int x) { return x - 1; }\n")
    tree = toolchain.Tree(root, root / "_generated", checkout=True)
    monkeypatch.setattr(toolchain, "find_tree", lambda: tree)
    empty_cache(tmp_path / "cache", monkeypatch)
    return root


def empty_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zig = toolchain.cache_dir() / "zig"  # zig's own is kept: building its libraries takes minutes
    folder.mkdir()
    zig.mkdir(parents=True, exist_ok=True)
    (folder / "zig").symlink_to(zig.resolve())
    monkeypatch.setenv("LLAMAPACK_CACHE", str(folder))


@pytest.fixture
def zig_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What zig was run for."""
    calls: list[str] = []
    run = toolchain.run_zig

    def counted(arguments: Any, work: Path, what: str, *rest: Any) -> Any:
        calls.append(what)
        return run(arguments, work, what, *rest)

    monkeypatch.setattr(toolchain, "run_zig", counted)
    return calls


def test_targets_are_made_together(
    small_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zig_calls: list[str]
) -> None:
    targets = [find_target(name) for name in CHEAP]
    shown: Shown = []
    made = toolchain.build_runtimes(targets, lambda *row: shown.append(row))
    assert [data[:4] for data in made] == [b"\xcf\xfa\xed\xfe"] * 2
    assert zig_calls.count("compiling runtime_c/part.c") == 2
    assert {f"building the C library of {name}" for name in CHEAP} <= set(zig_calls)
    # Two objects and a link each, and the targets by name.
    assert shown[0] == ("compiling for macos-aarch64 and 1 more", 0, 6)
    assert shown[-1][1:] == (6, 6)
    assert any("linking for macos-" in what for what, _, _ in shown)

    zig_calls.clear()
    assert toolchain.build_runtimes(targets[::-1]) == made[::-1]
    assert zig_calls == []  # from the cache, in the order asked for

    # What changed is compiled again, for both, and nothing else.
    (small_tree / "runtime_c" / "part.c").write_text("int f(int x); int f(int x) { return x; }\n")
    changed = toolchain.build_runtimes(targets)
    assert changed[0] != made[0] and changed[1] != made[1]
    assert sorted(zig_calls) == sorted(["compiling runtime_c/part.c", "linking the runtime"] * 2)

    # One at a time, in another order, from another empty cache: the same bytes.
    empty_cache(tmp_path / "other", monkeypatch)
    assert [toolchain.build_runtime(target) for target in targets[::-1]] == changed[::-1]


def test_first_error_stops_all(small_tree: Path, zig_calls: list[str]) -> None:
    (small_tree / "runtime_c" / "a.c").write_text("#if defined(__x86_64__)\n#error wrong\n#endif\n")
    for number in range(50):
        (small_tree / "runtime_c" / f"z{number}.c").write_text(f"int z{number};\n")
    with pytest.raises(LlamapackError, match=r"^compiling runtime_c/a.c failed: .*wrong"):
        toolchain.build_runtimes([find_target("macos-x86_64"), find_target("macos-aarch64")])
    assert len(zig_calls) < 50  # of 108


def test_failed_job_ends_the_others(tmp_path: Path) -> None:
    marker = tmp_path / "late"
    command = ["sh", "-c", 'sh -c "sleep 300; : >late"; : >late']
    started = time.monotonic()

    def fail() -> None:
        time.sleep(0.2)
        raise LlamapackError("that did not work")

    with pytest.raises(LlamapackError, match="did not work"), Jobs(2) as jobs:
        jobs.submit(lambda: jobs.call(command, tmp_path, os.environ))
        jobs.submit(fail)
        jobs.submit(marker.touch)
        jobs.run()
    assert time.monotonic() - started < 200
    assert not marker.exists()


def test_jobs_that_follow_from_jobs() -> None:
    done: list[int] = []

    def step(n: int) -> None:
        done.append(n)
        if n < 5:
            jobs.submit(lambda: None, lambda: step(n + 1))

    with Jobs(3) as jobs:
        jobs.submit(lambda: None, lambda: step(0))
        jobs.run()
    assert done == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_build_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Neither files nor compilers, whether the terminal sends the signal or another program."""
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    out.mkdir()
    # An empty cache, so that there is much to compile.
    environment = {**os.environ, "TMPDIR": str(scratch), "LLAMAPACK_CACHE": str(tmp_path / "cache"),
                   "PYTHONPATH": str(ROOT / "builder")}  # fmt: skip
    targets = [word for name in ("macos-aarch64", "linux-x86_64") for word in ("--target", name)]
    process = subprocess.Popen(
        [sys.executable, "-m", "llamapack", "build", "--no-model", "-o", str(out / "chat"), *targets],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not compilers(scratch):
        assert process.poll() is None, process.stderr
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert compilers(scratch) == []
    assert list(out.iterdir()) == []
    assert list(scratch.iterdir()) == []


def compilers(folder: Path) -> list[str]:
    """Running programs that have to do with a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = os.readlink(path.with_name("cwd"))
        except OSError:
            continue
        if "zig" in text and where.startswith(str(folder)):
            found.append(text)
    return found


def test_weights_are_read_and_hashed_once(
    tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    pieces = container.Weights.pieces

    def counted(weights: container.Weights) -> Any:
        for piece in pieces(weights):
            reads.append(len(piece))
            yield piece

    monkeypatch.setattr(container.Weights, "pieces", counted)
    runtimes = [b"\x7fELF" + bytes(60), b"\xcf\xfa\xed\xfe" + bytes(60)]
    monkeypatch.setattr(toolchain, "build_runtimes", lambda targets, progress: runtimes)
    names = ["linux-x86_64", "linux-aarch64"]
    steps: Shown = []
    results = build.build(
        plan.make_plan(str(smollm2), tmp_path / "chat", names), lambda *row: steps.append(row)
    )
    assert sum(reads) == smollm2.stat().st_size
    expected = smollm2.read_bytes()
    manifests = []
    for result in results:
        opened = payload.open_payload(result.path)
        manifests.append(opened.manifest["entries"])
        with zipfile.ZipFile(result.path) as archive:
            assert archive.read("model.gguf") == expected  # zipfile checks the CRC
        assert payload.verify(opened) == result.size
    assert manifests[0] == manifests[1]
    assert {f"writing chat-{name}" for name in names} <= {what for what, _, _ in steps}


def test_copy_without_the_kernels_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where copy_file_range is missing, refuses, or stops half way."""
    data = os.urandom(300_000)
    source = tmp_path / "source"
    source.write_bytes(b"head" + data)
    known = container.Checksums(0, ())
    weights = container.Weights(source, 4, len(data), known=known)

    def refuse(*_: Any) -> int:
        raise OSError(18, "Invalid cross-device link")

    calls: list[int] = []

    def half(src: int, dst: int, count: int, offset_src: int, offset_dst: int) -> int:
        calls.append(count)
        if len(calls) > 1:
            raise OSError(22, "Invalid argument")
        return os.pwrite(dst, os.pread(src, 1000, offset_src), offset_dst)

    kinds: list[Callable[..., int] | None] = [refuse, half, None]
    for kind in kinds:
        if kind is None:
            monkeypatch.delattr(os, "copy_file_range")
        else:
            monkeypatch.setattr(os, "copy_file_range", kind)
        out = tmp_path / "out"
        with out.open("wb+") as file:
            file.write(b"before")
            container._clone(weights, file, None)
            file.write(b"behind")
        assert out.read_bytes() == b"before" + data + b"behind"


def test_targets_say_how_far_they_were_tried() -> None:
    def run(*words: str) -> str:
        command = [sys.executable, "-m", "llamapack", "targets", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "builder")}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    rows = {row["name"]: row for row in json.loads(run("--json"))}
    text = run()
    main = {
        f"{system}-{cpu}"
        for system in ("linux", "windows", "macos")
        for cpu in ("x86_64", "aarch64")
    }
    assert {name for name, row in rows.items() if not row["experimental"]} == main | {"universal"}
    for name, row in rows.items():
        assert any(
            line.startswith(f"{name} ") and row["state"] in line for line in text.splitlines()
        )
    never_run = {name for name, row in rows.items() if "not run" in row["state"]}
    tried = {"linux-x86_64", "linux-aarch64", "windows-x86_64"}
    assert never_run == rows.keys() - tried - {"universal"}  # the last is as its slices are


def test_native_is_this_machine(tmp_path: Path) -> None:
    names = ["native", host_target().name]
    (output,) = plan.plan_outputs(tmp_path / "chat", names)
    assert output.target == host_target()
