"""A packed model as a Windows program, under wine: it answers as on Linux, behaves in a console of
its own and in somebody else's, starts from long and foreign paths, and can be signed.

What the file itself says of it (icon, version): test_build_resources.py. The server: see
test_server_windows.py.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import windows_console
from llamapack import payload
from llamapack.targets import host_target
from windows_console import Console

pytestmark = pytest.mark.wine
ROOT = Path(__file__).resolve().parents[1]
NAME = "Prüfling 🦙"
KEY = "Press a key to close this window."


@pytest.fixture(scope="module")
def wine(tool: Callable[[str], str]) -> str:
    return tool("wine")


@pytest.fixture(scope="module")
def program(
    wine: str, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:  # wine first: without it nothing need be built
    from llamapack import build, plan

    out = tmp_path_factory.mktemp("windows") / "chat"
    chosen = plan.make_plan(str(smollm2), out, ["windows-x86_64"], name=NAME)
    return build.build(chosen)[0].path


# --- the same as on Linux ------------------------------------------------------------------------

TEXTS = ["Hello world 123", "Grüße aus Köln 日本語のテキスト 🦙🏽 مرحبا <|im_start|>", "  a\tb\nc  ",
         'say "hi" \\ back\\\\slash\\', "a" * 3000]  # fmt: skip


@pytest.mark.skipif(host_target().name != "linux-x86_64", reason="compares with Linux on x86-64")
def test_same_text_as_on_linux(wine: str, program: Path, packed_smollm2: Path) -> None:
    """Sampled text shows a difference in any bit; each level with the activations it is used with."""
    ask = ["-p", "Tell me a story", "--temp", "1", "--seed", "7", "-n", "16"]
    for cpu, act in (("avx2", "int8"), ("sse2", "f32")):
        options = [*ask, "--cpu", cpu, "--act", act]
        here = subprocess.run(
            [packed_smollm2, *options], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if here.returncode != 0:
            assert b"cannot run" in here.stderr
            continue
        there = windows_console.run(wine, program, *options)
        assert there.stdout == here.stdout.decode(), (cpu, act)


def test_tokens_of_arguments(wine: str, program: Path, smollm2: Path) -> None:
    """Every character arrives, whatever quotes, spaces and scripts the command line holds."""
    from tokenizer_reference import hf_tokenizer, read_tables

    reference = hf_tokenizer(read_tables(smollm2))
    for text in TEXTS:
        said = windows_console.run(wine, program, "tokenize", "--ids", text).stdout
        expected = reference.encode(text, add_special_tokens=False).ids
        assert [int(word) for word in said.split()] == expected, text


# --- paths ---------------------------------------------------------------------------------------


def test_long_and_foreign_paths(wine: str, program: Path, tmp_path: Path) -> None:
    deep = tmp_path
    while len(str(deep)) < 300:
        deep = deep / "ein ziemlich langer Ördner 日本"
    deep.mkdir(parents=True)
    there = deep / "plauder programm 🦙.exe"
    os.link(program, there)
    (deep / "frage ü.txt").write_text("What is the capital of France?")
    said = windows_console.run(
        wine, there, "-f", str(deep / "frage ü.txt"), "--temp", "0", "-n", "8"
    )
    assert "Paris" in said.stdout
    said = windows_console.run(wine, there, "verify")
    assert "every byte" in said.stdout + said.stderr
    said = windows_console.run(wine, there, "-m", str(deep / "fehlt ö.gguf"), "info", code=1)
    assert "fehlt ö.gguf" in said.stderr


# --- consoles ------------------------------------------------------------------------------------


def test_an_own_window_waits_for_its_reader(wine: str, program: Path) -> None:
    """As after a double click: the window is the program's alone and goes when it ends."""
    with Console(
        wine, str(program), "-p", "What is the capital of France?", "--temp", "0"
    ) as window:
        window.wait_for(KEY)
        assert "The capital of France is Paris." in window.text
        assert window.titles[-1] == NAME
        assert window.process.poll() is None
        window.type(b"x")
        assert window.end() == 0


def test_an_own_window_keeps_an_error(wine: str, program: Path) -> None:
    with Console(wine, str(program), "--frobnicate") as window:
        window.wait_for(KEY)
        assert "error: unknown option --frobnicate" in window.text
        window.type(b"\r")
        assert window.end() == 2


