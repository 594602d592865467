"""runtime_c/platform on this machine, on ARM64 (qemu) and on Windows (wine), by a small program.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llamapack import toolchain
from llamapack.targets import find_target, host_target

HERE = Path(__file__).resolve().parent
OK, ARGUMENT, LIMIT, IO = 0, 1, 4, 6  # lp_code

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="drives ptys and /proc of Linux")


def compile_probe(target_name: str) -> bytes:
    """The probe with the platform layer and what that stands on, for one target."""
    target = find_target(target_name)
    tree = toolchain.find_tree()
    needed = ("status.c", "memory.c", "text.c", "utf8.c")
    sources = [
        source
        for source in toolchain.sources_for(tree, target.arch, windows=target.windows)
        if source.name.startswith("runtime_c/platform/")
        or source.name in {f"runtime_c/base/{name}" for name in needed}
    ]
    sources.append(toolchain.Source(HERE / "platform_probe.c", "tests/platform_probe.c", ("-O1",)))
    flags = toolchain.runtime_flags(target)
    objects = toolchain.compile_all(tree, sources, flags, strict=True)
    link = ("-target", target.triple, *(() if target.windows else ("-fPIE",)), *target.link_flags)
    return toolchain.link(objects, link, f"probe{target.suffix}")


def make_probe(folder: Path, target_name: str) -> Path:
    path = folder / f"prüf probe{find_target(target_name).suffix}"
    path.write_bytes(compile_probe(target_name))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_probe(tmp_path_factory.mktemp("probe"), host_target().name)


def lines_of(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def run(*command: str | Path, **options: Any) -> dict[str, list[str]]:
    process = subprocess.run(
        [str(part) for part in command], capture_output=True, timeout=300, check=False, **options
    )
    assert process.returncode == 0, process.stderr.decode()
    return lines_of(process.stdout.decode())


def check_facts(facts: dict[str, list[str]], arguments: list[str]) -> None:
    """What `probe facts` must say on every system."""
    one = {key: values[0] for key, values in facts.items()}
    assert facts["argument"] == arguments
    expected = {
        "counted": "40000", "waited": "1", "slept": "1", "seeds": "1", "random": "1",
        "reserved": "1", "zeroed": "1", "kept": "1",
        "written": "0", "rewritten": "0", "read": "0", "text": "second text", "over": str(LIMIT),
        "mapped": "0", "same": "1", "absent": str(IO), "directory": str(IO),
        "directory-text": one["directory-text"], "not-written": str(IO),
        "started": "0", "listening": "0", "own-closed": "0", "again": str(IO), "busy": "1", "name": str(ARGUMENT),
        "none-waiting": "1", "ready": "1", "timeout": "0", "would-block": "0", "rung": "0",
        "rung-soon": "1", "rung-often": "0", "silent": "0", "sent": "5", "arrived": "1",
        "received": "5", "hang-up": "1", "end": "-1", "refused": "1",
        "terminal": "0", "raw": "0", "columns": "80", "output": "1",
        "direct": "grüße",
    }  # fmt: skip
    assert {key: one.get(key) for key in expected} == expected
    assert abs(int(one["unix"]) - time.time()) < 60
    assert abs(int(one["local"])) <= 14 * 3600
    assert int(one["cpus"]) >= 1
    assert 0 < int(one["available"]) <= int(one["total"])
    # 64 GiB reserved, 8 MiB and a page touched: what counts is what was touched.
    assert 8 << 20 <= int(one["peak"]) < 1 << 30
    assert "is a directory" in one["directory-text"].lower()
    assert "in use" in one["busy-text"]
    assert one["absent-text"].startswith("absentö: ")
    assert one["own"].replace("\\", "/").rsplit("/", 1)[1].startswith("prüf probe")


ARGUMENTS = ["plain", "two words", "Grüße 🦙", "", 'quo"te', "back\\slash\\", "*"]


def test_facts_of_this_machine(probe: Path, tmp_path: Path) -> None:
    facts = run(probe, "facts", *ARGUMENTS, cwd=tmp_path, env={"PATH": "/usr/bin", "TZ": "UTC"})
    check_facts(facts, ARGUMENTS)
    assert (facts["own-listeners"], facts["own-port"]) == (["1"], ["1"])
    assert facts["local"] == ["0"]
    assert facts["own"] == [str(probe)]
    written = tmp_path / "pröbe.txt"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["pröbe.txt"]  # no temporary file is left
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(meminfo["MemTotal"].split()[0]) * 1024
    assert int(facts["total"][0]) <= total


def test_local_time(probe: Path, tmp_path: Path) -> None:
    facts = run(probe, "facts", "a", cwd=tmp_path, env={"TZ": "XXX-05:30"})
    assert facts["local"] == [str(5 * 3600 + 1800)]


@pytest.mark.qemu
def test_facts_of_arm64(tool: Callable[[str], str], tmp_path: Path) -> None:
    program = make_probe(tmp_path, "linux-aarch64")
    facts = run(tool("qemu"), program, "facts", *ARGUMENTS, cwd=tmp_path)
    check_facts(facts, ARGUMENTS)
    assert (facts["own-listeners"], facts["own-port"]) == (["1"], ["1"])


@pytest.mark.wine
def test_facts_of_windows(tool: Callable[[str], str], tmp_path: Path) -> None:
    program = make_probe(tmp_path, "windows-x86_64")
    wine = tool("wine")
    environment = {**os.environ, "WINEDEBUG": "-all", "LC_ALL": "C.UTF-8"}
    facts = run(wine, program, "facts", *ARGUMENTS, cwd=tmp_path, env=environment)
    check_facts(facts, ARGUMENTS)


# --- processors and memory -------------------------------------------------------------------


def cores_of(cpus: set[int]) -> set[str]:
    """The sibling lists of these processors: one per core."""
    folder = Path("/sys/devices/system/cpu")
    found = set()
    for cpu in cpus:
        with contextlib.suppress(OSError):
            found.add((folder / f"cpu{cpu}/topology/thread_siblings_list").read_text())
    return found or {str(cpu) for cpu in cpus}


def test_processors_follow_the_affinity_mask(probe: Path) -> None:
    mine = os.sched_getaffinity(0)
    assert 1 <= int(run(probe, "cpus")["cpus"][0]) <= len(cores_of(mine))
    one = {min(mine)}
    facts = run(probe, "cpus", preexec_fn=lambda: os.sched_setaffinity(0, one))
    assert facts["cpus"] == ["1"]


def in_group(probe: Path, folder: Path, group: str, files: dict[str, str]) -> dict[str, list[str]]:
    """Runs the probe where /proc/self/cgroup and /sys/fs/cgroup hold these texts."""
    (folder / "group").write_text(group)
    tree = folder / "tree"
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    script = (
        'mount --rbind "$1/tree" /sys/fs/cgroup && mount --bind "$1/group" /proc/$$/cgroup '
        '&& exec "$2" cpus'
    )
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", str(folder), str(probe)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if process.returncode != 0:
        pytest.skip(f"no private mounts here: {process.stderr.strip()}")
    return lines_of(process.stdout)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("group", "files", "cpus", "left"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n", "memory.max": "max\n",
                    "memory.current": "5\n"}, 1, None),
        ("0::/a/b\n", {"cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n",
                       "a/b/cpu.max": "max 100000\n"}, 1, None),
        ("0::/outside\n", {"memory.max": f"{GIB}\n", "memory.current": f"{GIB // 4}\n"}, None,
         GIB * 3 // 4),
        ("0::/a\n", {"a/memory.max": f"{GIB}\n", "a/memory.current": f"{GIB}\n",
                     "a/memory.stat": f"anon 1\ninactive_file {GIB // 2}\n"}, None, GIB // 2),
        ("0::/\n", {"memory.max": "1000\n", "memory.current": "5000\n"}, None, 0),
        ("3:cpu,cpuacct:/x\n2:memory:/y\n",
         {"cpu,cpuacct/x/cpu.cfs_quota_us": "100000\n",
          "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
          "memory/y/memory.limit_in_bytes": f"{GIB}\n",
          "memory/y/memory.usage_in_bytes": "0\n"}, 1, GIB),
        ("3:cpu,cpuacct:/\n2:memory:/\n",
         {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
          "memory/memory.limit_in_bytes": "9223372036854771712\n",
          "memory/memory.usage_in_bytes": "0\n"}, None, None),
    ],
)  # fmt: skip
def test_limits_of_control_groups(
    probe: Path, tmp_path: Path, group: str, files: dict[str, str], cpus: int | None,
    left: int | None,
) -> None:  # fmt: skip
    free = run(probe, "cpus")
    facts = in_group(probe, tmp_path, group, files)
    assert facts["cpus"] == ([str(cpus)] if cpus else free["cpus"])
    assert facts["limit"] == ([str(cpus)] if cpus else free["limit"])
    if left is not None:
        assert facts["available"] == [str(left)]
    else:
        assert int(facts["available"][0]) > 2 * GIB or int(facts["total"][0]) < 4 * GIB


Cpus = list[int]
ONE_CORE: Callable[[Cpus], dict[str, str]] = lambda cpus: {  # noqa: E731
    f"system/cpu/cpu{cpu}/topology/thread_siblings_list": ",".join(map(str, cpus)) for cpu in cpus
}


def figures(name: str, first: int, others: int) -> Callable[[Cpus], dict[str, str]]:
    """A file per processor, with a figure for the first one and another for the rest."""
    return lambda cpus: {
        f"system/cpu/cpu{cpu}/{name}": str(first if cpu == cpus[0] else others) for cpu in cpus
    }


@pytest.mark.parametrize(
    ("files", "one"),
    [
        (lambda cpus: {}, False),
        (ONE_CORE, True),
        # Intel: the kernel lists the performance cores. A list without any of ours says nothing.
        (lambda cpus: {"cpu_core/cpus": f"{cpus[0]}\n", "cpu_atom/cpus": "1-63\n"}, True),
        (lambda cpus: {"cpu_core/cpus": "4000-4001\n"}, False),
        # ARM: of 1024; middle cores count, little ones do not.
        (figures("cpu_capacity", 1024, 446), True),
        (figures("cpu_capacity", 1024, 800), False),
        (lambda cpus: {f"system/cpu/cpu{cpus[0]}/cpu_capacity": "1024"}, False),
        # Others: boost clocks in kHz. Equal cores differ a little, efficiency cores a lot.
        (figures("cpufreq/cpuinfo_max_freq", 5_700_000, 5_400_000), False),
        (figures("cpufreq/cpuinfo_max_freq", 5_100_000, 3_800_000), True),
    ],
)  # fmt: skip
def test_performance_cores_of_hybrid_processors(
    probe: Path, tmp_path: Path, files: Callable[[Cpus], dict[str, str]], one: bool
) -> None:
    """What the kernel says of processors, bound over /sys/devices."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("optional: needs two processors")
    (tmp_path / "devices").mkdir()
    for name, text in files(cpus).items():
        path = tmp_path / "devices" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    script = 'mount --rbind "$1" /sys/devices && exec "$2" cpus'
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", tmp_path / "devices", probe]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if process.returncode != 0:
        pytest.skip(f"no private mounts here: {process.stderr.strip()}")
    facts = lines_of(process.stdout)
    assert facts["cpus"] == ["1" if one else str(len(cpus))]
    assert facts["limit"] == [str(len(cpus))]


