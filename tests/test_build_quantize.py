"""`llamapack build --quant`: the file that comes out, what is refused, and that nothing but the
model decides its bytes.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_model
from gguf import GGMLQuantizationType as QType
from llamapack import mixes, payload, quantize
from llamapack.gguf import TYPES, Gguf, Tensor, read_gguf
from llamapack.sources import find_model

Cli = Callable[..., int]
FILE_TYPES = {"Q4_0": 2, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "Q8_0": 7}
# The largest error of each type, relative to the weights, for weights that are near Gaussian.
ERRORS = {"Q4_0": 0.09, "Q5_0": 0.045, "Q5_1": 0.04, "Q8_0": 0.006, "Q4_K": 0.075, "Q5_K": 0.037,
          "Q6_K": 0.018}  # fmt: skip


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama in F16."""
    return tiny_model.build("llama", "F16").save(tmp_path_factory.mktemp("half") / "half.gguf")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "chat"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def floats(tensor: gguf.ReaderTensor) -> np.ndarray:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


def contents(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}


# --- what comes out --------------------------------------------------------------------------


@pytest.mark.parametrize("mix", FILE_TYPES)
def test_the_whole_file(
    mix: str, half: Path, out: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read by the gguf package: keys kept, types by the rule, values near; then it chats."""
    assert run_cli("build", str(half), "-o", str(out), "--quant", mix.lower(), "--json") == 0
    row = json.loads(capsys.readouterr().out)["outputs"][0]
    assert row["quant"] == mix
    assert run_cli("extract", str(out), "-d", str(out.parent)) == 0
    file = out.parent / "model.gguf"
    assert row["model_size"] == file.stat().st_size
    old, new = gguf.GGUFReader(half), gguf.GGUFReader(file)
    stated = {"general.file_type": FILE_TYPES[mix], "general.quantization_version": 2}
    assert contents(new) == contents(old) | stated
    bulk = mix.removesuffix("_M")
    # Two layers: the first eighth is none of them, the last begins with the second.
    better = "Q6_K" if mix.endswith("_M") else bulk
    expected = {"output.weight": "Q8_0" if mix == "Q8_0" else "Q6_K"}
    expected |= dict.fromkeys(("blk.1.attn_v.weight", "blk.1.ffn_down.weight"), better)
    end = new.data_offset
    for before, after in zip(old.tensors, new.tensors, strict=True):
        assert (after.name, list(after.shape)) == (before.name, list(before.shape))
        # As llama.cpp wants it: the sum of what is before, without gaps.
        assert after.data_offset == end
        end += -(-after.n_bytes // 32) * 32
        if len(before.shape) == 1:
            assert after.tensor_type == before.tensor_type == QType.F32
            assert np.array_equal(after.data, before.data)
            continue
        assert after.tensor_type.name == expected.get(after.name, bulk)
        x = floats(before)
        error = np.sqrt(((floats(after) - x) ** 2).mean() / (x**2).mean())
        assert 0 < error < ERRORS[after.tensor_type.name]
    assert end == file.stat().st_size
    run = subprocess.run(
        [out, "-p", "Hello", "-n", "4", "--temp", "0"], capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_what_the_file_says_of_it(
    half: Path, out: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("build", str(half), "-o", str(out), "--quant", "Q8_0") == 0
    assert run_cli("verify", str(out)) == 0
    with zipfile.ZipFile(out) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    before = read_gguf(half).type_counts()
    assert manifest["quantized"] == {"type": "Q8_0", "from": before}
    assert list(before) == ["F16", "F32"]
    capsys.readouterr()
    assert run_cli("inspect", str(out)) == 0
    assert "to Q8_0 from F16, F32" in capsys.readouterr().out
    assert run_cli("inspect", str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out)["quantized"]["type"] == "Q8_0"
    # A build without --quant says nothing.
    assert run_cli("build", str(half), "-o", str(out)) == 0
    with zipfile.ZipFile(out) as archive:
        assert "quantized" not in json.loads(archive.read("manifest.json"))


def test_keys_that_are_there_are_set_anew(tmp_path: Path, out: Path, run_cli: Cli) -> None:
    tiny = tiny_model.build("qwen2", "BF16", tied=True)
    tiny.kv["general.file_type"] = (32, gguf.GGUFValueType.UINT32)
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, tiny.arch)
    writer.add_custom_alignment(64)
    for key, entry in tiny.kv.items():
        writer.add_key_value(key, *entry)
    for name, tensor in tiny.tensors.items():
        writer.add_tensor(name, tensor.data, raw_dtype=tensor.type if tensor.raw else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert run_cli("build", str(path), "-o", str(out), "--quant", "Q4_K_M") == 0
    assert run_cli("extract", str(out), "-d", str(out.parent)) == 0
    new = gguf.GGUFReader(out.parent / "model.gguf")
    assert list(contents(new)) == [*contents(gguf.GGUFReader(path)), "general.quantization_version"]
    assert contents(new)["general.file_type"] == 15
    # The embeddings serve as the output matrix, so they get its type.
    kinds = {t.name: t.tensor_type.name for t in new.tensors}
    assert kinds["token_embd.weight"] == "Q6_K"
    assert all(t.data_offset % 64 == 0 for t in new.tensors)


# --- which type a tensor gets ----------------------------------------------------------------


def model_of(shapes: dict[str, tuple[int, ...]], layers: int) -> Gguf:
    tensors = [Tensor(name, shape, TYPES[1], 0, 0) for name, shape in shapes.items()]
    values: dict[str, int | float | bool | str] = {
        "general.architecture": "llama",
        "llama.block_count": layers,
    }
    return Gguf(values=values, tensors=tensors)


def test_layers_that_get_more_bits() -> None:
    """As in the published Q4_K_M files of Llama 3 8B: 32 layers."""
    shapes = {f"blk.{n}.{m}.weight": (4096, 1024) for n in range(32) for m in ("attn_v", "attn_q")}
    kinds = mixes.types_of(mixes.find_mix("Q4_K_M"), model_of(shapes, 32))
    more = [name for name, kind in zip(shapes, kinds, strict=True) if kind.name == "Q6_K"]
    layers = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert more == [f"blk.{n}.attn_v.weight" for n in layers]


@pytest.mark.parametrize(
    ("name", "shape", "types"),  # of Q4_0, Q4_K_M, Q5_K_M, Q6_K, Q8_0
    [
        ("token_embd.weight", (256, 99), "Q4_0 Q4_K Q5_K Q6_K Q8_0"),
        ("output.weight", (256, 99), "Q6_K Q6_K Q6_K Q6_K Q8_0"),
        ("output.weight", (576, 99), "Q8_0 Q8_0 Q8_0 Q8_0 Q8_0"),
        ("blk.1.attn_q.weight", (896, 64), "Q4_0 Q5_0 Q5_1 Q8_0 Q8_0"),
        ("blk.1.ffn_down.weight", (512, 64), "Q4_0 Q4_K Q5_K Q6_K Q8_0"),
        ("blk.2.ffn_down.weight", (512, 64), "Q4_0 Q6_K Q6_K Q6_K Q8_0"),
        ("blk.2.ffn_down.weight", (544, 64), "Q4_0 Q8_0 Q8_0 Q8_0 Q8_0"),
        ("blk.1.attn_q.weight", (100, 64), "F16 F16 F16 F16 F16"),
        ("blk.1.attn_norm.weight", (256,), "F16 F16 F16 F16 F16"),
        ("blk.1.attn_q_norm.weight", (256, 8), "F16 F16 F16 F16 F16"),
        ("blk.1.attn_q.bias", (256,), "F16 F16 F16 F16 F16"),
        ("rope_freqs.weight", (64,), "F16 F16 F16 F16 F16"),
    ],
)
def test_types_by_name_and_shape(name: str, shape: tuple[int, ...], types: str) -> None:
    gguf_file = model_of({name: shape} | ({} if "output" in name else {"output.weight": shape}), 7)
    got = [mixes.types_of(mix, gguf_file)[0].name for mix in mixes.MIXES]
    assert got == types.split()


# --- what is refused, and what is said -------------------------------------------------------


def error_of(run_cli: Cli, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    code = run_cli("build", *args)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return code, captured.err


def test_refused_in_one_line(
    smollm2: Path, out: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ["-o", str(out), "--quant"]
    code, line = error_of(run_cli, capsys, "smollm2", *to, "Q4_K_M")
    assert code == 1
    # What llama.cpp's own quantizer makes of this model, and what it is now.
    assert "as Q4_K_M it would not be smaller (100.6 MiB) than it is, mostly Q4_1 (93" in line
    assert error_of(run_cli, capsys, "smollm2", *to, "Q8_0")[0] == 1
    code, line = error_of(run_cli, capsys, "smollm2", *to, "Q3_K_M")
    assert code == 2
    assert "--quant Q3_K_M: no such type (there are: Q4_0, Q4_K_M," in line
    code, line = error_of(run_cli, capsys, "--no-model", *to, "Q8_0")
    assert code == 2
    assert names(out.parent) == []


def test_twice_quantized_is_said_and_nothing_grows(
    tmp_path: Path, out: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_model.build("llama", "Q8_0", embd_type="Q4_0").save(tmp_path / "m.gguf")
    assert run_cli("build", str(path), "-o", str(out), "--quant", "Q4_K_M", "--json") == 0
    captured = capsys.readouterr()
    warning = "the model is quantized already (Q8_0): to Q4_K_M it loses quality a second time"
    assert f"warning: {warning}" in captured.err
    assert any(w.startswith(warning) for w in json.loads(captured.out)["outputs"][0]["warnings"])
    entry = payload.open_payload(out).model
    assert entry is not None
    kinds = {t.name: t.type.name for t in read_gguf(out, entry.data, entry.stored).tensors}
    # Q4_0 embeddings and output stay what they are: another type would lose and not save.
    assert kinds["token_embd.weight"] == kinds["output.weight"] == "Q4_0"
    assert kinds["blk.0.attn_q.weight"] == "Q4_K"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.nan, "is infinite or not a number"),
        (-np.inf, "is infinite"),
        (1e30, "is too large for Q6_K"),
    ],
)
def test_weights_that_are_no_numbers(
    value: float,
    why: str,
    tmp_path: Path,
    out: Path,
    run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = tiny_model.build("llama", "F32")
    tiny.tensors["blk.1.ffn_up.weight"].data[3, 5] = value
    path = tiny.save(tmp_path / "m.gguf")
    out.write_bytes(b"the old one")
    code, line = error_of(run_cli, capsys, str(path), "-o", str(out), "--quant", "Q6_K")
    assert code == 1
    assert f"tensor blk.1.ffn_up.weight: element {3 * 256 + 5} {why}" in line
    assert names(out.parent) == ["chat"]
    assert out.read_bytes() == b"the old one"


def test_a_model_that_changes_meanwhile(
    half: Path,
    tmp_path: Path,
    out: Path,
    run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path(shutil.copy(half, tmp_path / "m.gguf"))
    real = quantize.Quantized._header

    damages: list[Callable[[], object]] = [
        lambda: path.write_bytes(path.read_bytes()),
        lambda: os.truncate(path, 200_000),
    ]

    def header(self: quantize.Quantized, file: Any) -> Iterator[bytes]:
        yield from real(self, file)
        damages.pop(0)()

    monkeypatch.setattr(quantize.Quantized, "_header", header)
    while damages:
        _, line = error_of(run_cli, capsys, str(path), "-o", str(out), "--quant", "Q8_0")
        assert "changed while it was copied; build again" in line
        assert names(out.parent) == []


def test_space_is_checked_for_the_new_size(
    half: Path,
    out: Path,
    run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llamapack import plan

    size = quantize.quantized(find_model(str(half)), "Q4_0").size
    free = plan.RUNTIME_ROOM + size

    def usage(folder: Path) -> Any:
        return shutil._ntuple_diskusage(1 << 40, 0, free)  # type: ignore[attr-defined]

    monkeypatch.setattr("shutil.disk_usage", usage)
    assert run_cli("build", str(half), "-o", str(out), "--quant", "Q4_0") == 0
    free -= 1000
    assert run_cli("build", str(half), "-o", str(out), "--quant", "Q4_0") == 1
    assert "not enough space" in capsys.readouterr().err


# --- the same bytes --------------------------------------------------------------------------


def test_threads_and_pieces_do_not_matter(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = quantize.quantized(find_model(str(half)), "Q4_K_M")
    made.threads = 1
    whole = b"".join(made.pieces())
    assert len(whole) == made.size
    monkeypatch.setattr(quantize, "_PIECE", 4096)
    for threads in (2, 5):
        made.threads = threads
        assert b"".join(made.pieces()) == whole


def test_a_stopped_writer_stops_the_threads(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    before = threading.active_count()
    monkeypatch.setattr(quantize, "_PIECE", 4096)
    pieces = quantize.quantized(find_model(str(half)), "Q4_K_M").pieces()
    for _ in range(200):
        next(pieces)
    assert threading.active_count() > before
    pieces.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_an_executable_as_the_source_and_several_targets(
    half: Path, out: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_cli("build", str(half), "-o", str(out)) == 0
    want = b"".join(quantize.quantized(find_model(str(half)), "Q5_K_M").pieces())
    calls = []
    real = quantize.Quantized.pieces

    def pieces(self: quantize.Quantized) -> Iterator[bytes]:
        calls.append(self)
        yield from real(self)

    monkeypatch.setattr(quantize.Quantized, "pieces", pieces)
    both = ["--target", "linux-x86_64", "--target", "windows-x86_64"]
    again = out.with_name("again")
    assert run_cli("build", str(out), "-o", str(again), "--quant", "Q5_K_M", *both) == 0
    assert len(calls) == 1, "quantized once for all targets"
    for name in ("again-linux-x86_64", "again-windows-x86_64.exe"):
        with zipfile.ZipFile(out.with_name(name)) as archive:
            assert archive.read("model.gguf") == want
            assert json.loads(archive.read("manifest.json"))["quantized"]["type"] == "Q5_K_M"
        payload.verify(payload.open_payload(out.with_name(name)))


def test_the_library_of_quantizers_is_small_and_executables_have_none(
    half: Path, out: Path
) -> None:
    from llamapack import native, toolchain
    from llamapack.targets import TARGETS

    assert native.load_quantizers().path.stat().st_size < 200_000
    tree = toolchain.find_tree()
    for target in TARGETS:
        sources = toolchain.sources_for(tree, target.arch, windows=target.windows)
        assert sources
        assert not any("quantize" in source.name for source in sources)


def test_help_lists_the_types() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llamapack", "build", "--help"],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    for mix in mixes.MIXES:
        assert mix.name in done.stdout
