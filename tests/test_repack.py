"""Packing again what was packed, default arguments, and `--max-size`.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny_model
from gguf import GGUFValueType as VType
from llamapack import default_args, payload, plan, system_kv
from llamapack.errors import UsageError
from llamapack.sizes import parse_size

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="runs what it builds for Linux")

Cli = Callable[..., int]
SYSTEM = "You are a helpful assistant. Once upon a time there was a small model that said little."
DATED = (
    "{{ '<|im_start|>system\nToday: ' + strftime_now('%d %b %Y') + '\n' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """F16, with a template that prints the date, and a licence text beside it."""
    folder = tmp_path_factory.mktemp("half")
    (folder / "LICENSE").write_text("Do what is right.")
    model = tiny_model.build("llama", "F16", seed=4)
    model.kv["tokenizer.chat_template"] = (DATED, VType.STRING)
    return model.save(folder / "half.gguf")


@pytest.fixture
def pack(tmp_path: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """pack("chat", MODEL, options...) gives the only row of --json."""

    def run(name: str, source: Path, *options: str, command: str = "build") -> Any:
        capsys.readouterr()
        out = tmp_path / name
        code = run_cli(command, str(source), "-o", str(out), "--json", *options)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        (row,) = json.loads(captured.out)["outputs"]
        return row

    return run


def manifest_of(path: Path) -> dict[str, Any]:
    return payload.open_payload(path).manifest


# --- what stays --------------------------------------------------------------------------------

ALL = ["--name", "My chat", "--system", SYSTEM, "--arg", "--temp 0.5", "--arg", "--stop one",
       "--arg", "--stop two", "--quant", "Q8_0"]  # fmt: skip


@pytest.mark.parametrize("split", [(), ("--split",)])
@pytest.mark.parametrize("command", ["build", "repack"])
def test_everything_stays(
    half: Path, pack: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    command: str, split: tuple[str, ...],
) -> None:  # fmt: skip
    """On another day, on a machine that could evaluate nothing: the very same file."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1772700000")
    first = pack("chat", half, *ALL)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1782700000")
    monkeypatch.setattr(system_kv, "load", None)
    again = pack("again", tmp_path / "chat", *split, command=command)
    assert again["system_kv"] == first["system_kv"] and first["system_kv"]["date"]
    manifest = manifest_of(tmp_path / "again")
    if not split:
        assert (tmp_path / "again").read_bytes() == (tmp_path / "chat").read_bytes()
    assert (manifest["name"], manifest["system"]) == ("My chat", SYSTEM)
    assert manifest["args"] == ["--temp 0.5", "--stop one", "--stop two"]
    assert manifest["quantized"]["type"] == "Q8_0"
    # And back, from the pair and for another system.
    third = pack("third", tmp_path / "again", "--target", "linux-x86_64", command="repack")
    assert third["system_kv"] == first["system_kv"]
    assert (tmp_path / "third").read_bytes() == (tmp_path / "chat").read_bytes()
    pack("win", tmp_path / "again", "--target", "windows-x86_64", command=command)
    opened = payload.open_payload(tmp_path / "win.exe")
    other = {**opened.manifest}
    same = manifest_of(tmp_path / "chat")
    for key in ("target", "runtime", "entries", "license"):
        del other[key], same[key]
    assert other == same
    payload.verify(opened)
    with zipfile.ZipFile(tmp_path / "win.exe") as archive:
        assert archive.read("licenses/model/LICENSE") == b"Do what is right."
    # The system that it was packed for is what it is packed for again.
    assert pack("w2", tmp_path / "win.exe", command="repack")["target"] == "windows-x86_64"


