"""The packed executable on the command line: what a user types and sees.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
import tiny_model

QUESTION = "What is the capital of France?"


def run(
    exe: Path, *args: str, stdin: bytes | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(exe), *args],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


def one_line_error(result: subprocess.CompletedProcess[bytes], status: int) -> str:
    assert result.returncode == status, result
    assert result.stdout == b""
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


# --- one answer


def test_the_answer_names_paris_and_is_all_there_is_on_stdout(packed_smollm2: Path) -> None:
    result = run(packed_smollm2, "-p", QUESTION, "--temp", "0")
    assert result.returncode == 0
    assert "Paris" in result.stdout.decode()
    assert "<|im_" not in result.stdout.decode()
    assert result.stdout.endswith(b"\n")
    assert result.stderr == b""


def test_threads_and_cpu_levels_of_one_kind_give_the_same_text(packed_smollm2: Path) -> None:
    args = ("-p", QUESTION, "--temp", "0", "-n", "24")
    assert (
        run(packed_smollm2, *args, "-t", "1").stdout == run(packed_smollm2, *args, "-t", "2").stdout
    )


def test_same_seed_same_text(packed_smollm2: Path) -> None:
    args = ("-p", "Tell a story.", "--temp", "1", "-n", "24", "--seed")
    first = run(packed_smollm2, *args, "7").stdout
    assert first == run(packed_smollm2, *args, "7").stdout
    assert first != run(packed_smollm2, *args, "8").stdout


def test_a_number_may_begin_with_its_point(packed_smollm2: Path) -> None:
    args = ("-p", "Tell a story.", "-n", "8", "--seed", "7", "--temp")
    assert (
        run(packed_smollm2, *args, ".5").stdout == run(packed_smollm2, *args, "0.5").stdout != b""
    )


def test_stop_text_ends_the_answer_before_it(packed_smollm2: Path) -> None:
    text = run(packed_smollm2, "-p", QUESTION, "--temp", "0").stdout.decode()
    cut = run(packed_smollm2, "-p", QUESTION, "--temp", "0", "--stop", "Paris").stdout.decode()
    assert cut.strip() == text.split("Paris")[0].strip()


def test_prompt_parts_are_joined(packed_smollm2: Path, tmp_path: Path) -> None:
    """-p, -f and a pipe make one prompt: the same as all of it given with -p."""
    file = tmp_path / "part.txt"
    file.write_text("of France")
    args = ("--temp", "0", "-n", "16")
    joined = run(packed_smollm2, "-p", "Name the capital\n\nof France\n\nin one word.", *args)
    parts = run(
        packed_smollm2, "-p", "Name the capital", "-f", str(file), *args, stdin=b"in one word."
    )
    assert parts.stdout == joined.stdout


def test_ill_formed_utf8_is_refused_as_argument_and_repaired_in_a_file(
    packed_smollm2: Path, tmp_path: Path
) -> None:
    result = subprocess.run(
        [os.fsencode(packed_smollm2), b"-p", b"bad \xff text"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert "UTF-8" in one_line_error(result, 2)
    file = tmp_path / "bad.txt"
    file.write_bytes(b"bad \xff\xfe text")
    result = run(packed_smollm2, "-f", str(file), "-n", "1", "--temp", "0")
    assert result.returncode == 0
    assert result.stderr.decode().count("not valid UTF-8") == 1


def test_a_full_context_is_said(packed_smollm2: Path) -> None:
    result = run(packed_smollm2, "--raw", "-p", "Count: 1, 2, 3,", "-c", "64", "--temp", "0")
    assert result.returncode == 0
    if b"context" not in result.stderr:  # the model ended by itself: make it go on
        result = run(packed_smollm2, "--raw", "-p", "a b " * 20, "-c", "64", "--temp", "1")
    assert b"context window is full" in result.stderr
    too_long = run(packed_smollm2, "-p", "word " * 500, "-c", "128")
    error = one_line_error(too_long, 1)
    assert "128" in error, error
    assert re.search(r"\b5\d\d\b", error), error  # both counts


def test_nobody_reading_is_no_crash(packed_smollm2: Path) -> None:
    with subprocess.Popen(
        [str(packed_smollm2), "-p", "Tell a long story.", "-n", "200"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        process.wait(timeout=60)
        assert process.returncode >= 0, "died of a signal"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="optional: no /dev/full here")
@pytest.mark.parametrize("args", [["-p", "hi", "-n", "4"], ["tokenize", "hi"], ["--help"]])
def test_an_answer_that_cannot_be_written_is_a_failure(
    packed_smollm2: Path, args: list[str]
) -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [str(packed_smollm2), *args],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert result.returncode == 1
    lines = result.stderr.decode().splitlines()
    assert lines == ["error: cannot write to standard output: No space left on device"]


# --- wrong calls


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--bogus"], "unknown option --bogus"),
        (["-p"], "needs a value"),
        (["-p", ""], "the prompt is empty"),
        (["-p", "x", "--temp", "hot"], "--temp takes a number"),
        (["-p", "x", "-n", "-1"], "--predict takes a whole number"),
        (["-p", "x", "-t", "0"], "--threads takes a whole number from 1"),
        (["-p", "x", "--cpu", "z80"], "z80"),
        (["-p", "x", "--act", "int4"], "--act is int8, int16 or f32"),
        (["dance"], "unknown command 'dance'"),
        (["-p", "x", "--tmp", "3"], "unknown option --tmp"),
        (["--seed=3", "dance"], "unknown command 'dance'"),
        (["chat", "extra"], "unexpected argument 'extra'"),
        (["bench", "--temp", "0"], "--temp does not belong to this command"),
        (["perplexity"], "perplexity needs a FILE"),
        (["serve", "--port", "70000"], "--port takes"),
        (["serve", "--host", "0.0.0.0"], "key"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(
    packed_smollm2: Path, args: list[str], message: str
) -> None:
    assert message in one_line_error(run(packed_smollm2, *args), 2)


def test_files_that_are_not_there_or_not_models(packed_smollm2: Path, tmp_path: Path) -> None:
    error = one_line_error(run(packed_smollm2, "-m", str(tmp_path / "none.gguf"), "-p", "x"), 1)
    assert "none.gguf" in error
    text = tmp_path / "text.gguf"
    text.write_bytes(b"hello" * 1000)
    assert "neither a GGUF" in one_line_error(run(packed_smollm2, "-m", str(text), "-p", "x"), 1)
    assert "directory" in one_line_error(run(packed_smollm2, "-m", str(tmp_path), "-p", "x"), 1)


def test_a_context_too_large_for_memory_is_said(packed_smollm2: Path) -> None:
    error = one_line_error(run(packed_smollm2, "-p", "x", "-c", "1000000000"), 1)
    assert "MiB" in error
    assert "-c" in error


def test_a_model_too_large_for_memory_is_said(packed_smollm2: Path, tmp_path: Path) -> None:
    """Its embedding is made the last tensor of a sparse file, with 64 GiB of rows."""
    from tiny_model import Shape, build

    path = tmp_path / "huge.gguf"
    small = Shape(n_layer=1, n_embd=4096, n_head=2, n_kv=1, key_len=128, n_ff=256)
    raw = bytearray(build("qwen3", "F32", shape=small).save(path).read_bytes())
    data = gguf.GGUFReader(path).data_offset
    end = -(-(len(raw) - data) // 32) * 32
    row = raw.index(b"token_embd.weight") + len("token_embd.weight") + 4
    width, rows = struct.unpack_from("<2Q", raw, row)[0], 1 << 22
    struct.pack_into("<2QIQ", raw, row, width, rows, 0, end)
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(data + end + width * rows * 4)
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") > 64 << 30:
        pytest.skip("optional: this machine's memory holds it")
    error = one_line_error(run(packed_smollm2, "-m", str(path), "-p", "x"), 1)
    assert re.search(r"the model needs \d{5} MiB of memory and this machine has \d+ MiB", error)


def test_50_truncations_of_a_real_model(
    packed_smollm2: Path, smollm2: Path, tmp_path: Path
) -> None:
    raw = smollm2.read_bytes()
    cut = tmp_path / "cut.gguf"
    header = [int(2_000_000 * i / 25) + 1 for i in range(25)]
    data = [2_000_000 + int((len(raw) - 2_000_000 - 1) * i / 25) for i in range(1, 26)]
    for size in [*header, *data]:
        cut.write_bytes(raw[:size])
        error = one_line_error(run(packed_smollm2, "-m", str(cut), "-p", "x"), 1)
        assert "cut.gguf" in error


def test_other_weights_run_with_m(packed_smollm2: Path, smollm2: Path) -> None:
    own = run(packed_smollm2, "-p", QUESTION, "--temp", "0", "-n", "16")
    for path in (smollm2, packed_smollm2):
        other = run(packed_smollm2, "-m", str(path), "-p", QUESTION, "--temp", "0", "-n", "16")
        assert other.stdout == own.stdout


# --- the other commands


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["chat"],
        ["serve"],
        ["bench"],
        ["perplexity"],
        ["tokenize"],
        ["info"],
        ["verify"],
        ["licenses"],
    ],
)
def test_help_everywhere(packed_smollm2: Path, command: list[str]) -> None:
    result = run(packed_smollm2, *command, "--help")
    assert result.returncode == 0
    assert result.stderr == b""
    text = result.stdout.decode()
    assert text.startswith("Usage: chat")
    assert all(len(line) <= 110 for line in text.splitlines())


def test_version_info_verify_licenses(packed_smollm2: Path) -> None:
    assert run(packed_smollm2, "--version").stdout.startswith(b"llamapack runtime ")
    facts = json.loads(run(packed_smollm2, "info", "--json").stdout)
    assert facts["architecture"] == "llama"
    assert facts["context_trained"] == 8192
    assert facts["types"] == {"F32": 61, "Q4_1": 210, "Q8_0": 1}
    assert facts["parameters"] == 134515008
    assert "ref" in facts["cpu_levels"].split()
    assert b"llama" in run(packed_smollm2, "info").stdout
    assert run(packed_smollm2, "verify").stdout.startswith(b"ok")
    licenses = run(packed_smollm2, "licenses").stdout.decode()
    assert "Apache License" in licenses
    assert "preact" in licenses.lower(), "the page's libraries ask for their notices"


def test_verify_finds_a_flipped_bit_anywhere(packed_smollm2: Path, tmp_path: Path) -> None:
    raw = bytearray(packed_smollm2.read_bytes())
    copy = tmp_path / "copy"
    for share in (0.0001, 0.001, 0.3, 0.6, 0.9, 0.99999):
        at = int(len(raw) * share)
        raw[at] ^= 4
        copy.write_bytes(raw)
        raw[at] ^= 4
        # The runtime of the whole file checks the spoilt one: a broken program cannot be trusted
        # to check itself.
        result = run(packed_smollm2, "verify", str(copy))
        assert result.returncode == 1, f"a flipped bit at {at} was not found"


def test_tokenize(packed_smollm2: Path, lib: object, smollm2: Path) -> None:
    ids = run(packed_smollm2, "tokenize", "--ids", "Hello world 123").stdout.split()
    rows = json.loads(run(packed_smollm2, "tokenize", "--json", "Hello world 123").stdout)
    assert [int(i) for i in ids] == [row["id"] for row in rows]
    assert "".join(row["piece"] for row in rows) == "Hello world 123"
    piped = run(packed_smollm2, "tokenize", "--ids", stdin=b"Hello world 123").stdout.split()
    assert piped == ids
    plain = run(packed_smollm2, "tokenize", "--ids", "<|im_start|>").stdout.split()
    special = run(packed_smollm2, "tokenize", "--ids", "--special", "<|im_start|>").stdout.split()
    assert special == [b"1"]
    assert len(plain) > 1


def test_bench_reports_both_speeds(packed_smollm2: Path) -> None:
    result = run(packed_smollm2, "bench", "-p", "32", "-n", "4", "-r", "2", "--json")
    figures = json.loads(result.stdout)
    assert figures["prefill_tps"] > 0
    assert figures["decode_tps"] > 0
    assert (figures["n_prompt"], figures["n_predict"], figures["repeat"]) == (32, 4, 2)
    assert figures["depth"] == 0


def test_bench_measures_behind_a_context(packed_smollm2: Path, tmp_path: Path) -> None:
    path = tiny_model.build("llama", "Q8_0").save(tmp_path / "tiny.gguf")
    args = ("bench", "-m", str(path), "-p", "40", "-n", "8", "-r", "2")
    result = run(packed_smollm2, *args, "-d", "600", "-c", "64", "--json")
    figures = json.loads(result.stdout)
    assert figures["depth"] == 600
    assert figures["prefill_tps"] > 0
    assert figures["decode_tps"] > 0
    # The context holds the depth and what is measured behind it: more than this model's 512.
    assert b"640 were asked for" in result.stderr
    assert b"depth 600" in run(packed_smollm2, *args, "-d", "600").stdout
    assert "--depth takes" in one_line_error(run(packed_smollm2, "bench", "-d", "-1"), 2)


def test_perplexity_does_not_depend_on_threads(packed_smollm2: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. It was a sunny day, and the dog was out. " * 30)
    args = ("perplexity", str(text), "-c", "128", "--json")
    one = json.loads(run(packed_smollm2, *args, "-t", "1").stdout)
    two = json.loads(run(packed_smollm2, *args, "-t", "2").stdout)
    assert one == two
    assert 1 < one["perplexity"] < 20
    assert one["scored"] == one["windows"] * 63
    short = tmp_path / "short.txt"
    short.write_text("too short")
    assert "at least" in one_line_error(run(packed_smollm2, "perplexity", str(short)), 2)


# --- the terminal chat


class Terminal:
    """The program in a pseudo-terminal of 80 columns."""

    def __init__(self, exe: Path, home: Path, *args: str) -> None:
        import fcntl
        import termios

        pid, self.fd = pty.fork()
        if pid == 0:
            env = {"HOME": str(home), "TERM": "xterm-256color", "PATH": os.environ["PATH"]}
            os.execve(exe, [str(exe), *args], env)
        self.pid = pid
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.seen = ""
        self.raw = b""

    def send(self, keys: str | bytes) -> None:
        os.write(self.fd, keys.encode() if isinstance(keys, str) else keys)

    def expect(self, text: str, timeout: float = 120) -> str:
        """Reads until text shows up behind what was expected before; returns what came."""
        end = time.monotonic() + timeout
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not come; seen: {self.seen[-800:]!r}"
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            assert data, f"ended before {text!r}; seen: {self.seen[-800:]!r}"
            self.raw += data
            self.seen += data.decode("utf-8", errors="replace")
        came, self.seen = self.seen.split(text, 1)
        return came

    def wait(self, timeout: float = 60) -> int:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            ready, _, _ = select.select([self.fd], [], [], 0.05)
            if ready:
                with contextlib.suppress(OSError):
                    self.raw += os.read(self.fd, 65536)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        pytest.fail("the chat did not end")


@pytest.fixture
def terminal(packed_smollm2: Path, tmp_path: Path) -> Iterator[Terminal]:
    t = Terminal(packed_smollm2, tmp_path, "chat", "--temp", "0")
    yield t
    os.close(t.fd)
    try:
        os.kill(t.pid, signal.SIGKILL)
        os.waitpid(t.pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_a_conversation(terminal: Terminal, tmp_path: Path) -> None:
    t = terminal
    t.expect("/help")
    t.expect("\x1b[2C")
    t.send(QUESTION + "\r")
    t.expect("Paris")
    t.expect("\x1b[?2004h")
    t.send("/stats\r")
    t.expect("of 8192 tokens in use")
    t.expect("from the cache")
    t.expect("\x1b[?2004h")
    t.send("/help\r")
    for command in ("/clear", "/system", "/stats", "/undo", "/exit"):
        t.expect(command)
    t.expect("\x1b[?2004h")
    t.send("/undo\r")
    t.expect("taken back")
    t.expect("\x1b[?2004h")
    t.send("/undo\r")
    t.expect("nothing to take back")
    t.expect("\x1b[?2004h")
    t.send("/system You answer in one word.\r")
    t.expect("is set")
    t.expect("\x1b[?2004h")
    t.send("/nonsense\r")
    t.expect("no command /nonsense")
    t.expect("\x1b[?2004h")
    t.send("/exit\r")
    assert t.wait() == 0
    history = list(tmp_path.rglob("history"))
    assert len(history) == 1
    assert QUESTION in history[0].read_text()
    assert history[0].stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: Terminal) -> None:
    t = terminal
    t.expect("\x1b[2C")
    t.send("Write a very long story about a fox, with many chapters.\r")
    t.expect("chapters.")
    t.expect(" the ")
    t.send("\x03")
    t.expect("note: stopped", timeout=20)
    t.expect("\x1b[?2004h")
    t.send("\x03")
    t.expect("Ctrl-D to leave")
    t.expect("\x1b[?2004h")
    t.send("\x04")
    assert t.wait() == 0


def test_a_paste_of_many_lines_is_one_message(terminal: Terminal) -> None:
    t = terminal
    t.expect("\x1b[2C")
    t.send("\x1b[200~/exit\r\nRepeat: blue\nRepeat: green\x1b[201~")
    t.expect("green")
    time.sleep(0.3)
    assert os.waitpid(t.pid, os.WNOHANG) == (0, 0), "a pasted line was taken for a command"
    t.send("\r")
    t.expect("\x1b[?2004h")
    t.send("\x04")
    assert t.wait() == 0


def test_a_text_taller_than_the_terminal_is_painted_around_the_cursor(terminal: Terminal) -> None:
    """Every key repaints: rows that have scrolled away must not be written once more each time."""
    t = terminal
    t.expect("\x1b[2C")
    lines = [f"line {i}" for i in range(60)]
    t.send("\x1b[200~" + "\n".join(lines) + "\x1b[201~")
    t.expect("line 59")
    t.send("!")
    came = t.expect("line 59!")
    assert [int(n) for n in re.findall(r"line (\d+)", came)] == list(range(36, 59))
    t.send("\x1b[A" * 59)  # to the first line
    t.expect("line 0\x1b[K")
    t.send("\x15/undo \x1b[B\x1b[B")
    t.expect("/undo")
    t.send("\r")  # all of it stands above the answer, once
    came = t.expect("\x1b[?2004l")
    assert came.rsplit("\x1b[36m>", 1)[1].count("\r\n") == 59
    t.send("\x03")
    t.send("\x04")


def test_what_was_typed_ahead_is_not_lost(terminal: Terminal) -> None:
    """Also what a terminal without bracketed paste sends: several lines in one go."""
    t = terminal
    t.expect("\x1b[2C")
    t.send("/system You answer in one word.\r/system\r/stats\r/exit\r")
    t.expect("is set")
    t.expect("one word.\r\n")
    t.expect("tokens in use")
    assert t.wait() == 0


def test_ctrl_c_ends_a_chat_whose_output_is_no_terminal(packed_smollm2: Path) -> None:
    """Lines are then read as they come, and nothing but the signal tells of Ctrl-C."""
    with subprocess.Popen(
        [str(packed_smollm2), "chat", "--temp", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"/undo\n")
        process.stdin.flush()
        assert b"nothing" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130


def test_chat_over_a_pipe(packed_smollm2: Path) -> None:
    result = run(packed_smollm2, "chat", "--temp", "0", stdin=f"{QUESTION}\n/exit\n".encode())
    assert result.returncode == 0
    assert b"Paris" in result.stdout
    assert b"\x1b" not in result.stdout
