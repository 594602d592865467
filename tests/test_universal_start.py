"""Starting a universal file: shells, what else starts programs, the cache, races, other systems.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import tiny_model
from llamapack import build, plan, toolchain
from server_process import Server
from universal_file import (
    AARCH64,
    SHELLS,
    Started,
    binfmt,
    collect,
    compile_probe,
    fake_uname,
    need_binfmt,
    need_namespaces,
    probe_file,
    shell_command,
    start,
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="starts on Linux x86-64"
)

WORDS = ["plain", "two words", "", "a\nb", "*", "$HOME", "`id`", "q\"uo'te", "back\\slash", "-x"]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("universal") / "chat"
    probe_file(path)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the real runtimes and a tiny model."""
    folder = tmp_path_factory.mktemp("made")
    model = tiny_model.build("llama", "Q8_0", seed=1).save(folder / "tiny.gguf")
    return build.build(plan.make_plan(str(model), folder / "chat", ["universal"]))[0].path


def cached(home: Path) -> list[str]:
    folder = home / ".cache" / "llamapack"
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def check_started(started: Started, archive: str, words: list[str], code: int = 0) -> None:
    assert (started.code, started.errors) == (code, "")
    assert started.args == ["--lp-archive", archive, *words]


# --- shells ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_as_interpreters(shell: str, chat: Path, home: Path, tmp_path: Path) -> None:
    """`SHELL ./chat`, cold and warm: arguments, status, input, umask and directory as given."""
    words = [*shell_command(shell), "./chat", *WORDS, "exit:7"]
    for turn in ("cold", "warm"):
        started = start(words, home, stdin=b"from a pipe", cwd=chat.parent, umask=0o027)
        if shell == "posh":  # it cannot tell whose a file is, so every start is a cold one
            assert (started.code, started.errors) == (7, "")
            assert started.args[:1] + started.args[2:3] == ["--lp-unlink", "--lp-archive"]
            assert started.args[4:] == [*WORDS, "exit:7"]
            shutil.rmtree(started.cached.parent)
        else:
            check_started(started, "./chat", [*WORDS, "exit:7"], 7)
            assert cached(home) == [started.cached.name], turn
            assert stat.S_IMODE(started.cached.stat().st_mode) == 0o700
            assert stat.S_IMODE(started.cached.parent.stat().st_mode) == 0o700
        assert started.fields["stdin"] == "from a pipe"
        assert started.fields["umask"] == "27"
        assert started.fields["cwd"] == str(chat.parent)


PROMPTS = (
    "dash -c", "bash -c", "zsh -c", "busybox ash -c", "ksh93 -c", "yash -c", "posh -c",
    "fish -c", "tcsh -fc",
)  # fmt: skip


@pytest.mark.parametrize("shell", PROMPTS)
def test_shells_at_the_prompt(shell: str, chat: Path, home: Path) -> None:
    started = start([*shell_command(shell), "./chat 'two words' exit:3"], home, cwd=chat.parent)
    assert (started.code, started.errors) == (3, "")
    assert started.args[-2:] == ["two words", "exit:3"]


@pytest.mark.parametrize("shell", ["mksh -c"])
def test_shells_that_know_better(shell: str, chat: Path, home: Path) -> None:
    """mksh takes MZ for a program that it cannot run; `sh ./chat` works there too."""
    words = shell_command(shell)
    assert start([*words, "./chat"], home, cwd=chat.parent).code != 0
    check_started(start([*words, "sh ./chat x"], home, cwd=chat.parent), "./chat", ["x"])


def test_found_in_path(chat: Path, home: Path) -> None:
    env = {"PATH": f"{chat.parent}:{os.environ['PATH']}"}
    for shell in ("dash", "bash", "zsh", "busybox ash", "yash"):
        started = start([*shell_command(shell), "-c", "chat x"], home, env=env, cwd=home)
        check_started(started, str(chat), ["x"])
    # A bare name that no directory of PATH holds: bash and dash look beside them.
    check_started(start(["bash", "chat", "x"], home, cwd=chat.parent), "./chat", ["x"])
    # bash finds it in PATH but leaves the name bare: it reads the script where it stands.
    check_started(start(["bash", "chat", "x"], home, env=env, cwd=home), str(chat), ["x"])


