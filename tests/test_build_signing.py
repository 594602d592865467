"""`build --sign-cmd`: somebody's tool signs the file before it gets its name, or there is no file.

The tools here are small Python programs; a real one signs in test_windows_program.py.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from llamapack import atomic, signing
from llamapack.errors import LlamapackError, UsageError
from llamapack.targets import host_target

ROOT = Path(__file__).resolve().parents[1]
HOST = host_target().name


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out put"
    folder.mkdir()
    return folder / "chat"


@pytest.fixture
def tool(tmp_path: Path) -> Callable[[str], str]:
    """A signing tool with this body; sys.argv[1:] are its arguments. Gives how to start it."""

    def make(body: str) -> str:
        path = tmp_path / "my tool.py"
        path.write_text(f"import os, shutil, sys, time\n{body}\n")
        return f"{shlex.quote(sys.executable)} {shlex.quote(str(path))}"

    return make


APPEND = "open(sys.argv[1], 'ab').write(b'signature')"


def build(run_cli: Callable[..., int], out: Path, command: str, *options: str) -> int:
    return run_cli("build", "--no-model", "-o", str(out), "--sign-cmd", command, *options)


def test_signs_in_place(
    out: Path, tool: Callable[[str], str], run_cli: Callable[..., int], tmp_path: Path
) -> None:
    """The tool sees a closed, whole file of the final name; several words stay one argument."""
    note = tmp_path / "note"
    body = f"""
import json, zipfile
facts = {{"argv": sys.argv[1:], "name": os.path.basename(sys.argv[1]),
         "whole": zipfile.ZipFile(sys.argv[1]).testzip() is None,
         "final": os.path.exists({str(out)!r}), "stdin": sys.stdin.read()}}
open({str(note)!r}, "w").write(json.dumps(facts))
{APPEND}"""
    assert build(run_cli, out, f"{tool(body)} {{file}} 'two words' \"it's\" {{target}}") == 0
    facts = json.loads(note.read_text())
    assert facts["argv"][1:] == ["two words", "it's", HOST]
    del facts["argv"]
    assert facts == {"name": "chat", "whole": True, "final": False, "stdin": ""}
    assert out.read_bytes().endswith(b"signature")
    assert os.listdir(out.parent) == ["chat"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    done = subprocess.run([out, "verify"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert run_cli("verify", str(out)) == 0


@pytest.mark.parametrize(
    "body",
    ["shutil.copy(sys.argv[1], sys.argv[2]); open(sys.argv[2], 'ab').write(b'signature')",
     # Tools may write a new file and rename it, with rights of their own.
     "shutil.copy(sys.argv[1], sys.argv[1] + '.t'); os.chmod(sys.argv[1] + '.t', 0o400)\n"
     "os.replace(sys.argv[1] + '.t', sys.argv[1]); shutil.copy(sys.argv[1], sys.argv[2])"],
    ids=["out", "renamed"],
)  # fmt: skip
def test_signs_into_another_file(
    body: str, out: Path, tool: Callable[[str], str], run_cli: Callable[..., int]
) -> None:
    assert build(run_cli, out, f"{tool(body)} {{file}} {{out}}") == 0
    assert os.listdir(out.parent) == ["chat"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert run_cli("verify", str(out)) == 0


def test_every_target_is_signed(
    out: Path, tool: Callable[[str], str], run_cli: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    body = "open(sys.argv[1], 'ab').write(f'signed for {sys.argv[2]}'.encode())"
    names = ("linux-x86_64", "windows-x86_64")
    options = [word for name in names for word in ("--target", name)]
    assert build(run_cli, out, f"{tool(body)} {{file}} {{target}}", "--json", *options) == 0
    rows = json.loads(capsys.readouterr().out)["outputs"]
    assert [row["target"] for row in rows] == list(names)
    for row in rows:
        data = Path(row["path"]).read_bytes()
        assert data.endswith(f"signed for {row['target']}".encode())
        assert row["size"] == len(data)


def test_all_are_signed_or_none_appears(
    out: Path, smollm2: Path, tool: Callable[[str], str], run_cli: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The third of three fails: what was there before stays, also beside shared weights."""
    body = f"{APPEND}\nsys.exit(3 if sys.argv[2] == 'universal' else 0)"
    words = [word for name in (HOST, "windows-x86_64", "universal") for word in ("--target", name)]
    words += ["--sign-cmd", f"{tool(body)} {{file}} {{target}}"]
    before = out.with_name(f"{out.name}-{HOST}")
    before.write_text("what was there before")
    for options in ((), ("--split",)):
        assert run_cli("build", str(smollm2), "-o", str(out), *words, *options) == 1
        assert "failed on chat-universal.exe (exit status 3)" in capsys.readouterr().err
        assert os.listdir(out.parent) == [before.name]
        assert before.read_text() == "what was there before"


