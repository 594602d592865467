"""Weights in a file of their own: the pair that a build writes, and how the program finds it.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from llamapack import atomic, build, container, payload, plan, sizes, toolchain
from llamapack.container import Facts, Part
from llamapack.errors import LlamapackError
from llamapack.formats import pe
from llamapack.gguf import read_gguf
from llamapack.targets import find_target
from server_process import Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="runs what it builds for Linux")

Cli = Callable[..., int]
SYSTEM = "You are a helpful assistant. Once upon a time there was a small model that said little."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "LICENSE").write_text("Do what is right.")
    return tiny_model.build("llama", "Q8_0", seed=4).save(folder / "tiny.gguf")


@pytest.fixture
def pack(tmp_path: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """pack("chat", MODEL, options...) gives the rows of --json."""

    def run(name: str, source: Path, *options: str, command: str = "build") -> list[Any]:
        capsys.readouterr()
        out = tmp_path / name
        code = run_cli(command, str(source), "-o", str(out), "--json", *options)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        rows: list[Any] = json.loads(captured.out)["outputs"]
        return rows

    return run


def run(*words: str | Path, code: int = 0) -> str:
    """Standard output, or (for a failure) the one line of standard error."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    assert done.returncode == code, done
    if code == 0:
        return done.stdout
    assert done.stdout == "" and done.stderr.count("\n") == 1, done
    return done.stderr


def answer(program: Path, *options: str | Path) -> str:
    return run(program, "-p", "One, two", "-n", "12", "--temp", "0", *options)


# --- the two files ----------------------------------------------------------------------------


def test_a_pair_answers_as_one_file_does(
    model: Path, pack: Callable[..., Any], tmp_path: Path
) -> None:
    (whole,) = pack("whole", model, "--system", SYSTEM)
    (row,) = pack("chat", model, "--system", SYSTEM, "--split")
    exe, weights = tmp_path / "chat", tmp_path / "chat.weights"
    assert row["weights"] == {"path": str(weights), "size": weights.stat().st_size}
    assert row["size"] == exe.stat().st_size
    assert row["notes"] == ["chat needs chat.weights beside it: pass both on together"]
    assert whole["weights"] is None
    assert not weights.stat().st_mode & 0o111 and exe.stat().st_mode & 0o111
    with zipfile.ZipFile(weights) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["model.gguf", "licenses/model/LICENSE", "manifest.json"]
        assert archive.read("model.gguf") == model.read_bytes()
        assert archive.getinfo("model.gguf").header_offset == 0
    with zipfile.ZipFile(exe) as archive:
        assert "model.gguf" not in archive.namelist()
        assert "system.kv" in archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
    opened = payload.open_payload(weights)
    assert opened.entries["model.gguf"].data == 65536
    assert manifest["weights"] == {
        "file": "chat.weights",
        "size": weights.stat().st_size,
        "sha256": opened.end.comment.decode().rpartition(" ")[2],
        "model": {"size": model.stat().st_size, "sha256": opened.root},
    }
    text = answer(tmp_path / "whole")
    assert answer(exe) == answer(exe, "--no-embedded-kv") == text
    told = json.loads(run(exe, "info", "--json"))
    assert told["system_kv_tokens"] == row["system_kv"]["tokens"]
    assert answer(exe, "-m", weights) == answer(exe, "-m", exe) == text
    assert "Do what is right." in run(exe, "licenses")
    with Server(exe) as server:
        assert b"<html" in server.get("/").body
        usage = server.chat("One, two", max_tokens=2)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= row["system_kv"]["tokens"]


def test_where_the_program_looks(model: Path, pack: Callable[..., Any], tmp_path: Path) -> None:
    pack("chat", model, "--split")
    exe, weights = tmp_path / "chat", tmp_path / "chat.weights"
    text = answer(exe)
    # A link in another folder, a renamed program, both renamed, a program as Windows names it.
    links, both = tmp_path / "links", tmp_path / "both"
    links.mkdir()
    both.mkdir()
    (links / "tool").symlink_to(exe)
    assert answer(links / "tool") == text
    shutil.copy(exe, tmp_path / "renamed")
    assert answer(tmp_path / "renamed") == text
    for name in ("gru\N{LATIN SMALL LETTER SHARP S}.EXE", "v1.5"):
        shutil.copy(exe, both / name)
        shutil.copy(weights, both / f"{name.removesuffix('.EXE')}.weights")
        assert answer(both / name) == text
        assert payload.open_payload(both / name).holder.path.parent == both
    # The weights may be a link, and lie beside a link to the program.
    apart = tmp_path / "apart"
    apart.mkdir()
    shutil.move(weights, apart / "store")
    (links / "chat.weights").symlink_to(apart / "store")
    shutil.copy(exe, links / "chat")
    assert answer(links / "chat") == text
    assert payload.verify(payload.open_payload(links / "chat"))


