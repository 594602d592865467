"""The packed program where something is missing or odd: memory, rights, streams, a display, a home;
started twice, without a terminal, beside other users.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts of Linux")

ASK = ("-p", "Say hi", "-n", "4", "--temp", "0")
FIRST_PORT = 8080
# Programs with the same options are one; these are this run's own.
OWN = ("--no-browser", "-c", "256", "--seed", str(os.getpid()))


def shell(script: str, *arguments: str | Path, name: str = "sh") -> tuple[int, str, str]:
    """Runs a script with "$1" ... and "$0"; its status and what it wrote."""
    result = subprocess.run(
        ["sh", "-c", script, name, *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    return result.returncode, result.stdout.decode(), result.stderr.decode(errors="replace")


@pytest.fixture(scope="module")
def answer(packed_smollm2: Path) -> str:
    code, out, error = shell('exec "$@"', packed_smollm2, *ASK)
    assert code == 0, error
    assert out.strip()
    return out


# --- conditions of one start -----------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        'env -i "$@"',
        'env -u HOME "$@"',
        '"$@" <&-',
        '"$@" 2>&-',
        'ulimit -s 128; "$@"',
        'env -i prlimit --stack=32768:8388608 "$@"',
        'ulimit -n 5; "$@"',
        'ulimit -f 0; "$@"',
        'ulimit -v 409600; "$@"',
        'cd /proc; "$@"',
        'd=$(mktemp -d) && n=$(printf "%s/od d\\n\\377\\"\'%%s$x" "$d") && ln -s "$1" "$n" && '
        'shift && "$n" "$@"; s=$?; rm -r "$d"; exit $s',
    ],
)
def test_it_answers_all_the_same(packed_smollm2: Path, answer: str, script: str) -> None:
    assert shell(script, packed_smollm2, *ASK) == (0, answer, "")


def test_a_closed_output_is_a_failure(packed_smollm2: Path) -> None:
    code, _, error = shell('"$@" >&-', packed_smollm2, *ASK)
    assert code == 1
    assert error.startswith("error: cannot write to standard output")


def test_a_server_without_streams(packed_smollm2: Path) -> None:
    """Nothing it prints may end up in a socket that has the number of a closed stream."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", packed_smollm2, "serve", "--port", port]
    )
    try:
        links = Path(f"/proc/{process.pid}/fd")
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port))):
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for fd in "012":
            assert not os.readlink(links / fd).startswith(("socket:", "pipe:")), fd
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_little_address_space_is_said(packed_smollm2: Path) -> None:
    code, out, error = shell('ulimit -v 51200; "$@"', packed_smollm2, *ASK)
    assert (code, out) == (1, "")
    assert "address space, and the limit is 50 MiB (ulimit -v)" in error
    assert error.count("\n") == 1


def test_a_stack_that_is_too_small_is_said(packed_smollm2: Path) -> None:
    """With nothing but its words on the stack, and where the environment takes half of it."""
    said = "error: the limit on the stack is under 96 KiB (ulimit -s); raise it to 8192 KiB\n"
    for limit, size in ((16, 10), (32, 15000)):
        script = f'exec env -i X="$(printf %0{size}d 0)" prlimit --stack={limit << 10} "$@"'
        for words in (["--version"], [*ASK]):
            assert shell(script, packed_smollm2, *words) == (1, "", said)


def test_a_limit_on_threads_leaves_fewer(packed_smollm2: Path, answer: str) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("optional: needs root and setpriv, since no limit holds for root")
    with shared_copy(packed_smollm2) as program:
        script = 'exec prlimit --nproc=1 setpriv --reuid 54321 --clear-groups "$@"'
        assert shell(script, program, *ASK, "-t", "4") == (0, answer, "")
        code, _, error = shell(script, program, "serve", "--port", "0")
        assert code == 1
        assert "the limit on threads is reached" in error