def test_what_is_given_replaces_what_was_kept(
    half: Path, pack: Callable[..., Any], tmp_path: Path
) -> None:
    pack("chat", half, *ALL)
    chat = tmp_path / "chat"
    row = pack("other", chat, "--system", "Be brief.", "--name", "Other", "--arg", "--temp 0")
    manifest = manifest_of(tmp_path / "other")
    assert (manifest["name"], manifest["system"]) == ("Other", "Be brief.")
    assert manifest["args"] == ["--stop one", "--stop two", "--temp 0"]
    assert manifest["quantized"]["type"] == "Q8_0"
    assert row["system_kv"]["tokens"] < manifest_of(chat)["system_kv"]["tokens"]
    pack("third", chat, "--arg", "", "--arg", "-n 7", "--no-embed-kv", command="build")
    manifest = manifest_of(tmp_path / "third")
    assert (manifest["args"], manifest["system"]) == (["-n 7"], SYSTEM)
    assert "system_kv" not in manifest and "date" not in manifest
    # Without an evaluated prompt it stays so, until the prompt is another.
    assert pack("fourth", tmp_path / "third")["system_kv"] is None
    assert pack("fifth", tmp_path / "third", "--embed-kv")["system_kv"]
    assert pack("sixth", tmp_path / "third", "--system", "Be brief.")["system_kv"]
    # -n and --predict are one option; what computes the cache anew computes it anew.
    pack("seventh", tmp_path / "third", "--arg", "--predict 9", command="repack")
    assert manifest_of(tmp_path / "seventh")["args"] == ["--predict 9"]
    assert pack("eighth", chat, "--arg", "--act int8")["system_kv"]["act"] == "int8"
    pack("ninth", chat, "--quant", "Q4_0")
    assert set(manifest_of(tmp_path / "ninth")["quantized"]["from"]) == {"Q8_0", "F32"}