def test_fed_to_a_shell(chat: Path, home: Path) -> None:
    """`sh < chat` cannot know where the file is, and says so."""
    for shell in ("dash", "bash", "busybox ash"):
        started = start(shell_command(shell), home, stdin=chat.read_bytes()[:4000], cwd=home)
        assert started.code == 127
        assert re.fullmatch(r"error: cannot read this program; start it as .*\n", started.errors)


# --- launchers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    ["env", "xargs -a /dev/null", "nohup", "timeout 60", "nice", "setsid -w", "stdbuf -o0",
     "find . -name chat -exec", "busybox env"],
)  # fmt: skip
def test_what_starts_programs(words: str, chat: Path, home: Path) -> None:
    command = [*shell_command(words), "./chat", "exit:0"]
    if words.startswith("find"):
        command += [";"]
    if words.startswith("busybox") and not falls_back("busybox env", home):
        pytest.skip("optional: this busybox stands on a C library that starts no scripts so")
    started = start(command, home, cwd=chat.parent)
    check_started(started, "./chat", ["exit:0"])


def falls_back(launcher: str, folder: Path) -> bool:
    script = folder / "script"
    script.write_text("exit 5\n")
    script.chmod(0o755)
    done = subprocess.run([*launcher.split(), script], check=False, capture_output=True)
    return done.returncode == 5


def test_what_needs_a_shell(chat: Path, home: Path) -> None:
    """exec without a fallback says ENOEXEC; with `sh` in front it works."""
    with pytest.raises(OSError, match="Exec format error"):
        subprocess.run([chat], check=False)
    check_started(start(["sh", chat, "x"], home), str(chat), ["x"])
    code = f"import subprocess, sys; sys.exit(subprocess.call('exec \"{chat}\" x', shell=True))"
    assert start([sys.executable, "-c", code], home).args[-1:] == ["x"]


def test_a_handler_of_its_own(chat: Path, home: Path) -> None:
    """binfmt_misc can be told to give such files to sh: then everything starts them."""
    need_binfmt()
    code = f"import os; os.execv({str(chat)!r}, ['chat', 'x'])"
    rule = r"universal:M::MZa=\x0aeval::/bin/sh:"
    started = start(binfmt(rule, sys.executable, "-c", code), home)
    check_started(started, str(chat), ["x"])


def test_a_handler_for_windows_programs(chat: Path, home: Path, tmp_path: Path) -> None:
    """As in WSL: `./chat` is Windows' then, `sh ./chat` is not."""
    need_binfmt()
    handler = tmp_path / "handler"
    handler.write_text('#!/bin/sh\necho "windows side: $*"\n')
    handler.chmod(0o755)
    rule = f"mz:M::MZ::{handler}:"
    words = binfmt(rule, "sh", "-c", "./chat; sh ./chat x")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    done = subprocess.run(words, env=environment, capture_output=True, cwd=chat.parent, check=True)
    assert done.stdout.startswith(b"windows side: ./chat\numask=")
    assert done.stdout.endswith(b"arg=x\0")


# --- where it lies ---------------------------------------------------------------------------


