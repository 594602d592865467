"""The Linux files need nothing of a distribution: no libc, no /etc, no /tmp, no /proc, no shell.

A root directory with the program alone stands for every old or small system (Alpine, a container
made from scratch, an old glibc), since a static file cannot ask for more than the kernel gives.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi
import pytest
from llamapack import build, plan
from server_process import Server

ASK = ["-p", "What is the capital of France?", "--temp", "0", "-n", "8"]
pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="this machine is no x86-64")


def in_root(root: Path) -> list[str]:
    """The command in front of a program of that root; skips where it is not allowed."""
    command = ["unshare", "-Ur", "chroot", str(root)]
    if shutil.which("unshare") is None:
        pytest.skip("optional: no unshare")
    done = subprocess.run([*command, "/nothing"], capture_output=True, text=True, check=False)
    if done.returncode != 127:
        pytest.skip(f"optional: no private root here: {done.stderr.strip()}")
    return command


@pytest.fixture
def root(tmp_path: Path, packed_smollm2: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    try:
        os.link(packed_smollm2, folder / "chat")
    except OSError:
        shutil.copy2(packed_smollm2, folder / "chat")
    return folder


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False,
        **{"stdin": subprocess.DEVNULL} | options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_a_root_with_nothing_in_it(root: Path) -> None:
    chat = [*in_root(root), "/chat"]
    nothing = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}  # for unshare and chroot
    done = run([*chat, *ASK], env=nothing)
    assert "Paris" in done.stdout
    assert "error" not in done.stderr
    assert "ok" in run([*chat, "verify"], env=nothing).stdout
    assert "llama" in run([*chat, "info"], env=nothing).stdout
    assert run([*chat, "tokenize", "--ids", "Hello world"], env=nothing).stdout == "19556 905\n"
    server = Server(Path("/chat"), runner=tuple(in_root(root)), env=nothing)
    with server, urllib.request.urlopen(server.url) as page:
        assert b"<html" in page.read()
    assert os.listdir(root) == ["chat"]  # and nothing was made


def test_directories_of_android(root: Path) -> None:
    """Termux: no /etc, no /tmp; everything below one directory of the application."""
    base = "/data/data/com.termux/files"
    for name in ("home", "usr/tmp", "usr/bin"):
        (root / f"{base[1:]}/{name}").mkdir(parents=True)
    program = f"{base}/usr/bin/chat"
    (root / "chat").rename(root / program[1:])
    environment = {"HOME": f"{base}/home", "PREFIX": f"{base}/usr", "TMPDIR": f"{base}/usr/tmp",
                   "PATH": f"{base}/usr/bin:{os.environ['PATH']}"}  # fmt: skip
    command = in_root(root)
    assert "Paris" in run([*command, program, *ASK], env=environment).stdout
    said = run([*command, program, "chat"], env=environment, stdin=None, input="/exit\n")
    assert "error" not in said.stderr
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    allowed = f"{base[1:]}/home/.local/state/llamapack/"
    assert {name for name in files if not name.startswith(allowed)} == {program[1:]}


@pytest.mark.qemu
def test_arm_keeps_the_promises(smollm2: Path, tmp_path: Path, tool: Callable[[str], str]) -> None:
    """A prompt is answered in test_build_targets.py; here the other commands, and the page."""
    made = build.build(plan.make_plan(str(smollm2), tmp_path / "chat", ["linux-aarch64"]))
    chat = [tool("qemu"), str(made[0].path)]
    assert "ok" in run([*chat, "verify"]).stdout
    assert run([*chat, "tokenize", "--ids", "Hello world"]).stdout == "19556 905\n"
    with Server(made[0].path, runner=(tool("qemu"),)) as server:
        with urllib.request.urlopen(server.url) as page:
            assert page.status == 200
            assert b"<html" in page.read()
        with urllib.request.urlopen(f"{server.url}/v1/models") as reply:
            assert b'"object"' in reply.read()


def test_program_by_its_first_argument(
    native: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How OpenBSD, which keeps no path of a running program, finds it."""
    ffi = cffi.FFI()
    ffi.cdef("char *lp_find_program(const char *argv0, const char *path); void free(void *);")
    lib = ffi.dlopen(str(native.path))

    def find(argv0: str | None, path: str | None) -> str | None:
        texts = [ffi.NULL if text is None else text.encode() for text in (argv0, path)]
        words = [text if text == ffi.NULL else ffi.new("char[]", text) for text in texts]
        found = lib.lp_find_program(*words)
        if found == ffi.NULL:
            return None
        text = ffi.string(found).decode()
        lib.free(found)
        return str(text)

    one, two = tmp_path / "one", tmp_path / "two ö"
    for folder in (one, two):
        folder.mkdir()
        (folder / "chat").touch(mode=0o755)
    (one / "plain").touch(mode=0o644)
    (one / "link").symlink_to(two / "chat")
    (two / "folder").mkdir()
    monkeypatch.chdir(two)
    both = f"{one}:{two}"
    cases = [
        ("chat", both, one / "chat"),
        ("chat", f"{two}:{one}", two / "chat"),
        ("chat", f"/does/not/exist:{two}", two / "chat"),
        ("chat", ":/usr/bin", two / "chat"),  # an empty entry is the working directory
        ("chat", "/usr/bin:", two / "chat"),
        ("link", both, two / "chat"),
        ("./chat", None, two / "chat"),
        ("../one/chat", both, one / "chat"),
        (str(one / "chat"), "", one / "chat"),
        ("plain", both, None),
        ("folder", both, None),
        ("chat", None, None),
        ("chat", "/usr/bin", None),
        ("./missing", both, None),
        ("", both, None),
        (None, both, None),
    ]
    for argv0, path, expected in cases:
        assert find(argv0, path) == (str(expected) if expected else None), (argv0, path)