FAILURES = {
    "fails": ("print('first'); print('key  is\\tlocked', file=sys.stderr); sys.exit(7)",
              "failed on chat (exit status 7): "),
    "is killed": ("os.kill(os.getpid(), 9)", "failed on chat (ended by signal 9): it said nothing"),
    "talks a lot": ("print('x' * 5000); print('the reason'); sys.exit(1)", "x | the reason"),
    "cuts the file": ("os.truncate(sys.argv[1], 9999)", "broke chat: no archive at the end"),
    "flips a bit": ("f = open(sys.argv[1], 'rb+'); f.seek(9999)\n"
                    "b = f.read(1)[0]; f.seek(9999); f.write(bytes([b ^ 1]))",
                    "broke chat: damaged: the runtime differs from its hash"),
    "removes it": ("os.remove(sys.argv[1])", "removed the file"),
    "signs beside it": ("open(sys.argv[1] + '.sig', 'w')", "wrote 'chat.sig' beside the file"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_tool_leaves_nothing(
    case: str, out: Path, tool: Callable[[str], str], run_cli: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    body, message = FAILURES[case]
    out.write_text("what was there before")
    assert build(run_cli, out, f"{tool(body)} {{file}}") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: --sign-cmd: ")
    assert said.count("\n") == 1
    assert len(said) < 700
    assert message in said
    if case == "fails":
        assert "first" in said and "key is locked" in said
    assert os.listdir(out.parent) == ["chat"]
    assert out.read_text() == "what was there before"


def test_a_promised_output_must_come(
    out: Path, tool: Callable[[str], str], run_cli: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert build(run_cli, out, f"{tool('pass')} {{file}} {{out}}") == 1
    assert "wrote no {out}" in capsys.readouterr().err
    assert os.listdir(out.parent) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "names no tool"), ("  ", "names no tool"), ("true", "told the file"),
     ("'true {file}", "not closed"), ("no-such-tool {file}", "no program 'no-such-tool'")],
)  # fmt: skip
def test_a_wrong_command_is_refused_at_once(
    text: str, message: str, out: Path, run_cli: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert build(run_cli, out, text) == 2
    assert message in capsys.readouterr().err


def test_words() -> None:
    words = signing.parse_sign_command
    expected = ("true", "a b", "c", "d e", "x{file}y", "#n", "$HOME", "|", "*")
    assert words("true 'a b' c d\\ e x{file}y #n $HOME | *").words == expected


def test_a_backslash_is_itself_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr("shutil.which", lambda name: name)
    words = signing.parse_sign_command(r'"C:\Program Files\sign.exe" /f C:\key.pfx {file}').words
    assert words == (r"C:\Program Files\sign.exe", "/f", r"C:\key.pfx", "{file}")


def test_a_stopped_build_stops_the_tool(out: Path, tool: Callable[[str], str]) -> None:
    begun = out.parent.parent / "begun"
    body = f"open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-m", "llamapack", "build", "--no-model", "-o", str(out), "--sign-cmd",
         f"{tool(body)} {{file}}"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "builder")},
        stderr=subprocess.PIPE,
    )  # fmt: skip
    while not (begun.exists() and begun.read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 128 + signal.SIGTERM
    assert os.listdir(out.parent) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


def test_what_a_killed_build_left_goes_with_the_next(out: Path) -> None:
    """A directory that a tool works in is left alone; without its owner it is removed."""
    stale = out.with_name(f".{out.name}.lp-tmp-0123456789abcdef")
    stale.mkdir()
    (stale / "lock").touch()
    (stale / out.name).write_text("half signed")
    seen = []

    def finish(path: Path) -> None:
        seen.append(path)
        atomic.remove_stale(out)  # as another build of the same file does
        assert path.read_bytes() == b"data"
        path.write_bytes(b"signed")

    with atomic.atomic_file(out, 0o755, finish) as file:
        assert not stale.exists()
        file.write(b"data")
    assert out.read_bytes() == b"signed"
    assert seen[0].name == out.name
    assert os.listdir(out.parent) == [out.name]


def test_an_error_in_between(out: Path) -> None:
    def finish(path: Path) -> None:
        raise LlamapackError("no")

    with pytest.raises(LlamapackError, match="no"), atomic.atomic_file(out, 0o755, finish) as file:
        file.write(b"data")
    assert os.listdir(out.parent) == []
    with pytest.raises(UsageError):
        signing.parse_sign_command("")


def test_a_program_with_its_weights_apart(
    out: Path, smollm2: Path, tool: Callable[[str], str], run_cli: Callable[..., int]
) -> None:
    """Only the program is signed; both appear, or none."""
    command = f"{tool('sys.exit(1)')} {{file}}"
    words = ("build", str(smollm2), "-o", str(out), "--split", "--sign-cmd")
    assert run_cli(*words, command) == 1
    assert os.listdir(out.parent) == []
    assert run_cli(*words, f"{tool(APPEND)} {{file}}") == 0
    assert sorted(os.listdir(out.parent)) == ["chat", "chat.weights"]
    assert out.read_bytes().endswith(b"signature")
    assert run_cli("verify", str(out)) == 0


def test_applications_are_signed_later(
    out: Path, run_cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(run_cli, out, "true {file}", "--target", "macos-aarch64", "--app") == 2
    assert "sign an application (--app) after the build" in capsys.readouterr().err