def test_odd_places(chat: Path, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "place" $x `y` ü 🦙'
    deep = folder / ("long " * 45) / ("and longer" * 20)
    deep.mkdir(parents=True)
    for place in (folder / "my chat.exe", deep / "chät", folder / "-chat"):
        shutil.copy(chat, place)
        check_started(start(["sh", place, "x"], home), str(place), ["x"])
        relative = f"./{place.name}"
        check_started(start(["sh", relative], home, cwd=place.parent), relative, [])
    link = tmp_path / "link"
    link.symlink_to(chat)
    check_started(start(["sh", "-c", "./link x"], home, cwd=tmp_path), "./link", ["x"])
    plain = tmp_path / "not executable"
    shutil.copyfile(chat, plain)
    plain.chmod(0o644)
    check_started(start(["sh", plain, "x"], home), str(plain), ["x"])


def test_odd_surroundings(chat: Path, home: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.write_text("echo noise; exit 9\n")
    env = {"IFS": "/ac", "CDPATH": "/:/tmp", "ENV": str(noise), "POSIXLY_CORRECT": "1",
           "t": "/etc/passwd", "d": "/etc", "u": "/etc", "n": "x"}  # fmt: skip
    for shell in ("dash", "bash", "zsh", "busybox ash"):
        started = start([*shell_command(shell), "./chat", "x"], home, env=env, cwd=chat.parent)
        check_started(started, "./chat", ["x"])


def test_nothing_to_find_dd_with(chat: Path, home: Path) -> None:
    sh = shutil.which("sh")
    assert sh
    started = start([sh, chat], home, env={"PATH": "/nowhere"})
    assert started.code == 127
    assert "it needs dd and uname" in started.errors


@pytest.mark.parametrize(
    ("system", "machine"), [("Linux", "riscv64"), ("SunOS", "x86_64"), ("Darwin", "arm64")]
)
def test_unknown_systems(system: str, machine: str, chat: Path, home: Path, tmp_path: Path) -> None:
    path = fake_uname(tmp_path / "bin", system, machine)
    started = start(["sh", chat], home, env={"PATH": path})
    shown = machine.replace("arm64", "aarch64")
    assert started.code == 126
    assert started.errors == f"error: this file holds no program for {system} on {shown}\n"


def test_names_of_machines(home: Path, tmp_path: Path) -> None:
    """Systems name the same processors differently. (All slices are this machine's, to be seen.)"""
    path = tmp_path / "chat"
    runtime = compile_probe("linux-x86_64")
    probe_file(path, dict.fromkeys(["freebsd-x86_64", "netbsd-aarch64", "macos-aarch64"], runtime))
    cases = [("FreeBSD", "amd64", "", "freebsd-x86_64"), ("NetBSD", "evbarm", "aarch64", "netbsd-aarch64"),
             ("Darwin", "arm64", "", "macos-aarch64"), ("Darwin", "x86_64", "", "macos-aarch64")]  # fmt: skip
    for system, machine, processor, target in cases:
        shutil.rmtree(tmp_path / "bin", ignore_errors=True)
        env = {"PATH": fake_uname(tmp_path / "bin", system, machine, processor)}
        sysctl = tmp_path / "bin" / "sysctl"  # as in a shell that Rosetta translates
        sysctl.write_text('#!/bin/sh\n[ "$*" = "-n hw.optional.arm64" ] && echo 1\n')
        sysctl.chmod(0o755)
        started = start(["sh", path, "x"], home, env=env)
        check_started(started, str(path), ["x"])
        assert started.cached.name.startswith(f"{target}-")


# --- the cache -------------------------------------------------------------------------------


def test_which_directory(chat: Path, home: Path, tmp_path: Path) -> None:
    own, xdg = tmp_path / "own", tmp_path / "xdg"
    for env, expected in [
        ({"LLAMAPACK_CACHE": str(own), "XDG_CACHE_HOME": str(xdg)}, own),
        ({"XDG_CACHE_HOME": str(xdg)}, xdg),
        ({"XDG_CACHE_HOME": "relative"}, home / ".cache"),
        ({"LLAMAPACK_CACHE": "relative", "HOME": str(home)}, home / ".cache"),
    ]:
        started = start(["sh", chat], home, env=env, cwd=tmp_path)
        assert (started.code, started.errors) == (0, "")
        assert started.cached.parent == expected / "llamapack"
    assert not (tmp_path / "relative").exists()


def uncached(chat: Path, tmp_path: Path, env: dict[str, str], home: Path) -> Started:
    """It starts from a private directory under TMPDIR."""
    temporary = tmp_path / "tmp dir"
    temporary.mkdir(exist_ok=True)
    started = start(["sh", chat, "x"], home, env={"TMPDIR": str(temporary), **env})
    assert (started.code, started.errors) == (0, "")
    folder = started.cached.parent
    assert folder.parent == temporary
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert re.fullmatch(r"llamapack\.[A-Za-z0-9]{8}", folder.name)
    assert started.args == ["--lp-unlink", str(started.cached), "--lp-archive", str(chat), "x"]
    shutil.rmtree(folder)
    assert os.listdir(temporary) == []
    return started


def test_no_home(chat: Path, home: Path, tmp_path: Path) -> None:
    uncached(chat, tmp_path, {"HOME": ""}, home)
    uncached(chat, tmp_path, {"HOME": "/proc/none"}, home)
    uncached(chat, tmp_path, {"HOME": "relative"}, home)


def test_the_cache_is_something_else(chat: Path, home: Path, tmp_path: Path) -> None:
    (home / ".cache").mkdir()
    (home / ".cache" / "llamapack").write_text("a file")
    uncached(chat, tmp_path, {}, home)
    (home / ".cache" / "llamapack").unlink()
    (home / ".cache" / "llamapack").symlink_to("llamapack")
    uncached(chat, tmp_path, {}, home)


def spoilt(kind: str, entry: Path) -> None:
    """Makes of a cache entry what may have become of it."""
    data = entry.read_bytes()
    if kind == "truncated":
        entry.write_bytes(data[:-1000])
    elif kind == "zeroed":
        entry.write_bytes(bytes(len(data)))
    elif kind == "one bit":
        entry.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    elif kind == "not executable":
        entry.chmod(0o600)
    elif kind == "loop":
        entry.unlink()
        entry.symlink_to(entry.name)
    elif kind == "longer":
        entry.write_bytes(data + b"x")
    elif kind == "empty":
        entry.write_bytes(b"")


KINDS = ("truncated", "zeroed", "one bit", "not executable", "loop", "longer", "empty")


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_entry_is_replaced(kind: str, chat: Path, home: Path) -> None:
    entry = start(["sh", chat], home).cached
    whole = entry.read_bytes()
    spoilt(kind, entry)
    again = start(["sh", chat], home)
    assert (again.code, again.errors, again.cached) == (0, "", entry)
    assert entry.read_bytes() == whole
    assert not entry.is_symlink()
    assert cached(home) == [entry.name]


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shell != "posh"])
def test_what_a_killed_start_left_is_removed(shell: str, chat: Path, home: Path) -> None:
    """Once it is old: what is new may be of a start that is at work. Nothing else is touched."""
    entry = start(["sh", chat], home).cached
    days = {f"{entry.name}.AbCd1234": 3, f"{entry.name}.4711": 3, f"{entry.name}.NewFile1": 0,
            f"linux-x86_64-{'0' * 16}.AbCd1234": 3, "history.json": 3}  # fmt: skip
    for turn in ("warm", "cold"):
        for name, age in days.items():
            (entry.parent / name).write_bytes(b"part of it")
            at = time.time() - age * 86400
            os.utime(entry.parent / name, (at, at))
        (entry.parent / f"{entry.name}.Direct0r").mkdir(exist_ok=True)
        os.utime(entry, (1e9, 1e9))
        if turn == "cold":
            entry.unlink()
        check_started(start([*shell_command(shell), chat, "x"], home), str(chat), ["x"])
        left = {entry.name, f"{entry.name}.NewFile1", f"{entry.name}.Direct0r", "history.json"}
        assert set(cached(home)) == left, turn