def test_without_proc_and_devices(tmp_path: Path, packed_smollm2: Path, answer: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("optional: needs root to change the root directory")
    os.link(packed_smollm2, tmp_path / "chat")
    assert shell('chroot "$1" /chat "$2" "$3" "$4" "$5" "$6" "$7"', tmp_path, *ASK) == (
        0, answer, "",
    )  # fmt: skip


# x86-64 numbers of landlock_create_ruleset, getrandom, sched_getaffinity, madvise, prlimit64, prctl,
# sched_yield, ioctl, readlink.
REFUSED = (444, 318, 204, 28, 302, 157, 24, 16, 89)
# Installs a seccomp filter (BPF: load the number; if it is one of these, fail with errno; else
# allow) and becomes the program.
FILTERED = """
import ctypes, os, struct, sys
code, *words = sys.argv[1:]
numbers = [int(n) for n in words.pop(0).split(",")]
step = lambda op, yes, no, k: struct.pack("HBBI", op, yes, no, k)
lines = [step(0x20, 0, 0, 0)]
for n in numbers:
    lines += [step(0x15, 0, 1, n), step(0x06, 0, 0, 0x00050000 | int(code))]
lines.append(step(0x06, 0, 0, 0x7FFF0000))
room = ctypes.create_string_buffer(b"".join(lines))
filter = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(room))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.create_string_buffer(filter), 0, 0) == 0
os.execv(words[0], words)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="optional: numbers of x86-64")
@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_a_container_that_refuses_system_calls(
    packed_smollm2: Path, answer: str, code: int
) -> None:
    numbers = ",".join(map(str, REFUSED))
    words = (sys.executable, "-c", FILTERED, str(code), numbers, packed_smollm2, *ASK)
    assert shell('exec "$@"', *words) == (0, answer, "")


def test_a_file_that_fat32_cut_off_says_so(tmp_path: Path, packed_smollm2: Path) -> None:
    """The runtime is at the front, so a file that lost its end still starts."""
    path = tmp_path / "chat"
    with packed_smollm2.open("rb") as source, path.open("wb") as out:
        out.write(source.read(4 << 20))
        out.truncate((1 << 32) - 1)
    path.chmod(0o755)
    code, _, error = shell('exec "$@"', path, *ASK)
    assert code == 1
    assert "FAT32" in error
    weights = tmp_path / "model.gguf"
    with weights.open("wb") as out:
        out.write(b"GGUF")
        out.truncate((1 << 32) - 4096)
    code, _, error = shell('exec "$@"', packed_smollm2, "-m", weights, *ASK)
    assert code == 1
    assert "FAT32" in error


# --- memory of another machine -----------------------------------------------------------------


def with_memory(folder: Path, total_mib: int, free_mib: int, *command: str | Path) -> str:
    """What a command says where /proc/meminfo tells of so much memory; its status comes first."""
    path = folder / "meminfo"
    path.write_text(f"MemTotal: {total_mib * 1024} kB\nMemAvailable: {free_mib * 1024} kB\n")
    script = 'mount --bind "$1" /proc/meminfo || exit 77; shift; exec "$@"'
    code, _, error = shell('unshare -Urm sh -c "$0" sh "$@"', path, *command, name=script)
    if code == 77 or "unshare" in error:
        pytest.skip(f"no private mounts here: {error.strip()}")
    return f"{code} {error}"


def test_a_small_memory_is_told_what_would_fit(tmp_path: Path, packed_smollm2: Path) -> None:
    error = with_memory(tmp_path, 140, 130, packed_smollm2, *ASK)
    assert error.startswith("1 error: the model needs ")
    assert "this machine has 140 MiB; what fits is a model of up to " in error
    assert error.count("\n") == 1


def test_a_short_context_makes_it_fit(tmp_path: Path, packed_smollm2: Path) -> None:
    """The weights (93 MiB) and buffers leave little: the context takes what is left, not more."""
    assert with_memory(tmp_path, 190, 180, packed_smollm2, *ASK).startswith("0 note: ")
    error = with_memory(tmp_path, 190, 180, packed_smollm2, *ASK, "-c", "8192")
    assert error.startswith("1 error: ")


def test_little_free_memory_is_a_note(tmp_path: Path, packed_smollm2: Path) -> None:
    said = with_memory(tmp_path, 2048, 140, packed_smollm2, *ASK)
    assert said.startswith("0 note: the model takes ")
    assert "140 MiB are free" in said
    assert with_memory(tmp_path, 2048, 1200, packed_smollm2, *ASK) == "0 "


# --- who listens -------------------------------------------------------------------------------


class Start:
    """A bare start without a terminal or a browser."""

    def __init__(self, program: Path, *arguments: str, user: int | None = None) -> None:
        words = [str(program), *OWN, *arguments]
        if user is not None:
            words = ["setpriv", "--reuid", str(user), "--clear-groups", *words]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def line(self) -> str:
        assert self.process.stderr
        return self.process.stderr.readline().decode()

    def url(self) -> str:
        line = self.line()
        assert " is ready at http://127.0.0.1:" in line, line
        return line.split()[-1]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(timeout=20)
        if self.process.stderr:
            self.process.stderr.close()

    def __enter__(self) -> Start:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def shared_copy(program: Path) -> Iterator[Path]:
    """The program under a path that other users can reach."""
    folder = Path(tempfile.mkdtemp(prefix="lp-test-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        shutil.copy(program, folder / "chat")
        yield folder / "chat"
    finally:
        shutil.rmtree(folder)


def test_a_copy_under_another_name_opens_the_running_one(
    tmp_path: Path, packed_smollm2: Path
) -> None:
    os.link(packed_smollm2, tmp_path / "renamed")
    (tmp_path / "link").symlink_to(packed_smollm2)
    with Start(packed_smollm2) as first:
        url = first.url()
        for name in ("renamed", "link"):
            with Start(tmp_path / name) as second:
                assert second.line() == f"already running at {url}\n"
                assert second.process.wait(timeout=20) == 0


def test_other_options_are_another_program(packed_smollm2: Path) -> None:
    with Start(packed_smollm2) as first, Start(packed_smollm2, "--temp", "0") as second:
        urls = {first.url(), second.url()}
        assert len(urls) == 2
        with Start(packed_smollm2, "--temp=0") as third:
            assert third.line().split()[-1] in urls


def test_it_is_found_above_a_port_that_became_free(packed_smollm2: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", FIRST_PORT))
        except OSError:
            pytest.skip(f"optional: port {FIRST_PORT} is taken here")
        other.listen()
        with Start(packed_smollm2) as first:
            # `other` accepts and says nothing: it might be a copy that is just starting.
            assert first.line().startswith(f"note: the program at port {FIRST_PORT} does not")
            url = first.url()
            assert not url.endswith(f":{FIRST_PORT}/")
            other.close()
            with Start(packed_smollm2) as second:
                assert second.line() == f"already running at {url}\n"


def test_one_that_is_just_starting_is_waited_for(packed_smollm2: Path) -> None:
    with Start(packed_smollm2) as first:
        url = first.url()
        first.process.send_signal(signal.SIGSTOP)
        with Start(packed_smollm2) as second:
            assert "does not answer yet" in second.line()
            first.process.send_signal(signal.SIGCONT)
            assert second.line() == f"already running at {url}\n"


def test_the_server_of_another_user_is_not_opened(packed_smollm2: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("optional: needs root and setpriv to be two users")
    with (
        shared_copy(packed_smollm2) as program,
        Start(program, user=54321) as theirs,
        Start(program) as ours,
    ):
        assert theirs.url() != ours.url()
        with Start(program, user=54321) as again:
            assert again.line().startswith("already running at ")


def test_only_the_own_machine_may_quit(packed_smollm2: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    auth = {"Authorization": "Bearer 0123456789abcdef"}
    behind_a_proxy = ("--allow-host", "chat.example")
    on_the_network = ("--host", "0.0.0.0", "--api-key-file", str(key))
    for arguments, headers in ((behind_a_proxy, {}), (on_the_network, auth)):
        with Server(packed_smollm2, "-c", "256", *arguments) as server:
            assert server.get("/api/info", headers).json()["may_quit"] is False
            reply = server.post("/api/quit", {}, headers)
            assert reply.status == 403
            assert "others use this program" in reply.error()["message"]
            assert server.process.poll() is None
    with Server(packed_smollm2, "-c", "256") as server:
        assert server.get("/api/info").json()["may_quit"] is True
        assert server.post("/api/quit", {}, {"Origin": "http://evil.example"}).status == 403
        assert server.get("/api/quit").status == 405
        assert server.process.poll() is None
        assert server.post("/api/quit", {}).status == 200
        assert server.process.wait(timeout=20) == 0


def test_a_waiting_server_sleeps(packed_smollm2: Path) -> None:
    with Server(packed_smollm2, "-c", "256") as server:
        server.chat("hello", max_tokens=2)
        time.sleep(0.5)

        def wake_ups() -> int:
            total = 0
            for status in Path(f"/proc/{server.process.pid}/task").glob("*/status"):
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
                total += int(fields["voluntary_ctxt_switches"])
            return total

        before = wake_ups()
        time.sleep(2)
        assert wake_ups() - before <= 1


# --- started by a click ------------------------------------------------------------------------


@pytest.fixture
def desktop(tmp_path: Path) -> dict[str, str]:
    """A display, and a dialog program that notes what it shows; no browser."""
    folder = tmp_path / "bin"
    folder.mkdir()
    dialog = folder / "zenity"
    dialog.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/part"\n'
                      f'/bin/mv "{tmp_path}/part" "{tmp_path}/shown"\n')  # fmt: skip
    dialog.chmod(0o755)
    return {"DISPLAY": ":99", "PATH": str(folder)}


def shown(folder: Path) -> str:
    deadline = time.monotonic() + 30
    while not (folder / "shown").exists():
        assert time.monotonic() < deadline, "no dialog was shown"
        time.sleep(0.02)
    return (folder / "shown").read_text()


def click(program: Path, env: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    return subprocess.Popen(
        [program, *arguments], env=env, stdin=null, stdout=null, stderr=null, start_new_session=True
    )


def test_a_click_that_fails_shows_why(
    tmp_path: Path, packed_smollm2: Path, desktop: dict[str, str]
) -> None:
    cut = tmp_path / "chat"
    cut.write_bytes(packed_smollm2.read_bytes()[: 4 << 20])
    cut.chmod(0o755)
    assert click(cut, desktop).wait(timeout=60) == 1
    assert "no archive at the end of this file" in shown(tmp_path)
    # After the confinement, too, when nothing can be started any more.
    (tmp_path / "shown").unlink()
    assert click(packed_smollm2, desktop, "-c", "1000000000").wait(timeout=60) == 1
    assert "1000000000" in shown(tmp_path)


@pytest.mark.parametrize("browser", ["none", "failing"])
def test_without_a_browser_the_address_is_shown(
    tmp_path: Path, packed_smollm2: Path, desktop: dict[str, str], browser: str
) -> None:
    if browser == "failing":
        path = Path(desktop["PATH"]) / "xdg-open"
        path.write_text("#!/bin/sh\nexit 3\n")
        path.chmod(0o755)
    process = click(packed_smollm2, desktop, *OWN[1:])
    try:
        assert "http://127.0.0.1:" in shown(tmp_path)
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0


def test_a_one_shot_shows_no_window(
    tmp_path: Path, packed_smollm2: Path, desktop: dict[str, str]
) -> None:
    assert click(packed_smollm2, desktop, "-p", "x", "--bogus").wait(timeout=60) == 2
    assert click(packed_smollm2, desktop, "-p", "x", "-m", "/none").wait(timeout=60) == 1
    time.sleep(0.3)
    assert not (tmp_path / "shown").exists()