@pytest.mark.wine
def test_owners_and_performance_cores_of_windows(
    tool: Callable[[str], str], tmp_path: Path
) -> None:
    """Made-up machines: cores as GROUP:MASK:CLASS; ours is group 0, all but processor 1."""
    target, tree = find_target("windows-x86_64"), toolchain.find_tree()
    needed = {f"base/{name}.c" for name in ("status", "memory", "text", "utf8")}
    needed |= {f"platform/{name}_windows.c" for name in ("net", "thread", "wide")}
    sources = [
        source
        for source in toolchain.sources_for(tree, target.arch, windows=True)
        if source.name.removeprefix("runtime_c/") in needed
    ]
    name = "windows_probe.c"
    sources.append(toolchain.Source(HERE / name, f"tests/{name}", ("-O1",)))
    flags = toolchain.runtime_flags(target)
    objects = toolchain.compile_all(tree, sources, flags, strict=True)
    program = tmp_path / "probe.exe"
    link = ("-target", target.triple, *target.link_flags)
    program.write_bytes(toolchain.link(objects, link, program.name))
    machines = {
        "0:3:0,0:c:0": 2,  # two cores with two hardware threads each
        "0:3:1,0:c:1,0:10:0,0:20:0,0:40:0,0:80:0": 2,  # two fast cores, four slow ones
        "0:10:0,0:20:0,0:1:1": 1,  # the slow ones listed first
        "0:4:0,0:8:1,0:10:2": 1,  # three classes
        "0:2:1,0:4:0,0:8:0": 2,  # the only fast one is not ours
        "1:f:1,0:1:0,0:4:0": 2,  # nor is the other group
        "0:2:0": 0,  # none is: the caller then takes the number of processors
    }
    environment = {**os.environ, "WINEDEBUG": "-all"}
    environment.setdefault("WINEPREFIX", str(toolchain.cache_dir() / "wine"))
    facts = run(tool("wine"), program, "0", "fffffffd", *machines, env=environment)
    assert facts["cores"] == [str(n) for n in machines.values()]
    assert (facts["listed"], facts["own"], facts["nobody"]) == (["1"], ["1"], ["0"])