def test_a_start_killed_while_it_unpacks(chat: Path, home: Path, tmp_path: Path) -> None:
    """The next one is not disturbed by its file, and one that comes days later removes it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    chmod = tools / "chmod"  # comes after the bytes are written
    chmod.write_text("#!/bin/sh\nkill -9 $PPID\n")
    chmod.chmod(0o755)
    killed = start(["sh", chat], home, env={"PATH": f"{tools}:{os.environ['PATH']}"})
    assert killed.code == -signal.SIGKILL
    (left,) = cached(home)
    entry = start(["sh", chat], home).cached
    assert cached(home) == [entry.name, left]
    os.utime(entry.parent / left, (1e9, 1e9))
    check_started(start(["sh", chat, "x"], home), str(chat), ["x"])
    assert cached(home) == [entry.name]


def test_a_directory_in_its_place(chat: Path, home: Path, tmp_path: Path) -> None:
    entry = start(["sh", chat], home).cached
    entry.unlink()
    entry.mkdir()
    uncached(chat, tmp_path, {}, home)
    assert cached(home) == [entry.name]
    assert os.listdir(entry) == []


def test_entries_of_another_user_are_not_started(chat: Path, home: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("optional: only root can give files away")
    entry = start(["sh", chat], home).cached
    os.chown(entry, 12345, 12345)
    again = start(["sh", chat], home)
    assert again.cached == entry
    assert entry.stat().st_uid == 0  # replaced by one of ours
    os.chown(entry.parent, 12345, 12345)
    uncached(chat, tmp_path, {}, home)


def test_without_cksum(chat: Path, home: Path, tmp_path: Path) -> None:
    """As with Debian's busybox: the size must do, and the trial start."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dd", "uname", "mkdir", "mktemp", "chmod", "mv", "rm", "rmdir", "wc"):
        (tools / name).symlink_to(str(shutil.which(name)))
    sh = shutil.which("dash") or "/bin/sh"
    for kind in ("", "truncated", "zeroed", "empty"):
        if kind:
            spoilt(kind, home / ".cache" / "llamapack" / cached(home)[0])
        started = start([sh, chat, "x"], home, env={"PATH": str(tools)})
        check_started(started, str(chat), ["x"])
        assert start([sh, chat], home, env={"PATH": str(tools)}).cached == started.cached
    # Nor mktemp: the process number makes the name.
    (tools / "mktemp").unlink()
    shutil.rmtree(home / ".cache")
    check_started(start([sh, chat, "x"], home, env={"PATH": str(tools)}), str(chat), ["x"])
    assert len(cached(home)) == 1