def test_what_cannot_be_packed_again(
    half: Path, pack: Callable[..., Any], tmp_path: Path, run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pack("chat", half, "--system", SYSTEM, "--arg", "--cpu avx2")
    raw = (tmp_path / "chat").read_bytes()
    opened = payload.open_payload(tmp_path / "chat")

    def refused(text: str, source: Path, *options: str) -> None:
        capsys.readouterr()
        assert run_cli("repack", str(source), "-o", str(tmp_path / "out"), *options) != 0
        error = capsys.readouterr().err
        assert text in error and error.count("\n") == 1
        assert not list(tmp_path.glob("*out*"))

    refused("not packed by llamapack", half)
    refused("no such file", tmp_path / "missing")
    refused("levels are i8mm, dotprod, neon, ref", tmp_path / "chat", "--target", "linux-aarch64")
    for name, text in (("model.gguf", "weights differ from their hash"),
                       ("system.kv", "system.kv differs from its hash")):  # fmt: skip
        damaged = bytearray(raw)
        damaged[opened.entries[name].data + opened.entries[name].stored - 1] ^= 1
        (tmp_path / "bad").write_bytes(damaged)
        refused(text, tmp_path / "bad")
    assert run_cli("build", "--no-model", "-o", str(tmp_path / "bare")) == 0
    refused("holds no weights", tmp_path / "bare")


# --- default arguments -------------------------------------------------------------------------


def test_all_stop_texts_count(smollm2: Path, pack: Callable[..., Any], tmp_path: Path) -> None:
    """Every one that was baked in; those of the command line instead of all of them."""
    stops = [word for text in ("xyzzy", "Paris", "plugh") for word in ("--arg", f"--stop {text}")]
    pack("chat", smollm2, *stops, "--arg", "--temp 1", "--arg", "--temp 0")

    def answer(*options: str) -> str:
        words = [tmp_path / "chat", "-p", "What is the capital of France?", *options]
        return subprocess.run(words, capture_output=True, text=True, check=True,
                              stdin=subprocess.DEVNULL).stdout  # fmt: skip

    assert answer().strip() == "The capital of France is"
    assert answer("--stop", "France").strip() == "The capital of"
    assert "Paris" in answer("--stop", "xyzzy")


def test_words_are_those_of_the_runtime(lib: Any, ffi: Any) -> None:
    options = default_args.runtime_options()
    acts, types = [], []
    while (name := ffi.string(lib.lp_act_name(len(acts))).decode()) != "?":
        acts.append(name)
    while (name := ffi.string(lib.lp_kv_type_name(len(types))).decode()) != "?":
        types.append(name)
    assert sorted(options["--act"][0].words) == sorted(acts)
    assert sorted(options["--kv-type"][0].words) == sorted(types)
    assert options["--stop"][0].most == 16


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("--act int4", "--act is one of int8, int16, f32"),
        ("--kv-type q4_0", "--kv-type is one of f16, f32, q8_0"),
        ("--cpu z80", "on x86_64 the levels are amx, avx512bf16, "),
        ("--cpu neon", "on x86_64 the levels are"),
    ],
)
def test_words_are_checked(arg: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        default_args.checked_args([arg], ["x86_64"])


def test_good_words_pass() -> None:
    args = ["--act f32", "--kv-type  q8_0 ", "--cpu avx2", "--cpu ref", *["--stop a"] * 16]
    checked = default_args.checked_args(args, ["x86_64"])
    assert checked == ["--act f32", "--kv-type q8_0", "--cpu avx2", "--cpu ref", *["--stop a"] * 16]
    with pytest.raises(UsageError, match="--stop can be given at most 16 times"):
        default_args.checked_args([*args, "--stop b"], ["x86_64"])
    with pytest.raises(UsageError, match="on aarch64"):
        default_args.checked_args(args, ["x86_64", "aarch64"])


# --- --max-size --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("3.9GiB", 4187593113), ("1GB", 10**9), ("700 MB", 7 * 10**8), ("1kib", 1024), ("12", 12),
     ("0.5MiB", 1 << 19), ("1B", 1)],
)  # fmt: skip
def test_sizes_that_people_type(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1GB", "3.9", "3,9GiB", "1TB", "0GB", "1e3", "\u0663GB"]
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--max-size"):
        parse_size(text)


def test_the_best_that_fits_is_chosen(
    half: Path, pack: Callable[..., Any], tmp_path: Path, run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Just large enough, and one byte too small, for the source and for every mix."""
    names = ["", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"]
    rows = [pack(f"c{n}", half, *(["--quant", q] if q else [])) for n, q in enumerate(names)]
    limits = [row["size"] for row in rows]
    assert limits == sorted(limits, reverse=True)
    for n, (name, limit) in enumerate(zip(names, limits, strict=True)):
        row = pack("fits", half, "--max-size", str(limit))
        assert (row["quant"], row["size"]) == (name, limit)
        assert (tmp_path / "fits").read_bytes() == (tmp_path / f"c{n}").read_bytes()
        assert row["notes"][0].startswith(f"the model {f'as {name}' if name else 'as it is'} fits")
        if n % 2 == 0:
            assert pack("less", half, "--max-size", str(limit - 1))["quant"] == names[n + 1]
    capsys.readouterr()
    words = ["build", str(half), "-o", str(tmp_path / "none")]
    assert run_cli(*words, "--max-size", str(limits[-1] - 1)) == 1
    error = capsys.readouterr().err
    assert f"({limits[-1]:,} bytes) (the model as Q4_0)" in error and error.count("\n") == 1
    assert run_cli(*words, "--max-size", "1GB", "--quant", "Q4_0") == 2
    assert "not both" in capsys.readouterr().err
    assert not list(tmp_path.glob("*none*"))


def test_what_is_evaluated_counts(half: Path, pack: Callable[..., Any], tmp_path: Path) -> None:
    """The evaluated system prompt is part of the file; with --split the larger file counts."""
    plain = pack("plain", half, "--system", SYSTEM, "--no-embed-kv")["size"]
    full = pack("full", half, "--system", SYSTEM)["size"]
    assert full > plain
    for limit in (plain, full - 1, full + 20_000):
        row = pack("fits", half, "--system", SYSTEM, "--max-size", str(limit))
        assert row["size"] <= limit and row["system_kv"]
        assert bool(row["quant"]) == (limit < full)
    pair = pack("pair", half, "--split", "--max-size", str(plain - 500_000))
    assert pair["quant"] == ""
    assert max(pair["size"], pair["weights"]["size"]) < plain - 500_000


def test_a_quantized_model_may_be_made_smaller(pack: Callable[..., Any], tmp_path: Path) -> None:
    source = tiny_model.build("llama", "Q6_K", seed=2).save(tmp_path / "m.gguf")
    size = pack("whole", source)["size"]
    row = pack("less", source, "--max-size", str(size - 1))
    assert row["quant"] == "Q5_K_M"
    assert "loses quality a second time" in row["warnings"][-1]
    assert plan.make_plan(str(source), tmp_path / "x", max_size="1GB").max_size == 10**9
    assert gguf.GGUFReader(source).tensors