def test_a_damaged_program_says_so_in_its_window(wine: str, program: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.exe"
    cut.write_bytes(program.read_bytes()[:-100])
    with Console(wine, str(cut)) as window:
        window.wait_for(KEY)
        assert "error: " in window.text
        window.type(b" ")
        assert window.end() == 1


def test_the_page_in_an_own_window(wine: str, program: Path) -> None:
    with Console(wine, str(program), "--no-browser", "--port", "0") as window:
        window.wait_for("Close this window or press Ctrl-C here to quit.")
        assert window.titles[-1] == NAME
        url = window.text.split("is ready at ")[1].split()[0]
        with urllib.request.urlopen(url, timeout=60) as page:
            assert b"<html" in page.read()
        window.type(b"\x03")
        assert window.end() == 0
        assert KEY not in window.text


def test_in_a_shell_nothing_waits(wine: str, program: Path) -> None:
    """cmd has the console first; the window, its title and the wait are then its own business."""
    with Console(wine, "cmd", "/c", str(program), "info") as window:
        assert window.end() == 0
        assert "llamapack" in window.text
        assert KEY not in window.text
        assert NAME not in window.titles
    with Console(wine, "cmd", "/c", str(program), "--no-browser", "--port", "0") as window:
        window.wait_for("Press Ctrl-C here to quit.")
        assert "Close this window" not in window.text
        window.type(b"\x03")
        window.end()


def test_redirected_nothing_waits(wine: str, program: Path) -> None:
    said = windows_console.run(wine, program, "--frobnicate", code=2)
    assert said.stdout == ""
    assert said.stderr.count("\n") == 1


# --- signatures ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("my keys")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=llamapack test", "-addext", "extendedKeyUsage=codeSigning", "-keyout", "key.pem",
         "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.mark.signing
@pytest.mark.parametrize("model", ["with the model", "without a model"])
def test_signed_by_authenticode(
    model: str, wine: str, smollm2: Path, certificate: Path, tmp_path: Path,
    run_cli: Callable[..., int], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    key, cert = certificate / "key.pem", certificate / "cert.pem"
    sign = f"osslsigncode sign -certs '{cert}' -key '{key}' -in {{file}} -out {{out}}"
    what = [str(smollm2)] if model == "with the model" else ["--no-model"]
    code = run_cli("build", *what, "-o", str(tmp_path / "chat"), "--target", "windows-x86_64",
                   "--sign-cmd", sign, "--json")  # fmt: skip
    assert code == 0
    (row,) = json.loads(capsys.readouterr().out)["outputs"]
    signed = Path(row["path"])
    checked = subprocess.run(
        ["osslsigncode", "verify", "-CAfile", cert, signed],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
    assert "Signature verification: ok" in checked.stdout

    import pefile

    parsed = pefile.PE(str(signed), fast_load=True)
    assert parsed.get_warnings() == []
    assert parsed.OPTIONAL_HEADER.DATA_DIRECTORY[4].Size > 1000
    if model == "without a model":  # slow
        assert parsed.OPTIONAL_HEADER.CheckSum == parsed.generate_checksum()

    assert zipfile.ZipFile(signed).testzip() is None
    assert (
        subprocess.run(["unzip", "-tq", signed], capture_output=True, check=False).returncode == 0
    )
    assert run_cli("verify", str(signed)) == 0
    said = windows_console.run(wine, signed, "verify")
    assert "every byte" in said.stdout + said.stderr
    weights = [] if model == "with the model" else ["-m", str(smollm2)]
    ask = ["-p", "What is the capital of France?", "--temp", "0", "-n", "8"]
    assert "Paris" in windows_console.run(wine, signed, *weights, *ask).stdout
    if weights:
        check_that_a_change_shows(signed, cert, run_cli)


def check_that_a_change_shows(signed: Path, cert: Path, run_cli: Callable[..., int]) -> None:
    """To the signature and to ours."""
    data = bytearray(signed.read_bytes())
    data[payload.open_payload(signed).entries["manifest.json"].data - 5000] ^= 1
    signed.write_bytes(data)
    assert run_cli("verify", str(signed)) == 1
    checked = subprocess.run(
        ["osslsigncode", "verify", "-CAfile", cert, signed], capture_output=True, check=False
    )
    assert checked.returncode != 0