def test_file_systems_without_programs(chat: Path, home: Path, tmp_path: Path) -> None:
    """A cache on a noexec mount is passed over, also one that was filled before."""
    need_namespaces()
    assert start(["sh", chat], home).code == 0
    words = ["unshare", "-Urm", "sh", "-c"]
    remount = f"mount --bind '{home}' '{home}' && mount -o remount,bind,%s '{home}' && "
    run = 'exec sh "$0" x'
    for mode in ("noexec", "ro"):
        if mode == "ro":
            shutil.rmtree(home / ".cache")
        temporary = tmp_path / f"tmp {mode}"
        temporary.mkdir()
        env = {"TMPDIR": str(temporary)}
        started = start([*words, remount % mode + run, chat], home, env=env)
        assert (started.code, started.errors) == (0, "")
        assert started.cached.parent.parent == temporary


def test_nowhere_to_start_from(chat: Path, home: Path) -> None:
    need_namespaces()
    script = (
        'mount -t tmpfs -o noexec none /mnt && cp "$0" /mnt/chat && mkdir /mnt/home && '
        "for d in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o noexec none $d || exit 99; done; "
        "HOME=/mnt/home; export HOME; sh /mnt/chat; code=$?; "
        "find /mnt/home /tmp /var/tmp /dev/shm -type f >&2; exit $code"
    )
    started = start(["unshare", "-Urm", "sh", "-c", script, chat], home)
    assert started.code == 126
    assert re.fullmatch("error: no directory to unpack the program into; .*\n", started.errors)


# --- processes -------------------------------------------------------------------------------