# --- files -----------------------------------------------------------------------------------


def test_a_file_cut_while_mapped_ends_the_program_with_one_line(
    probe: Path, tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"\1" * 100_000)
    with subprocess.Popen(
        [probe, "guard", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready 100000\n"
        os.truncate(path, 0)
        out, error = process.communicate(b"\n", timeout=20)
    assert process.returncode == 70
    assert out == b""
    assert error.startswith(b"error: " + str(path).encode())
    assert error.count(b"\n") == 1


def test_another_bus_error_is_a_crash(probe: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"\1" * 1000)
    with subprocess.Popen(
        [probe, "guard", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGBUS)
        process.wait(timeout=20)
    assert process.returncode == -signal.SIGBUS


def test_own_path_through_a_link_and_after_removal(probe: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(probe)
    assert run(link, "facts", "a", cwd=tmp_path)["own"] == [str(probe)]
    copy = tmp_path / "copy"
    copy.write_bytes(probe.read_bytes())
    copy.chmod(0o755)
    script = 'rm "$0"'
    handle = os.open(copy, os.O_RDONLY)
    try:
        copy.unlink()
        facts = run(f"/proc/self/fd/{handle}", "facts", script, cwd=tmp_path, pass_fds=[handle])
    finally:
        os.close(handle)
    assert facts["own"] == ["/proc/self/exe"]


@pytest.mark.parametrize(("size", "code"), [(0, OK), (99_999, OK), (100_000, OK), (100_001, LIMIT)])
def test_standard_input(probe: Path, size: int, code: int) -> None:
    facts = run(probe, "stdin", input=b"x" * size)
    assert facts["code"] == [str(code)]
    if code == OK:
        assert facts["bytes"] == [str(size)]


def test_standard_input_that_comes_slowly(probe: Path) -> None:
    with subprocess.Popen(
        [probe, "stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        for _ in range(5):
            process.stdin.write(b"abc")
            time.sleep(0.02)
        out, _ = process.communicate(timeout=20)
    assert lines_of(out.decode())["bytes"] == ["15"]


def test_output_to_a_closed_pipe(probe: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [probe, "write"], stdout=writer, stderr=subprocess.PIPE, timeout=20, check=False
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, b"done 0\n")


def test_output_to_a_pipe_that_does_not_block(probe: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)  # 5000 bytes will not fit
    with subprocess.Popen([probe, "write"], stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        time.sleep(0.1)
        with os.fdopen(reader, "rb") as source:
            assert source.read() == b"text\n" * 1000
        assert process.wait(timeout=20) == 0


# --- signals, directories, browser -----------------------------------------------------------


def start(*command: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stdin=subprocess.PIPE, **options
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"ready")
    return process


@pytest.mark.parametrize(
    ("number", "stopped"),
    [(signal.SIGINT, b"stopped 1\n"), (signal.SIGTERM, b"stopped 2\n"),
     (signal.SIGHUP, b"stopped 2\n")],
)  # fmt: skip
def test_signals_interrupt_a_wait(probe: Path, number: signal.Signals, stopped: bytes) -> None:
    heed = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731 (also under nohup)
    with start(probe, "signals", preexec_fn=heed) as process:
        before = time.monotonic()
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert out == stopped
    assert time.monotonic() - before < 5


def test_an_ignored_hang_up_stays_ignored(probe: Path) -> None:
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    with start(probe, "signals", preexec_fn=ignore) as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[0] == b"stopped 2\n"


def test_state_directory(probe: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    expected = home / ".local/state/llamapack"
    for environment in ({"HOME": str(home)}, {"HOME": str(home), "XDG_STATE_HOME": "relative"}):
        facts = run(probe, "state", env=environment, cwd=tmp_path)
        assert facts == {"code": ["0"], "path": [str(expected)]}
    assert stat.S_IMODE(expected.stat().st_mode) == 0o700
    other = {"HOME": str(home), "XDG_STATE_HOME": str(tmp_path / "state")}
    assert run(probe, "state", env=other)["path"] == [str(tmp_path / "state/llamapack")]
    assert run(probe, "state", env={})["code"] == [str(IO)]
    (tmp_path / "file").write_text("")
    facts = run(probe, "state", env={"HOME": str(tmp_path / "file")})
    assert facts["code"] == [str(IO)]


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def wait_for(path: Path) -> str:
    end = time.monotonic() + 10
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return path.read_text()


def left_over(program: Path) -> list[str]:
    """Processes that still run the program, after at most some seconds."""
    for _ in range(100):
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(folder / "exe") == str(program):
                    found.append(folder.name)
        if not found:
            break
        time.sleep(0.05)
    return found


URL = "http://127.0.0.1:8080/#key=abc&x='$(id)'"


def test_browser_gets_the_url(probe: Path, tmp_path: Path) -> None:
    out = tmp_path / "url"
    note = f'printf "%s|" "$#" "$@" > "{out}.new"; mv "{out}.new" "{out}"; sleep 1'
    program = script(tmp_path / "browser", note)
    fails = script(tmp_path / "fails", "exit 3")
    before = time.monotonic()
    for browser, expected in [
        (program, f"1|{URL}|"),
        (f"/absent:{program}", f"1|{URL}|"),
        (f"{fails}:{program}", f"1|{URL}|"),
        (f"{program} --new %s end", f"3|--new|{URL}|end|"),
    ]:
        facts = run(probe, "browser", URL, env={"PATH": "/usr/bin:/bin", "BROWSER": browser})
        assert facts == {"opened": ["1"], "twice": ["0"]}
        assert wait_for(out) == expected
        out.unlink()
    # run() returned while each browser still slept: it does not hold our output.
    assert time.monotonic() - before < 4
    assert left_over(probe) == []


def test_browser_of_the_desktop(probe: Path, tmp_path: Path) -> None:
    out = tmp_path / "url"
    script(tmp_path / "xdg-open", f'echo "$1" > "{out}.new"; mv "{out}.new" "{out}"')
    path = f"{tmp_path}:/usr/bin:/bin"
    assert run(probe, "browser", URL, env={"PATH": path})["opened"] == ["0"]  # no display
    for display in ("DISPLAY", "WAYLAND_DISPLAY"):
        assert run(probe, "browser", URL, env={"PATH": path, display: ":0"})["opened"] == ["1"]
        assert wait_for(out) == URL + "\n"
        out.unlink()
    assert run(probe, "browser", URL, env={"PATH": "/absent", "DISPLAY": ":0"})["opened"] == ["0"]


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://a b", "http://a\nb", "-x", "http://ä"]
)
def test_browser_opens_nothing_else(probe: Path, tmp_path: Path, url: str) -> None:
    program = script(tmp_path / "browser", f'touch "{tmp_path}/ran"')
    assert run(probe, "browser", url, env={"PATH": "/bin", "BROWSER": program})["opened"] == ["0"]
    assert left_over(probe) == []
    assert not (tmp_path / "ran").exists()


def test_browser_helper_ends_with_us(probe: Path, tmp_path: Path) -> None:
    program = script(tmp_path / "browser", "true")
    run(probe, "browser", env={"PATH": "/bin", "BROWSER": program})
    assert left_over(probe) == []


# --- confinement -----------------------------------------------------------------------------


def test_confined(probe: Path, tmp_path: Path) -> None:
    """What must still work works, and the rest is refused as far as the kernel can."""
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "TZ": "XXX-02"}
    free = run(probe, "cpus")
    with (
        socket.create_server(("127.0.0.1", 0)) as outside,
        subprocess.Popen(
            [probe, "confine", str(outside.getsockname()[1])], stdout=subprocess.PIPE, text=True,
            cwd=tmp_path, env=environment,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line.startswith("port "):
                with socket.create_connection(("127.0.0.1", int(line[5:])), timeout=10) as client:
                    assert client.recv(100) == b"hello"
        assert process.wait(timeout=20) == 0
    facts = {key: values[0] for key, values in lines_of(text).items()}
    works = {"state-written": "0", "state-read": "0", "random": "1", "cpus": free["cpus"][0],
             "local": "7200", "thread": "0", "polled": "1", "accepted": "1"}  # fmt: skip
    assert {key: facts[key] for key in works} == works
    assert int(facts["available"]) > 0
    if facts["confined"] == "none":
        pytest.skip("this kernel has no Landlock")
    refused = {"read": str(IO), "write": str(IO), "shell": "0"}
    if "connections" in facts["confined"]:
        refused |= {"connect": "0", "listen": str(IO)}
    assert {key: facts[key] for key in refused} == refused
    assert sorted(os.listdir(tmp_path)) == [".local"]


# --- the terminal ----------------------------------------------------------------------------


class Terminal:
    """A pty with the probe in it."""

    def __init__(self, probe: Path, *command: str, term: str = "xterm") -> None:
        self.master, slave = pty.openpty()
        self.resize(100, slave)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [probe, *command], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={"TERM": term},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self.text = b""

    def resize(self, columns: int, fd: int | None = None) -> None:
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self.slave if fd is None else fd, termios.TIOCSWINSZ, size)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def until(self, text: bytes) -> None:
        end = time.monotonic() + 10
        while text not in self.text and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += os.read(self.master, 4096)
        assert text in self.text, self.text

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(probe: Path) -> Iterator[Terminal]:
    opened = Terminal(probe, "raw")
    opened.until(b"ready")
    yield opened
    opened.close()


def test_raw_mode_and_back(terminal: Terminal) -> None:
    assert b"raw 1\r\n" in terminal.text
    assert b"ready 100" in terminal.text
    local = terminal.mode()[3]
    assert not local & (termios.ECHO | termios.ICANON | termios.ISIG)
    for data, expected in [(b"\x03", b"byte 3\r\n"), (b"\x1a", b"byte 26\r\n"), (b"\r", b"byte 13"),
                           ("ü".encode(), b"byte 195\r\nbyte 188\r\n"),
                           (b"\x1b[A", b"byte 27\r\nbyte 91\r\nbyte 65\r\n")]:  # fmt: skip
        terminal.type(data)
        terminal.until(expected)
    terminal.type(b"q")
    terminal.until(b"stopped 0")
    assert terminal.process.wait(timeout=20) == 0
    assert terminal.mode() == terminal.before


def test_a_new_size_ends_the_wait(terminal: Terminal) -> None:
    terminal.resize(66)
    terminal.until(b"woken 66")


def test_a_signal_leaves_a_sane_terminal(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGTERM)
    terminal.until(b"stopped 2")
    assert terminal.process.wait(timeout=20) == 0
    assert terminal.mode() == terminal.before


def test_continuing_enters_raw_mode_again(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGSTOP)
    termios.tcsetattr(terminal.slave, termios.TCSANOW, terminal.before)  # as a shell does
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until(b"woken")
    assert not terminal.mode()[3] & (termios.ECHO | termios.ICANON)


def test_the_end_of_a_terminal_is_the_end_of_input(probe: Path) -> None:
    opened = Terminal(probe, "raw")
    opened.until(b"ready")
    os.close(opened.slave)
    os.close(opened.master)
    assert opened.process.wait(timeout=20) == 0


def test_dumb_terminals_have_no_raw_mode(probe: Path) -> None:
    opened = Terminal(probe, "raw", term="dumb")
    try:
        opened.until(b"raw 0")
    finally:
        opened.close()


# --- sockets ---------------------------------------------------------------------------------


@contextlib.contextmanager
def echoing(probe: Path, port: int = 0, **options: Any) -> Iterator[tuple[Any, int]]:
    with subprocess.Popen([probe, "echo", str(port)], stdout=subprocess.PIPE, **options) as process:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        try:
            assert line[0] == b"port", line
            yield process, int(line[1])
        finally:
            process.kill()


def exchange(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        received = b""
        while len(received) < len(data):
            part = client.recv(65536)
            if not part:
                break
            received += part
        return received


def test_many_clients(probe: Path) -> None:
    with echoing(probe) as (process, port):
        clients = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(40)]
        for i, client in enumerate(clients):
            client.sendall(b"client %d" % i)
        for i, client in enumerate(clients):
            assert client.recv(100) == b"client %d" % i
        for client in clients[::2]:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for client in clients:
            client.close()
        assert exchange(port, b"x" * 3000) == b"x" * 3000
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"quit")
            rounds = int(process.communicate(timeout=20)[0].split()[1])
    assert rounds < 500


def test_nobody_shares_the_port_and_a_restart_works(probe: Path) -> None:
    with echoing(probe) as (_, port):
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
        second = subprocess.run(
            [probe, "echo", str(port)], capture_output=True, timeout=20, check=False
        )
        assert second.returncode == 1
        assert b"is in use by another program" in second.stdout
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        client.sendall(b"x")
        assert client.recv(10) == b"x"
    # The server went first: its side of the connection stays in the kernel for a while.
    with echoing(probe, port) as (_, again):
        assert again == port
    client.close()


def test_listens_on_loopback_only(probe: Path) -> None:
    with echoing(probe) as (_, port), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lookup:
        lookup.connect(("192.0.2.1", 9)) if has_route() else pytest.skip("no other interface")
        address = lookup.getsockname()[0]
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, port), timeout=10)


def has_route() -> bool:
    return len(Path("/proc/net/route").read_text().splitlines()) > 1


def test_out_of_descriptors_is_no_busy_loop(probe: Path) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))  # noqa: E731
    with echoing(probe, preexec_fn=limit) as (process, port):
        clients = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
        time.sleep(0.5)
        served = refused = 0
        for client in clients:
            try:
                client.sendall(b"hello")
                served += client.recv(10) == b"hello"
            except OSError:
                pass
        refused = 20 - served
        assert 2 <= served <= 10
        assert refused >= 10
        for client in clients:
            client.close()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"quit")
            rounds = int(process.communicate(timeout=20)[0].split()[1])
    assert rounds < 500