def test_a_missing_or_foreign_partner_is_said(
    model: Path, pack: Callable[..., Any], tmp_path: Path, run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "stranger"
    folder.mkdir()
    shutil.copy(model.parent / "LICENSE", folder)
    stranger = tiny_model.build("llama", "Q8_0", seed=5).save(folder / "other.gguf")
    pack("chat", model, "--split")
    pack("other", stranger, "--split")
    exe, weights = tmp_path / "chat", tmp_path / "chat.weights"
    good = weights.read_bytes()

    def both(text: str) -> None:
        """What the program and what the builder say, wherever they need the weights."""
        assert text in run(exe, "-p", "x", code=1)
        assert text in run(exe, "verify", code=1)
        assert text in run(tmp_path / "other", "verify", exe, code=1)
        for words in (["verify", exe], ["extract", exe, "-d", tmp_path / "x"],
                      ["build", exe, "-o", tmp_path / "again"],
                      ["repack", exe, "-o", tmp_path / "again"]):  # fmt: skip
            capsys.readouterr()
            assert run_cli(*map(str, words)) == 1, words
            error = capsys.readouterr().err
            assert text in error and error.count("\n") == 1

    weights.unlink()
    both("chat needs chat.weights beside it, which is missing")
    assert run(exe, "--version") and run(exe, "licenses")
    assert answer(exe, "-m", model)  # other weights need no partner
    assert run_cli("inspect", str(exe)) == 0
    assert "which is missing" in capsys.readouterr().out
    weights.write_bytes(good[:-1])
    both("cut off")
    weights.write_bytes(good + b"x")
    both("does not belong to")
    shutil.copy(tmp_path / "other.weights", weights)
    assert weights.stat().st_size == len(good)  # told apart by the hash alone
    both("does not belong to")
    # Not the program's own name, but the recorded one beside it: that one counts.
    shutil.copy(exe, tmp_path / "other2")
    shutil.copy(tmp_path / "other.weights", tmp_path / "other2.weights")
    weights.write_bytes(good)
    assert answer(tmp_path / "other2")


def test_verify_covers_both_files(
    model: Path, pack: Callable[..., Any], tmp_path: Path, run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pack("chat", model, "--split", "--system", SYSTEM)
    exe, weights = tmp_path / "chat", tmp_path / "chat.weights"
    assert f"every byte of {exe} and of {weights} is" in run(exe, "verify")
    assert run(exe, "verify", weights)
    assert run_cli("verify", str(exe), "--json") == 0
    told = json.loads(capsys.readouterr().out)["files"]
    assert told == [{"path": str(p), "verified": p.stat().st_size} for p in (exe, weights)]
    data = payload.open_payload(weights).entries["model.gguf"].data
    raw = {path: path.read_bytes() for path in (exe, weights)}
    page = payload.open_payload(exe).entries["web/index.html"].data
    for spots, named in (
        ({weights: data + 999}, "chat.weights"),
        ({weights: 40}, "chat.weights"),  # the padding before the weights
        ({exe: page}, "index.html"),
        ({exe: page, weights: data + 5}, "; "),
    ):
        for path, at in spots.items():
            damaged = bytearray(raw[path])
            damaged[at] ^= 1
            path.unlink()
            path.write_bytes(damaged)
            path.chmod(0o755)
        assert named in run(exe, "verify", code=1)
        capsys.readouterr()
        assert run_cli("verify", str(exe)) == 1
        error = capsys.readouterr().err
        assert named in error and error.count("\n") == 1
        assert all(path.name in error for path in spots)
        for path in spots:
            path.unlink()
            path.write_bytes(raw[path])
            path.chmod(0o755)


HOSTILE_ROWS: list[Any] = [
    7,
    {},
    {"file": "x.weights", "size": 5},
    {"file": "x.weights", "size": 0, "sha256": "0" * 64},
    {"file": "x.weights", "size": -1, "sha256": "0" * 64},
    *({"file": name, "size": 5, "sha256": "0" * 64}
      for name in ("", "../x", "/etc/passwd", "a/b", "a\\b", "c:x", ".", 9, "x" * 1025)),
]  # fmt: skip


@pytest.mark.parametrize("row", HOSTILE_ROWS, ids=str)
def test_rows_that_lead_elsewhere_are_refused(
    lib: Any, ffi: Any, lp_error: Any, tmp_path: Path, row: Any
) -> None:
    """The manifest's row about the weights may come from anyone; a path is not followed."""
    out = io.BytesIO()
    writer = container._Writer(out, b"\x7fELF" + bytes(100))
    manifest = {"format": 1, "model": "", "weights": row, "entries": [],
                "runtime": {"size": 104, "sha256": "", "skip": []}}  # fmt: skip
    writer.finish(json.dumps(manifest).encode())
    raw = out.getvalue()
    opened, data = ffi.new("lp_container **"), ffi.from_buffer(raw)
    assert lib.lp_container_open(opened, data, len(raw), lp_error) == lib.LP_ERR_FORMAT
    assert ffi.string(lp_error.text).startswith(b'manifest.json: "')
    path = tmp_path / "chat"
    path.write_bytes(raw)
    if isinstance(row, dict):
        with pytest.raises(LlamapackError):
            payload.open_payload(path).holder  # noqa: B018


def test_an_update_of_the_small_part_fits_the_weights_there_are(
    model: Path, pack: Callable[..., Any], tmp_path: Path
) -> None:
    pack("chat", model, "--split")
    before = (tmp_path / "chat.weights").read_bytes()
    folder = tmp_path / "new"
    folder.mkdir()
    pack("new/chat", model, "--split", "--system", SYSTEM, "--name", "Newer", "--arg", "-n 5")
    assert (folder / "chat.weights").read_bytes() == before
    (folder / "chat").replace(tmp_path / "chat")
    assert json.loads(run(tmp_path / "chat", "info", "--json"))["name"] == "Newer"
    # Packed again in place, from itself.
    for command in ("build", "repack"):
        with pytest.raises(AssertionError, match="is the model itself"):
            pack("chat", tmp_path / "chat", "--split", command=command)


def test_several_targets_share_the_weights(
    pack: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_model.build("llama", "F16", seed=3).save(tmp_path / "m.gguf")
    options = ["--quant", "Q8_0", "--target", "linux-x86_64", "--target", "windows-x86_64"]
    rows = pack("chat", source, *options, "--split")
    assert {row["weights"]["path"] for row in rows} == {str(tmp_path / "chat.weights")}
    names = {"m.gguf", "chat.weights", "chat-linux-x86_64", "chat-windows-x86_64.exe"}
    assert {path.name for path in tmp_path.iterdir()} == names
    for row in rows:
        payload.verify(payload.open_payload(Path(row["path"])))
    assert answer(tmp_path / "chat-linux-x86_64")
    # Only the one that would be too large is split; then the weights are named after it.
    monkeypatch.setattr(pe, "max_size", max(row["size"] for row in rows) + 100_000)
    whole, small = pack("part", source, *options)
    assert (whole["weights"], small["weights"]["path"]) == (
        None,
        str(tmp_path / "part-windows-x86_64.weights"),
    )
    whole_file, weights = (
        tmp_path / f"part-{n}" for n in ("linux-x86_64", "windows-x86_64.weights")
    )
    with zipfile.ZipFile(whole_file) as one, zipfile.ZipFile(weights) as other:
        assert one.read("model.gguf") == other.read("model.gguf")


# --- how large ---------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [False, True])
def test_sizes_are_known_to_the_byte(model: Path, tmp_path: Path, alone: bool) -> None:
    """Wherever the runtime ends, with and without what is evaluated, and over several chunks."""
    weights = container.Weights(model, 0, model.stat().st_size)
    parts = [Part("licenses/model/L", b"text"), Part("web/a", b"a" * 999, deflate=True)]
    target = find_target("linux-x86_64")
    for end in (4, 65536 - 200, 65536 - 46, 65530, 70_000):
        runtime = b"\x7fELF" + bytes(end)
        for kv in (None, lambda *_: b"prepared" * 77):
            out = io.BytesIO()
            facts = Facts(name="x", system_kv={"tokens": 3} if kv else None)
            if alone:
                partner = container.write_weights(io.BytesIO(), "x.weights", parts, weights)
                assert container.weights_size(parts, weights).size == partner.size
                facts = Facts(name="x", system_kv=facts.system_kv, partner=partner)
            source = None if alone else weights
            container.write_container(out, runtime, target, parts, source, facts, None, kv)
            told = container.container_size(runtime, target, parts, source, facts, kv)
            assert told == len(out.getvalue())


class Pretended:
    """Weights of a size that nobody wants to write."""

    def __init__(self, size: int) -> None:
        self.size = size

    def pieces(self) -> Iterator[bytes]:
        raise AssertionError("the weights were read")


def test_the_last_byte_decides(
    model: Path, pack: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pe.max_size == 2**32 - 1  # Windows starts that, and not one byte more
    runtime, target = b"MZ" + bytes(5000), find_target("linux-x86_64")
    base = container.container_size(runtime, target, [], Pretended(4 << 30), Facts()) - (4 << 30)
    for total in (2**32 - 1, 2**32):
        size = total - base
        told = container.container_size(runtime, target, [], Pretended(size), Facts())
        assert told - size < base + 200  # no chunk more or less
        assert (
            told == container.container_size(runtime, target, [], Pretended(size - 1), Facts()) + 1
        )
    options = ("--target", "windows-x86_64", "--system", SYSTEM)
    (row,) = pack("chat", model, *options)
    assert row["weights"] is None
    monkeypatch.setattr(pe, "max_size", row["size"])
    (same,) = pack("same", model, *options)
    assert (same["weights"], same["size"]) == (None, row["size"])
    monkeypatch.setattr(pe, "max_size", row["size"] - 1)
    (pair,) = pack("pair", model, *options)
    assert pair["weights"]["path"] == str(tmp_path / "pair.weights")
    assert "the system starts no program of 4 GiB or more" in pair["notes"][0]
    monkeypatch.setattr(pe, "max_size", 1 << 20)
    with pytest.raises(AssertionError, match=r"without the weights.*--no-embed-kv"):
        pack("none", model, *options)
    assert not list(tmp_path.glob("none*"))


def with_gap(source: Path, out: Path, gap: int) -> Path:
    """The same model; its last tensor lies behind a hole. (A GGUF says where each tensor lies.)"""
    found = read_gguf(source)
    last = max(found.tensors, key=lambda tensor: tensor.offset)
    raw = bytearray(source.read_bytes())
    data = bytes(raw[last.offset : last.offset + last.size])
    place, length = last.row
    struct.pack_into("<Q", raw, place + length - 8, last.offset - found.data_offset + gap)
    with out.open("wb") as file:
        file.write(raw[: last.offset])
        file.seek(last.offset + gap)
        file.write(data)
    return out


@pytest.mark.wine
def test_five_gib(model: Path, tmp_path: Path, tool: Callable[[str], str]) -> None:
    """Linux runs one file, Windows gets two; both read weights behind 5 GiB, and answer the same
    as the model without the hole. What is written has the hole, too."""
    large = with_gap(model, tmp_path / "large.gguf", 5 << 30)
    folder = tmp_path / "out"
    folder.mkdir()
    targets = ["linux-x86_64", "windows-x86_64"]
    linux, windows = build.build(plan.make_plan(str(large), folder / "chat", targets))
    large.unlink()
    assert (linux.weights, linux.size > 5 << 30) == (None, True)
    assert windows.size < 4 << 20 and windows.weights is not None
    assert windows.weights_size == windows.weights.stat().st_size > 5 << 30
    assert windows.weights.stat().st_blocks * 512 < 1 << 30
    (small,) = build.build(plan.make_plan(str(model), tmp_path / "small", targets[:1]))
    text = answer(small.path)
    assert answer(linux.path) == text
    env = {**os.environ, "WINEDEBUG": "-all"}
    env.setdefault("WINEPREFIX", str(toolchain.cache_dir() / "wine"))
    words = [tool("wine"), str(windows.path), "-p", "One, two", "-n", "12", "--temp", "0"]
    done = subprocess.run(words, env=env, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().replace("\r", "") == text
    windows.weights.unlink()
    done = subprocess.run(words, env=env, capture_output=True, timeout=300, check=False)
    assert done.returncode == 1
    assert b"chat-windows-x86_64.exe needs chat-windows-x86_64.weights beside it" in done.stderr


# --- whole or not at all -----------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["write_weights", "write_container"])
def test_a_failure_leaves_both_as_they_were(
    model: Path, pack: Callable[..., Any], tmp_path: Path, run_cli: Cli, failing: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real = getattr(container, failing)

    def full(*args: Any, **options: Any) -> None:
        real(*args, **options)
        raise OSError(28, "No space left on device")

    old = {tmp_path / "chat": b"old program", tmp_path / "chat.weights": b"old weights"}
    for path, data in old.items():
        path.write_bytes(data)
    with monkeypatch.context() as patched:
        patched.setattr(container, failing, full)
        capsys.readouterr()
        assert run_cli("build", str(model), "-o", str(tmp_path / "chat"), "--split") == 1
        name = "chat.weights" if failing == "write_weights" else "chat"
        error = capsys.readouterr().err.splitlines()[-1]
        assert error == f"error: the disk is full: cannot write {tmp_path / name}"
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old
    for path in old:
        path.unlink()


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_renames_are_taken_back(
    tmp_path: Path, fails_at: int, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th of three fails; "b" is new, the others replace something."""
    old = {"a": b"old a", "c": b"old c"}
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    real, seen = os.replace, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal seen
        if not Path(target).name.startswith("."):
            seen += 1
            if seen == fails_at:
                raise PermissionError(13, "Permission denied")
        real(source, target)

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    wanted = [(tmp_path / name, 0o644) for name in "abc"]
    with (
        monkeypatch.context() as patched,
        pytest.raises(LlamapackError, match=f"cannot write {tmp_path / 'abc'[fails_at - 1]}"),
    ):
        patched.setattr(os, "replace", replace)
        with atomic.atomic_files(wanted) as files:
            for file in files:
                file.write(b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
    with atomic.atomic_files(wanted) as files:
        for file in files:
            file.write(b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(
        "abc", b"new"
    )


def test_options_that_need_weights(run_cli: Cli, tmp_path: Path, capsys: Any) -> None:
    for option in (["--split"], ["--max-size", "1GB"]):
        assert run_cli("build", "--no-model", "-o", str(tmp_path / "chat"), *option) == 2
        assert f"nothing to {option[0]}" in capsys.readouterr().err


# --- file systems ------------------------------------------------------------------------------


def test_file_systems_without_large_files(
    model: Path, pack: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = pack("chat", model)
    (pair,) = pack("pair", model, "--split")
    assert sizes.file_limit(tmp_path) is None
    limit = row["size"]
    monkeypatch.setattr(sizes, "file_limit", lambda _: limit)
    pack("again", model)
    limit = row["size"] - 1
    with pytest.raises(AssertionError, match=r"is on a FAT file system.*; --split writes"):
        pack("none", model)
    assert not (tmp_path / "none").exists()
    pack("split", model, "--split")
    limit = pair["weights"]["size"] - 1
    with pytest.raises(AssertionError, match=r"cannot write .*none\.weights.*--max-size"):
        pack("none", model, "--split")
    assert not list(tmp_path.glob("*none*"))


def test_fat_is_told_by_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "linux":
        assert sizes._linux_magic(Path("/proc")) == 0x9FA0
        monkeypatch.setattr(sizes, "_linux_magic", lambda _: 0x4D44)
        assert sizes.file_limit(tmp_path) == 2**32 - 1
    assert sizes.file_limit(tmp_path / "missing") in (None, 2**32 - 1)


def test_a_program_cut_off_by_fat_says_so(
    lib: Any, ffi: Any, lp_error: Any, tmp_path: Path
) -> None:
    path = tmp_path / "cut"
    with path.open("wb") as file:
        file.write(b"\x7fELF")
        file.truncate(2**32 - 1)
    mapping, out = ffi.new("lp_map *"), ffi.new("lp_container **")
    assert lib.lp_map_open(mapping, os.fsencode(path), lp_error) == lib.LP_OK
    assert lib.lp_container_open(out, mapping.data, mapping.size, lp_error) == lib.LP_ERR_FORMAT
    lib.lp_map_close(mapping)
    assert b"FAT32" in ffi.string(lp_error.text)
    with pytest.raises(LlamapackError, match="FAT32"):
        payload.open_payload(path)