def test_the_process_stays_the_same(chat: Path, home: Path) -> None:
    """The runtime is the process that was started: its number, and signals reach it."""
    for _ in ("cold", "warm"):
        with subprocess.Popen(
            ["sh", chat, "wait"],
            env={"PATH": os.environ["PATH"], "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            text = b""
            while b"arg=wait\0" not in text:
                text += os.read(process.stdout.fileno(), 4096)
            assert f"pid={process.pid}\0".encode() in text
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == -signal.SIGTERM


@pytest.mark.parametrize("shell", ["dash", "busybox ash"])
@pytest.mark.parametrize("alone", [False, True], ids=["", "own pid namespaces"])
def test_many_first_starts_at_once(shell: str, alone: bool, chat: Path, home: Path) -> None:
    """Twelve at a time, fifteen times: none fails, one file is left. In pid namespaces all are
    process number 1, so that number makes no name unique."""
    prefix = ["unshare", "-Urpf"] if alone else []
    if alone and subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("optional: no right to make pid namespaces")
    words = [*prefix, *shell_command(shell), chat, "exit:5"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    for _ in range(15):
        shutil.rmtree(home / ".cache", ignore_errors=True)
        running = [
            subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for _ in range(12)
        ]
        ends = [(process.communicate(timeout=120)[1], process.returncode) for process in running]
        assert ends == [(b"", 5)] * 12
        assert len(cached(home)) == 1


# --- the real runtimes -----------------------------------------------------------------------


def run(words: Sequence[str | Path], home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), **env}
    code, out, errors = collect(words, environment, timeout=300)
    return subprocess.CompletedProcess(words, code, out, errors)


def test_the_program_is_named_as_the_file(made: Path, home: Path) -> None:
    done = run(["sh", made, "--help"], home)
    assert done.stdout.startswith("Usage: chat.exe [options]")
    assert "--lp-" not in done.stdout
    done = run(["sh", made, "verify"], home)
    assert done.stdout + done.stderr == f"ok: every byte of {made} is as it was built\n"
    assert "target            universal\n" in run(["sh", made, "info"], home).stdout
    assert "musl" in run(["sh", made, "licenses"], home).stdout
    done = run(["sh", made, "--frobnicate"], home)
    assert done.returncode == 2
    assert re.fullmatch("error: unknown option --frobnicate .*\n", done.stderr)


def test_ps_shows_the_name(made: Path, home: Path) -> None:
    with Server(
        made, runner=("sh",), env={"PATH": os.environ["PATH"], "HOME": str(home)}
    ) as server:
        assert Path(f"/proc/{server.process.pid}/comm").read_text() == "chat.exe\n"


def test_nothing_is_left_without_a_cache(made: Path, home: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = run(
        ["sh", made, "-p", "hello", "-n", "4"], home, HOME="/proc/none", TMPDIR=str(temporary)
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert os.listdir(temporary) == []


def slice_of(made: Path, home: Path) -> Path:
    assert run(["sh", made, "--version"], home).returncode == 0
    return home / ".cache" / "llamapack" / cached(home)[0]


def test_the_script_s_words_give_nobody_anything(made: Path, home: Path, tmp_path: Path) -> None:
    """--lp-unlink removes the program itself from a directory of the script's and nothing else; all
    such words count first and in a bare runtime only."""
    piece = slice_of(made, home)
    precious = tmp_path / "llamapack.precious"
    precious.mkdir()
    other = precious / "file"
    other.write_text("keep")
    linked = precious / "link"
    linked.symlink_to(piece)
    for path in (other, linked, piece, tmp_path / "none"):
        done = run([piece, "--lp-unlink", path, "--lp-archive", made, "--version"], home)
        assert (done.returncode, done.stderr) == (0, "")
    assert other.read_text() == "keep"
    assert linked.is_symlink()
    assert piece.exists()
    # Its own file, but together with something else: the directory stays.
    copy = precious / "piece"
    shutil.copy(piece, copy)
    assert run([copy, "--lp-unlink", copy, "--lp-archive", made, "--version"], home).returncode == 0
    assert sorted(os.listdir(precious)) == ["file", "link"]
    for words in (
        [piece, "--lp-unlink", piece],
        [piece, "--lp-archive"],
        [piece, "info", "--lp-archive", made],
        [piece, "--lp-probe", "info"],
        [piece, "--lp-archive", made, "--lp-archive", made],
    ):
        done = run(words, home)
        assert done.returncode == 2
        assert re.fullmatch("error: unknown option --lp-.*\n", done.stderr), words
    done = run([piece, "--lp-archive", tmp_path / "none", "info"], home)
    assert done.stderr == f"error: {tmp_path}/none: No such file or directory\n"
    done = run([piece, "--lp-archive", other, "info"], home)
    assert "no archive at the end" in done.stderr


def test_a_file_with_a_payload_knows_no_such_words(made: Path, home: Path, tmp_path: Path) -> None:
    model = made.parent / "tiny.gguf"
    native = build.build(plan.make_plan(str(model), tmp_path / "llamapack.x", ["linux-x86_64"]))[0]
    for words in (["--lp-archive", made], ["--lp-unlink", native.path, "--lp-archive", made]):
        done = run([native.path, *words, "info"], home)
        assert done.returncode == 2
        assert re.fullmatch("error: unknown option --lp-.*\n", done.stderr)
    assert native.path.exists()
    assert run([native.path, "--lp-probe"], home).returncode == 0


def test_a_second_start_finds_the_first(made: Path, home: Path) -> None:
    """Whatever name leads to the file: the running one is known by its place."""
    link = made.parent / "other name"
    if not link.is_symlink():
        link.symlink_to(made)
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    words = ["--no-browser", "-c", "256"]
    with subprocess.Popen(
        ["sh", made, *words], env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as first:
        assert first.stderr is not None
        line = first.stderr.readline().decode()
        assert "ready at http://127.0.0.1:" in line
        done = run(["sh", link, *words], home)
        first.terminate()
    assert (done.returncode, done.stderr) == (0, f"already running at {line.split()[-1]}\n")


# --- other systems ---------------------------------------------------------------------------


@pytest.mark.qemu
def test_arm64(chat: Path, home: Path, tmp_path: Path, tool: Callable[[str], str]) -> None:
    """With a kernel that runs ARM64 programs, by qemu; without one the trial start fails."""
    env = {"PATH": fake_uname(tmp_path / "bin", "Linux", "arm64")}
    failed = start(["sh", chat, "x"], home, env=env, cwd=tmp_path)
    assert failed.code == 126
    assert cached(home) == []
    need_binfmt()
    rule = f"arm64:M::{AARCH64}:{tool('qemu')}:F"
    for shell in ("dash", "bash", "busybox ash", "yash"):
        words = binfmt(rule, *shell_command(shell), chat, "x")
        started = start(words, home, env=env)
        check_started(started, str(chat), ["x"])
        assert started.cached.name.startswith("linux-aarch64-")


@pytest.fixture(scope="module")
def real(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("real")
    yield build.build(plan.make_plan(str(smollm2), folder / "chat", ["universal"]))[0].path
    shutil.rmtree(folder)


ASK = ["--raw", "-p", "The capital of France is", "--temp", "0", "-n", "2"]  # qemu is slow


def ways(
    tool: Callable[[str], str], system: str, folder: Path
) -> tuple[list[str | Path], dict[str, str]]:
    """What stands before the file, and the environment, to start it as another system."""
    home = folder / "home"
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "LLAMAPACK_CACHE": str(folder / "cache")}
    if system == "windows":
        env |= {"WINEDEBUG": "-all", "HOME": os.environ["HOME"]}
        env["WINEPREFIX"] = os.environ.get("WINEPREFIX") or str(toolchain.cache_dir() / "wine")
        return [tool("wine")], env
    if system == "arm64":
        need_binfmt()
        env |= {"PATH": fake_uname(folder / "bin", "Linux", "aarch64"), "QEMU_CPU": "max"}
        return binfmt(f"arm64:M::{AARCH64}:{tool('qemu')}:F", "sh"), env
    return ["sh"], env


SYSTEMS = [
    "linux",
    pytest.param("arm64", marks=pytest.mark.qemu),
    pytest.param("windows", marks=pytest.mark.wine),
]


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_answers_as_the_native_file(
    system: str, real: Path, packed_smollm2: Path, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    native = run([packed_smollm2, *ASK], tmp_path)
    prefix, env = ways(tool, system, tmp_path)
    done = run([*prefix, real, *ASK], tmp_path, **env)
    assert (done.returncode, done.stdout) == (0, native.stdout), done.stderr
    assert "Paris" in done.stdout


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_serves_the_page(
    system: str, made: Path, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    prefix, env = ways(tool, system, tmp_path)
    runner = tuple(str(word) for word in prefix)
    with Server(made, "-c", "256", runner=runner, env=env) as server:
        assert b"<html" in server.get("/").body
        assert server.get("/health").json()["status"] == "ok"
        assert server.post("/api/quit", {}).status == 200
        server.process.wait(timeout=30)


def test_a_warm_start_unpacks_nothing(made: Path, home: Path) -> None:
    piece = slice_of(made, home)
    before = piece.stat()
    time.sleep(0.01)
    assert run(["sh", made, "--version"], home).returncode == 0
    after = piece.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
